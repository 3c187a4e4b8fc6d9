"""Reading pictures with their object masks, and filling copies of them on the way into a batch.

What a copy gets depends on its own seed, which is drawn from the fit's seed, the epoch, which picture it is and how
often it came before: not on its batch, who reads it, or how many workers there are. A copy is varied (mirrored, moved,
cropped) as its picture is.
"""

# N own images, M draws of an epoch, B draws of a batch, T side of the whole picture's square

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from raygen.algorithms.augmenting import occurrences_before
from raygen.algorithms.pictures import Pictures
from raygen.errors import DataError, RowError
from raygen.inpainters.fills import Fill, Infilling, Role, Shape, filled, region
from raygen.seeding import row_seed

# Pictures of another class that are looked at for one whose mask can be used.
ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Draws:
    """Some draws of an epoch.

    Attributes:
        positions_B: Which images, (B,) int.
        seeds_B: Seed of what each copy gets, (B,) int64.
    """

    positions_B: np.ndarray
    seeds_B: np.ndarray


@dataclass(frozen=True, slots=True)
class ObjectMasks:
    """Object masks of a set's own images.

    Attributes:
        pictures: Grey pictures at the classifier's size; what is not black is object, since a mask is brought there as
            its picture is, bilinearly (authors' code: any pixel that is not zero).
        row_N: Which of them each image has, (N,) int; -1 where it has none.
    """

    pictures: Pictures
    row_N: np.ndarray

    def read(self, positions: np.ndarray) -> np.ndarray:
        """Masks, (B, T, T) bool; nothing is selected where there is none."""
        rows = np.where(positions < len(self.row_N), self.row_N[np.minimum(positions, len(self.row_N) - 1)], -1)
        masks_BTT = self.pictures.read(np.maximum(rows, 0))[..., 0] > 0
        masks_BTT[rows < 0] = False
        return masks_BTT


@dataclass(frozen=True)
class CopyReader:
    """Pictures with their masks as a fourth channel, and filled copies of them.

    Args:
        images: Reads pictures by position, (B, T, T, 3) uint8.
        masks: Their object masks.
        label_N: Classes of the set's own images, (N,) int.
        infilling: What copies are made; None: none.
    """

    images: Callable[[np.ndarray], torch.Tensor]
    masks: ObjectMasks
    label_N: np.ndarray
    infilling: Infilling | None

    def __call__(self, draws: Draws) -> torch.Tensor:
        """The pictures of the draws, then copies of all of them for each fill, ((1 + copies) * B, T, T, 4) uint8.

        A copy that cannot be made is its picture, and its mask selects nothing.
        """
        pictures_BTTC = self.images(draws.positions_B).numpy()
        masks_BTT = self.masks.read(draws.positions_B)
        parts = [_with_mask(pictures_BTTC, masks_BTT)]
        for role, value, shape in fills_of(self.infilling):
            copies_BTTC, made_BTT = pictures_BTTC.copy(), masks_BTT.copy()
            for i, seed in enumerate(draws.seeds_B.tolist()):
                rng = np.random.default_rng(row_seed(seed, role))
                label = self._label(int(draws.positions_B[i]))
                try:
                    repaint_TT = region(masks_BTT[i], role, shape)
                    copies_BTTC[i] = filled(value, pictures_BTTC[i], repaint_TT, rng=rng, other=_Other(self, label))
                except RowError:
                    made_BTT[i] = False
            parts.append(_with_mask(copies_BTTC, made_BTT))
        return torch.from_numpy(np.concatenate(parts))

    def _label(self, position: int) -> int:
        return int(self.label_N[position]) if position < len(self.label_N) else -1


@dataclass(frozen=True)
class _Other:
    """Draws a picture of another class than a label's.

    Differs: of all training images. The authors take one of the batch, and grey where that has one class only.
    """

    reader: CopyReader
    label: int

    def __call__(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        others = np.flatnonzero(self.reader.label_N != self.label)
        for _ in range(ATTEMPTS if len(others) else 0):
            position_1 = others[rng.integers(len(others), size=1)]
            mask_TT = self.reader.masks.read(position_1)[0]
            if mask_TT.any():
                return self.reader.images(position_1).numpy()[0], mask_TT
        raise RowError("no picture of another class has an object mask")


def fills_of(infilling: Infilling | None) -> list[tuple[Role, Fill, Shape]]:
    """The copies that are made when pictures are read: all but "inpaint", which is a model's, and "fgsm"."""
    found: list[tuple[Role, Fill, Shape]] = []
    if infilling is None:
        return found
    without, alone = infilling.counterfactual, infilling.factual
    if without is not None and without != "inpaint":
        found.append(("counterfactual", without, infilling.counterfactual_region))
    if alone is not None and alone != "fgsm":
        found.append(("factual", alone, infilling.factual_region))
    return found


def copy_seeds(position_M: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Seed of each draw's copies, (M,) int64."""
    numbers = zip(occurrences_before(position_M).tolist(), position_M.tolist(), strict=True)
    found = [row_seed(seed, f"infill/{epoch}/{number}/{position}") for number, position in numbers]
    return np.array(found, dtype=np.int64)


def check_infilling(infilling: Infilling, label_N: np.ndarray) -> None:
    """Checks that copies can be made of a training set.

    Raises:
        DataError: The background of another class is asked for, and there is one class.
    """
    if infilling.factual == "mixed_rand" and len(np.unique(label_N)) < 2:
        raise DataError(
            "synthesis.factual is mixed_rand, which takes the background of a picture of another class, and all "
            "training images are of one; take random or shuffle"
        )


def _with_mask(images_BTTC: np.ndarray, masks_BTT: np.ndarray) -> np.ndarray:
    return np.concatenate([images_BTTC, masks_BTT[..., None].astype(np.uint8) * 255], axis=3)
