"""The masker's stage: pictures in, repaint masks out."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import TypeAdapter

from raygen.errors import RowError
from raygen.images import encode_mask
from raygen.maskers import MaskerConfig, load_masker
from raygen.stages.pictures import decode_masks, decode_pictures
from raygen.stages.score import empty_column
from raygen.stages.spec import Batch, fail_row, ok_rows, padded_chunks, with_own_status


class MaskStage:
    """Repaint mask of each row.

    Args:
        masker: Fields of `MaskerConfig`.
        classifier_folder: The classifier that CAM maskers look into.
        batch_size: Rows of every masker call.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = frozenset({"image_png", "object_png", "predicted_label", "source_label", "status", "error"})
    writes: ClassVar = frozenset({"repaint_png", "repaint_fraction"})

    def __init__(
        self, *, masker: Mapping[str, Any], classifier_folder: str, batch_size: int, device: str = "cpu"
    ) -> None:
        config: Any = TypeAdapter(MaskerConfig).validate_python(dict(masker))
        self._masker = load_masker(config, classifier_folder, device=device)
        self._batch_size = batch_size

    def __call__(self, batch: Batch) -> Batch:
        """The unit with repaint masks; a row that fails has none."""
        batch = with_own_status(batch)
        pictures = decode_pictures(batch, ok_rows(batch), "image_png")
        # No object mask in the dataset is no failure here: the masker decides whether it needs one.
        with_object = [i for i in pictures if batch["object_png"][i] is not None]
        objects = decode_masks(batch, with_object, "object_png")
        rows_to_mask = [i for i in pictures if batch["status"][i] == "ok"]
        labels = batch[self._masker.label_column]
        repaint, fraction = empty_column(len(batch["status"])), empty_column(len(batch["status"]))
        for rows, num_real in padded_chunks(rows_to_mask, self._batch_size):
            masks = self._masker(
                [pictures[i] for i in rows], [objects.get(i) for i in rows], [int(labels[i]) for i in rows]
            )
            for i, mask in zip(rows[:num_real], masks[:num_real], strict=True):
                if isinstance(mask, RowError):
                    fail_row(batch, i, mask)
                else:
                    repaint[i], fraction[i] = encode_mask(mask), float(mask.mean())
        return {**batch, "repaint_png": repaint, "repaint_fraction": fraction}
