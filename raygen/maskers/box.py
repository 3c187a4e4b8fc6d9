"""Repaint masks that are bounding boxes of the dataset's object masks: no silhouette leaks the class.

Chang et al. 2021 (arXiv 2106.01127) repaint the object's bounding rectangle in their counterfactual pictures.
"""

# H height, W width

from typing import Literal

import numpy as np
from pydantic import Field

from raygen.maskers.base import MaskerBase, Repaint
from raygen.maskers.truth import ObjectMasker


class BoxConfig(MaskerBase):
    """Repaint the object's bounding box.

    Attributes:
        dilation_px: Pixels by which each side is moved outwards, up to the picture's edge.
    """

    name: Literal["box"] = "box"
    dilation_px: int = Field(8, ge=0)


class BoxMasker(ObjectMasker):
    """Repaint = bounding box of the object mask, grown."""

    def repaint(self, object_HW: np.ndarray) -> Repaint:
        """The box, and the object's box."""
        box_HW = bounding_box(object_HW, margin_px=self.dilation_px)
        return Repaint(box_HW, bounding_box(object_HW, margin_px=0))


Config = BoxConfig


def load(config: BoxConfig, classifier_folder: str, *, device: str) -> BoxMasker:
    """The masker of a config."""
    return BoxMasker(config.dilation_px)


def bounding_box(mask_HW: np.ndarray, *, margin_px: int) -> np.ndarray:
    """The smallest rectangle around the True pixels, grown by `margin_px` on each side, (H, W) bool."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    box_HW = np.zeros_like(mask_HW)
    # A negative start would count from the far edge; an end beyond the edge is cut by numpy.
    top, left = max(0, rows[0] - margin_px), max(0, columns[0] - margin_px)
    box_HW[top : rows[-1] + 1 + margin_px, left : columns[-1] + 1 + margin_px] = True
    return box_HW
