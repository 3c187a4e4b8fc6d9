"""Controls: what a fit gains from as many extra pictures that no model generated, or that say nothing of their class.

Each takes the places of the recipe's pictures, row by row, in the same fit: the same steps, start and selection. A
recipe that does not beat the best of them has not shown that its pictures help.
"""

# H height, W width, C colour channels, M rows or colours, N images of the training set, L classes

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from raygen.errors import DataError
from raygen.seeding import row_seed

ControlKind = Literal["duplicate", "hole", "flat", "paste", "shuffled", "reweight"]
# Those that runs have had from the first: they are part of what a run's folder is known by.
FIRST_KINDS: tuple[ControlKind, ...] = ("duplicate", "hole", "flat")
# What came later, and is fitted and evaluated beside them, so that folders that were begun before go on.
LATER_KINDS: tuple[ControlKind, ...] = ("paste", "shuffled", "reweight")
CONTROL_KINDS: tuple[ControlKind, ...] = (*FIRST_KINDS, *LATER_KINDS)

# The grey that is 0 after scaling to [-1, 1]: 127.5, rounded up.
GREY = np.full(3, 128, dtype=np.uint8)


def control_picture(
    kind: ControlKind, image_HWC: np.ndarray, repaint_HW: np.ndarray, *, colour: np.ndarray | None
) -> np.ndarray:
    """The picture that stands for a generated one in the first three controls, (H, W, 3) uint8; a new array.

    Args:
        kind: "duplicate": the source itself; "hole": its repaint region grey; "flat": its repaint region in a colour.
        image_HWC: The source, (H, W, 3) uint8.
        repaint_HW: Its repaint mask, (H, W) bool.
        colour: RGB, (3,) uint8, for "flat"; the others ignore it.
    """
    picture_HWC = image_HWC.copy()
    if kind == "hole":
        picture_HWC[repaint_HW] = GREY
    elif kind == "flat":
        assert colour is not None, "a flat control needs a colour"
        picture_HWC[repaint_HW] = colour
    return picture_HWC


def control_label(kind: ControlKind, *, source_label: int, target_label: int) -> int:
    """Label of a control's row: a plain copy keeps its own, the others claim the target's ("shuffled" exchanges it)."""
    return source_label if kind == "duplicate" else target_label


def object_colours(pictures: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean colour of each picture's object, (M, 3) uint8.

    Args:
        pictures: Pairs of a picture of the target class, (H, W, 3) uint8, and the mask of its object (its repaint
            mask where the dataset ships no object mask), (H, W) bool. Pairs whose mask is empty are left out.

    Raises:
        DataError: No pair is left.
    """
    means = [image_HWC[object_HW].mean(axis=0) for image_HWC, object_HW in pictures if object_HW.any()]
    if not means:
        raise DataError("no picture of the target class has an object mask to take a colour from for control_flat")
    return np.round(np.stack(means)).astype(np.uint8)


def draw_colour(colours_MC: np.ndarray, *, run_seed: int, key: str) -> np.ndarray:
    """One of the target class's object colours, (3,) uint8; depends on the run's seed and the plan row's key only."""
    rng = np.random.default_rng(row_seed(run_seed, f"control_flat/{key}"))
    colour_C: np.ndarray = colours_MC[rng.integers(len(colours_MC))]
    return colour_C


def shuffled_labels(label_M: np.ndarray, *, run_seed: int, roles: Sequence[str] | None = None) -> np.ndarray:
    """The labels of all rows, dealt out anew so that they say nothing of what the pictures show, (M,) int64.

    A permutation that is drawn blindly leaves some pictures of a class with their own label by chance, more or fewer
    than others have it; one that leaves none says just what a picture is not, and with two classes that tells all. Here
    the pictures of each class get the labels of all classes in the shares in which these occur (but for a rounding of
    less than 1): then label and class are independent. Which picture gets which is drawn from the seed.

    Args:
        label_M: Labels, (M,) int.
        run_seed: The run's seed.
        roles: Each row's role, where rows have any: labels are dealt out among those of one role.
    """
    label_M = np.asarray(label_M, dtype=np.int64)
    role_M = np.zeros(len(label_M), dtype=np.int64) if roles is None else np.unique(roles, return_inverse=True)[1]
    rng, found_M = np.random.default_rng(row_seed(run_seed, "control_shuffled")), label_M.copy()
    for role in np.unique(role_M):
        rows = rng.permutation(np.flatnonzero(role_M == role))
        rows = rows[np.argsort(label_M[rows], kind="stable")]  # class by class, in an order that is drawn
        counts_L = np.bincount(label_M[rows])
        # Each label at even distances: any stretch of rows, and so each class, holds its share of it.
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts_L if count])
        dealt = np.repeat(np.arange(len(counts_L)), counts_L)[np.argsort(places, kind="stable")]
        found_M[rows] = dealt
    return found_M


def minority_rows(target_M: np.ndarray, label_N: np.ndarray, attribute_N: np.ndarray, *, run_seed: int) -> np.ndarray:
    """For each row a training image of the target class's rarest group, as its position, (M,) int64.

    The images of a group are taken in turn, in an order of the seed: each as often as any other, but for one.

    Args:
        target_M: Target classes, (M,) int; each has training images.
        label_N: Classes of the training images, (N,) int.
        attribute_N: Their attributes, (N,) int.
        run_seed: The run's seed.
    """
    found_M = np.empty(len(target_M), dtype=np.int64)
    for label in np.unique(target_M):
        counts_A = np.bincount(attribute_N[label_N == label])
        rarest = min(np.flatnonzero(counts_A).tolist(), key=lambda attribute: counts_A[attribute])
        group = np.flatnonzero((label_N == label) & (attribute_N == rarest))
        rng = np.random.default_rng(row_seed(run_seed, f"control_reweight/{label}"))
        rows = np.flatnonzero(target_M == label)
        found_M[rows] = np.resize(rng.permutation(group), len(rows))
    return found_M
