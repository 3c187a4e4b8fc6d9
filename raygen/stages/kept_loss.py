"""The loss when only the hottest part of a picture is left, which says how much of it a mask should keep."""

# N rows of a call, C classes, S side of the classifier's square, Q quantiles

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from raygen.classifier import load_frozen
from raygen.classifier.framing import as_input
from raygen.maskers.cam import CamMethod, cam_heatmaps, hot_pixels
from raygen.pruners.confidence import cross_entropy
from raygen.stages.pictures import decode_framed
from raygen.stages.spec import (
    NOT_FINITE,
    Batch,
    ModelStage,
    Prepared,
    empty_column,
    fail_row,
    fill_slots,
    ok_rows,
    with_own_status,
)


class KeptLossStage(ModelStage[torch.Tensor | None, np.ndarray | None]):
    """Cross entropy of each row's label at several sizes of the part that is kept.

    Pixels below a quantile of the picture's own map are set to 0 in the classifier's normalised space: its mean colour.

    Args:
        classifier_folder: The classifier; its map is of the label that it predicts.
        method: Of the map.
        quantiles: Of the heat.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = frozenset({"image_png", "label", "status", "error"})
    writes: ClassVar = frozenset({"kept_losses"})

    def __init__(
        self, *, classifier_folder: str, method: CamMethod, quantiles: Sequence[float], device: str = "cpu"
    ) -> None:
        self._classifier = load_frozen(Path(classifier_folder), device)
        self._method: CamMethod = method
        self._quantiles, self._device = tuple(quantiles), device

    def prepare(self, batch: Batch) -> Prepared[torch.Tensor | None]:
        """The decoded pictures; None where no row is left to process."""
        batch, frame = with_own_status(batch), self._classifier.frame
        pictures = decode_framed(batch, ok_rows(batch), "image_png", [frame])
        if not (rows := ok_rows(batch)):
            return Prepared(batch, None)
        slots = fill_slots(rows, len(batch["status"]))
        images_NCSS = as_input(torch.from_numpy(np.stack([pictures[i][frame] for i in slots])))
        return Prepared(batch, images_NCSS, images_NCSS.nbytes)

    def work(self, prepared: Prepared[torch.Tensor | None]) -> np.ndarray | None:
        """Losses of each slot, (N, Q)."""
        if prepared.inputs is None:
            return None
        classifier, batch, images_NCSS = self._classifier, prepared.batch, prepared.inputs.to(self._device)
        label_N = np.array([batch["label"][i] for i in fill_slots(ok_rows(batch), len(batch["status"]))])
        with torch.inference_mode():
            predicted = classifier(images_NCSS).argmax(1).tolist()
        heat_NSS = cam_heatmaps(classifier, images_NCSS, predicted, method=self._method)
        losses = []
        for quantile in self._quantiles:
            keep_NSS = np.stack([hot_pixels(heat_SS, quantile=quantile) for heat_SS in heat_NSS])
            keep_N1SS = torch.from_numpy(keep_NSS).to(self._device)[:, None]
            with torch.inference_mode():
                logits_NC = classifier(torch.where(keep_N1SS, images_NCSS, classifier.mean_C11))
            losses.append(cross_entropy(logits_NC.float().cpu().numpy(), label_N))
        return np.stack(losses, axis=1)

    def finish(self, prepared: Prepared[torch.Tensor | None], outputs: np.ndarray | None) -> Batch:
        """The rows with losses; a row that fails has none."""
        batch = prepared.batch
        column = empty_column(len(batch["status"]))
        if outputs is not None:
            for i in ok_rows(batch):
                if np.isfinite(outputs[i]).all():
                    column[i] = outputs[i].tolist()
                else:
                    fail_row(batch, i, NOT_FINITE)
        return {**batch, "kept_losses": column}
