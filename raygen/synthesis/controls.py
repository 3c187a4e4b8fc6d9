"""Controls: what a fit gains from the same number of extra pictures that no model generated.

Each is made from the same planned sources as the recipe's pictures. A recipe that does not beat "flat" has not shown
that its inpainter helps.
"""

# H height, W width, C colour channels, M colours

from collections.abc import Iterable
from typing import Literal

import numpy as np

from raygen.errors import DataError
from raygen.seeding import row_seed

ControlKind = Literal["duplicate", "hole", "flat"]
CONTROL_KINDS: tuple[ControlKind, ...] = ("duplicate", "hole", "flat")

# The grey that is 0 after scaling to [-1, 1]: 127.5, rounded up.
GREY = np.full(3, 128, dtype=np.uint8)


def control_picture(
    kind: ControlKind, image_HWC: np.ndarray, repaint_HW: np.ndarray, *, colour: np.ndarray | None
) -> np.ndarray:
    """The picture that stands for a generated one, (H, W, 3) uint8; a new array.

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
    """Label of a control: a plain copy keeps its own, the others claim the target's."""
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
