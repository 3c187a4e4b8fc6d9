"""The masker's stage: pictures in, repaint masks out."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import TypeAdapter

from raygen.errors import RowError
from raygen.images import encode_mask
from raygen.maskers import MaskerConfig, load_masker
from raygen.maskers.base import overlap
from raygen.stages.pictures import decode_objects, decode_pictures
from raygen.stages.spec import Batch, empty_column, fail_row, fill_slots, ok_rows, with_own_status


class MaskStage:
    """Repaint mask of each row.

    Args:
        masker: Fields of `MaskerConfig`.
        classifier_folder: The classifier that CAM maskers look into.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = frozenset({"image_png", "object_png", "predicted_label", "source_label", "status", "error"})
    writes: ClassVar = frozenset({"repaint_png", "repaint_fraction", "object_iou"})

    def __init__(self, *, masker: Mapping[str, Any], classifier_folder: str, device: str = "cpu") -> None:
        config: Any = TypeAdapter(MaskerConfig).validate_python(dict(masker))
        self._masker = load_masker(config, classifier_folder, device=device)

    def __call__(self, batch: Batch) -> Batch:
        """The rows with repaint masks; a row that fails has none."""
        batch = with_own_status(batch)
        pictures = decode_pictures(batch, ok_rows(batch), "image_png")
        # No object mask, or one that cannot be read, is no failure here: the masker decides whether it needs one.
        objects = decode_objects(batch, [*pictures], "object_png")
        labels = batch[self._masker.label_column]
        repaint, fraction, iou = (empty_column(len(batch["status"])) for _ in range(3))
        if rows := ok_rows(batch):
            slots = fill_slots(rows, len(batch["status"]))
            masks = self._masker(
                [pictures[i] for i in slots], [objects.get(i) for i in slots], [int(labels[i]) for i in slots]
            )
            for i in rows:
                mask = masks[i]
                if isinstance(mask, RowError):
                    fail_row(batch, i, mask)
                else:
                    repaint[i], fraction[i] = encode_mask(mask.mask_HW), float(mask.mask_HW.mean())
                    true_HW = objects.get(i)
                    if mask.object_HW is not None and isinstance(true_HW, np.ndarray):
                        iou[i] = overlap(mask.object_HW, true_HW)
        return {**batch, "repaint_png": repaint, "repaint_fraction": fraction, "object_iou": iou}
