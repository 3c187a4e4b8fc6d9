"""The masker's stage: pictures in, repaint masks out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import TypeAdapter

from raygen.errors import RowError
from raygen.images import encode_mask
from raygen.maskers import MaskerConfig, load_masker
from raygen.maskers.base import Repaint, overlap
from raygen.stages.pictures import decode_objects, decode_pictures, sum_bytes
from raygen.stages.spec import Batch, ModelStage, Prepared, empty_column, fail_row, fill_slots, ok_rows, with_own_status

Masks = list[Repaint | RowError]


@dataclass(frozen=True, slots=True)
class _Pictures:
    """Pictures and object masks by row."""

    images: dict[int, np.ndarray]
    objects: dict[int, np.ndarray | RowError]


class MaskStage(ModelStage[_Pictures, Masks]):
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

    def prepare(self, batch: Batch) -> Prepared[_Pictures]:
        """The decoded pictures."""
        batch = with_own_status(batch)
        images = decode_pictures(batch, ok_rows(batch), "image_png")
        # No object mask, or one that cannot be read, is no failure here: the masker decides whether it needs one.
        objects = decode_objects(batch, [*images], "object_png")
        return Prepared(batch, _Pictures(images, objects), sum_bytes(images, objects))

    def work(self, prepared: Prepared[_Pictures]) -> Masks:
        """A mask a slot of the call; none where no row is left to process."""
        batch, pictures = prepared.batch, prepared.inputs
        labels = batch[self._masker.label_column]
        if not (rows := ok_rows(batch)):
            return []
        slots = fill_slots(rows, len(batch["status"]))
        return self._masker(
            [pictures.images[i] for i in slots],
            [pictures.objects.get(i) for i in slots],
            [int(labels[i]) for i in slots],
        )

    def finish(self, prepared: Prepared[_Pictures], outputs: Masks) -> Batch:
        """The rows with repaint masks; a row that fails has none."""
        batch = prepared.batch
        repaint, fraction, iou = (empty_column(len(batch["status"])) for _ in range(3))
        for i in ok_rows(batch):
            mask = outputs[i]
            if isinstance(mask, RowError):
                fail_row(batch, i, mask)
            else:
                repaint[i], fraction[i] = encode_mask(mask.mask_HW), float(mask.mask_HW.mean())
                true_HW = prepared.inputs.objects.get(i)
                if mask.object_HW is not None and isinstance(true_HW, np.ndarray):
                    iou[i] = overlap(mask.object_HW, true_HW)
        return {**batch, "repaint_png": repaint, "repaint_fraction": fraction, "object_iou": iou}
