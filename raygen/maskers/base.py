"""What maskers have in common: the base of their configs, and what they give."""

# H height, W width

from dataclasses import dataclass

import numpy as np

from raygen.config import Strict


class MaskerBase(Strict):
    """Base of every masker's config.

    Attributes:
        name: That of the registry.
    """

    name: str


@dataclass(frozen=True, slots=True)
class Repaint:
    """The masks of one picture.

    Attributes:
        mask_HW: True = generated anew, (H, W) bool.
        object_HW: Where the masker takes the object to be, before it is grown, (H, W) bool; None where the masker
            looks for something else.
    """

    mask_HW: np.ndarray
    object_HW: np.ndarray | None = None


def overlap(found_HW: np.ndarray, true_HW: np.ndarray) -> float | None:
    """Intersection over union of two masks; None where both are empty or their sizes differ."""
    if found_HW.shape != true_HW.shape or not (found_HW | true_HW).any():
        return None
    return float((found_HW & true_HW).sum() / (found_HW | true_HW).sum())
