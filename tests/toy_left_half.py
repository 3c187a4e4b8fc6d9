"""A masker as short as one can be: the left half of a picture."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from raygen.errors import RowError
from raygen.maskers.base import MaskerBase, Repaint


class LeftHalfConfig(MaskerBase):
    name: Literal["left_half"] = "left_half"


class LeftHalfMasker:
    label_column: ClassVar = "source_label"

    def __call__(
        self, images: Sequence[np.ndarray], objects: Sequence[np.ndarray | RowError | None], labels: Sequence[int]
    ) -> list[Repaint | RowError]:
        masks: list[Repaint | RowError] = []
        for image_HWC in images:
            height, width = image_HWC.shape[:2]
            repaint_HW = np.zeros((height, width), dtype=bool)
            repaint_HW[:, : width // 2] = True
            masks.append(Repaint(repaint_HW))
        return masks


Config = LeftHalfConfig


def load(config: LeftHalfConfig, classifier_folder: str, *, device: str) -> LeftHalfMasker:
    return LeftHalfMasker()
