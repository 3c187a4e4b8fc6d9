"""Repaint masks of the whole picture: what an inpainter of strength below 1 makes of one is image-to-image.

SCGS's img2img baseline (arXiv 2412.19457, table II). Nothing is kept but what the noise of the first step leaves: at
strength 1 that is nothing.
"""

# H height, W width, C colour channels

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from raygen.errors import RowError
from raygen.maskers.base import MaskerBase, Repaint


class WholeConfig(MaskerBase):
    """Repaint everything."""

    name: Literal["whole"] = "whole"


class WholeMasker:
    """Repaint = every pixel."""

    label_column: ClassVar = "source_label"

    def __call__(
        self, images: Sequence[np.ndarray], objects: Sequence[np.ndarray | RowError | None], labels: Sequence[int]
    ) -> list[Repaint | RowError]:
        """A mask of True per picture; it says nothing of where the object is."""
        return [Repaint(np.ones(image_HWC.shape[:2], dtype=bool)) for image_HWC in images]


Config = WholeConfig


def load(config: WholeConfig, classifier_folder: str, *, device: str) -> WholeMasker:
    """The masker of a config."""
    return WholeMasker()
