"""Composition in the inpainter's place: what was attended to, alone or over another picture (DaC, arXiv 2402.18919)."""

# B rows of a call, H height, W width, C colour channels, T side of the classifier's whole square

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import TypeAdapter

from raygen.classifier import load_frozen
from raygen.classifier.framing import preprocess, squash
from raygen.datasets.rows import RowIndex
from raygen.errors import ResourceError, RowError
from raygen.images import decode_image, encode_image, resize_image, resize_mask
from raygen.maskers import MaskerConfig, load_masker
from raygen.maskers.base import Repaint
from raygen.seeding import row_seed
from raygen.stages.pictures import decode_masks, decode_pictures, sum_bytes
from raygen.stages.spec import (
    Batch,
    ModelStage,
    Prepared,
    fail_row,
    fill_slots,
    object_column,
    ok_rows,
    with_own_status,
)

# What stands in the plan's `prompt`: the picture's attended part alone, or over the picture of an id.
ALONE = "alone"
ON = "on "
MODEL_ID, MODEL_REVISION = "composition", "1"
# Training images whose mean stands where nothing is kept: as many as a batch of the authors'.
MEAN_IMAGES = 64

Masks = dict[int, Repaint | RowError]


@dataclass(frozen=True, slots=True)
class _Pictures:
    """By row: pictures, their repaint masks, and the pictures that go behind them."""

    images: dict[int, np.ndarray]
    repaints: dict[int, np.ndarray]
    partners: dict[int, np.ndarray]


class ComposeStage(ModelStage[_Pictures, Masks]):
    """Composes each row's picture: no model paints anything.

    Where the row's `repaint_png` is not set the picture stays. Elsewhere is the mean training image, or, where the
    prompt names another picture, that picture, but for its own attended part, where the mean is.

    Args:
        masker: Fields of the masker's config, which finds the other picture's attended part: what it leaves.
        classifier_folder: The classifier that the masker looks into, for the label that it predicts.
        data_folder: The dataset.
        num_rows: Rows of every call.
        device: "cpu" or "cuda".
        seed: Draws the images of the mean.
    """

    reads: ClassVar = frozenset({"image_id", "image_png", "repaint_png", "prompt", "status", "error"})
    writes: ClassVar = frozenset({"generated_png", "model_id", "model_revision", "unet_rows"})

    def __init__(
        self,
        *,
        masker: Mapping[str, Any],
        classifier_folder: str,
        data_folder: str,
        num_rows: int,
        device: str,
        seed: int,
    ) -> None:
        config: Any = TypeAdapter(MaskerConfig).validate_python(dict(masker))
        self._masker = load_masker(config, classifier_folder, device=device)
        self._classifier = load_frozen(Path(classifier_folder), device)
        self._index, self._num_rows, self._device = RowIndex(Path(data_folder)), num_rows, device
        self._mean_TTC = mean_picture(self._index, size_px=self._classifier.frame.whole_px, seed=seed)

    def prepare(self, batch: Batch) -> Prepared[_Pictures]:
        """The decoded pictures, and those behind them."""
        batch = with_own_status(batch)
        images = decode_pictures(batch, ok_rows(batch), "image_png")
        repaints = decode_masks(batch, ok_rows(batch), "repaint_png")
        wanted = {i: partner for i in ok_rows(batch) if (partner := partner_of(str(batch["prompt"][i]))) is not None}
        data = self._index.fetch([*wanted.values()], ["image_png"])["image_png"].to_pylist()
        partners: dict[int, np.ndarray] = {}
        for (i, partner), png in zip(wanted.items(), data, strict=True):
            try:
                partners[i] = decode_image(png or b"")
            except RowError as error:
                fail_row(batch, i, f"picture '{partner}', which goes behind it: {error}")
        return Prepared(batch, _Pictures(images, repaints, partners), sum_bytes(images, repaints, partners))

    def work(self, prepared: Prepared[_Pictures]) -> Masks:
        """The masks of the pictures behind, by row."""
        partners, rows = prepared.inputs.partners, [i for i in ok_rows(prepared.batch) if i in prepared.inputs.partners]
        if not rows:
            return {}
        pictures = [partners[i] for i in fill_slots(rows, len(prepared.batch["status"]))]
        with torch.inference_mode():
            inputs_BCSS = preprocess(pictures, self._classifier.frame).to(self._device)
            labels = self._classifier(inputs_BCSS).argmax(1).tolist()
        masks = self._masker(pictures, [None] * len(pictures), labels)
        return {i: masks[i] for i in rows}

    def finish(self, prepared: Prepared[_Pictures], outputs: Masks) -> Batch:
        """The rows with composed pictures; a row that fails has none."""
        batch, pictures, num_rows = prepared.batch, prepared.inputs, len(prepared.batch["status"])
        generated: list[bytes | None] = [None] * num_rows
        for i in ok_rows(batch):
            image_HWC, keep_HW = pictures.images[i], ~pictures.repaints[i]
            height, width = image_HWC.shape[:2]
            mean_HWC = resize_image(self._mean_TTC, height=height, width=width)
            found = outputs.get(i)
            if isinstance(found, RowError):
                fail_row(batch, i, f"picture '{partner_of(str(batch['prompt'][i]))}', which goes behind it: {found}")
                continue
            behind_HWC, attended_HW = mean_HWC, np.zeros((height, width), dtype=bool)
            if found is not None:
                behind_HWC = resize_image(pictures.partners[i], height=height, width=width)
                attended_HW = resize_mask(~found.mask_HW, height=height, width=width)
            result_HWC = fused(image_HWC, keep_HW, behind_HWC, attended_HW, mean_HWC=mean_HWC)
            generated[i] = encode_image(result_HWC, text=self._provenance(batch, i))
        return {
            **batch,
            "generated_png": object_column(generated),
            "model_id": object_column([MODEL_ID] * num_rows),
            "model_revision": object_column([MODEL_REVISION] * num_rows),
            "unet_rows": np.full(num_rows, self._num_rows),
        }

    def _provenance(self, batch: Batch, row: int) -> dict[str, str]:
        return {
            "synthetic": "true",
            "model": f"{MODEL_ID}@{MODEL_REVISION}",
            "prompt": str(batch["prompt"][row]),
            "source": str(batch["image_id"][row]),
        }


def partner_of(prompt: str) -> str | None:
    """Id of the picture that goes behind; None: none does."""
    return prompt.removeprefix(ON) if prompt.startswith(ON) else None


def fused(
    image_HWC: np.ndarray,
    keep_HW: np.ndarray,
    behind_HWC: np.ndarray,
    behind_attended_HW: np.ndarray,
    *,
    mean_HWC: np.ndarray,
) -> np.ndarray:
    """x0 m0 + (1 - m0) (1 - m1) x1 + (1 - m0) m1 mean, (H, W, 3) uint8; masks are of pixels, so nothing is rounded.

    Args:
        image_HWC: x0.
        keep_HW: m0, what stays of it, bool.
        behind_HWC: x1, what is seen elsewhere.
        behind_attended_HW: m1, what of it is not to be seen, bool.
        mean_HWC: What is there instead.
    """
    elsewhere_HWC = np.where(behind_attended_HW[..., None], mean_HWC, behind_HWC)
    return np.where(keep_HW[..., None], image_HWC, elsewhere_HWC)


def mean_picture(index: RowIndex, *, size_px: int, seed: int) -> np.ndarray:
    """Mean of some training images, squashed to a square, (T, T, 3) uint8.

    Raises:
        ResourceError: None of them can be decoded.
    """
    ids = np.array(index.split("train")["image_id"].to_pylist())
    rng = np.random.default_rng(row_seed(seed, "compose/mean"))
    chosen = np.sort(rng.permutation(ids)[:MEAN_IMAGES]).tolist()
    total_TTC, count = np.zeros((size_px, size_px, 3)), 0
    for table in index.each(chosen, ["image_png"]):
        for data in table["image_png"].to_pylist():
            try:
                total_TTC += squash(decode_image(data or b""), size_px)
            except RowError:
                continue  # a failed row in scores/ already
            count += 1
    if not count:
        raise ResourceError(f"none of {len(chosen)} training pictures of {index.folder} can be read for their mean")
    return np.rint(total_TTC / count).astype(np.uint8)
