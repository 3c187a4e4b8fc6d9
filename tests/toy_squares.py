"""A dataset as short as one can be: red squares and blue squares."""

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from raygen.datasets.opened import DatasetBase, OpenDataset
from raygen.datasets.table import DatasetInfo, write_source
from raygen.images import encode_image, encode_mask

GROUPS = [(split, label, side) for split in ("test", "train", "val") for label in (0, 1) for side in (0, 1)]


class SquaresConfig(DatasetBase):
    name: Literal["squares"] = "squares"
    each: int = 8


class OpenSquares(OpenDataset):
    lines: ClassVar[list[str]] = ["squares: red and blue"]

    def __init__(self, config: SquaresConfig) -> None:
        self._each = config.each
        info = DatasetInfo("squares", ("red", "blue"), ("left", "right"), ("a red square", "a blue square"))
        super().__init__(info, Counter(dict.fromkeys(GROUPS, config.each)))

    def check(self) -> None:
        """Nothing can be wrong."""

    def state(self, *, run_seed: int) -> dict[str, Any]:
        return {}

    def write(self, folder: Path, *, run_seed: int) -> dict[str, int]:
        rows = []
        for split, label, side in GROUPS:
            image_HWC, object_HW = np.full((64, 64, 3), 90, np.uint8), np.zeros((64, 64), bool)
            object_HW[16:48, 32 * side : 32 * side + 32] = True
            image_HWC[object_HW] = (200, 0, 0) if label == 0 else (0, 0, 200)
            pixels = {"image_png": encode_image(image_HWC), "object_png": encode_mask(object_HW)}
            about = {"label": label, "attribute": side, "split": split, "role": "source", **pixels}
            rows += [{"image_id": f"{split}-{label}{side}-{i:04d}", **about} for i in range(self._each)]
        return write_source(rows, self.info, folder)


Config, Open = SquaresConfig, OpenSquares
