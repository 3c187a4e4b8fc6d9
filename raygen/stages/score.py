"""Stages that classify pictures: ScoreStage writes what the syntheses select by, PredictStage only labels."""

# N rows of a model call, C classes, D features

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from raygen.classifier import load_frozen
from raygen.classifier.framing import Frame, as_input
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

# A call's pictures as (N, 3, S, S) floats by frame; none where no row is left to process.
Images = dict[Frame, torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Scores:
    """What a classifier makes of a call's slots: features, (N, D), and logits, (N, C)."""

    features_ND: np.ndarray
    logits_NC: np.ndarray


class ScoreStage(ModelStage[Images, _Scores | None]):
    """Logits, loss and features of each row's picture.

    Args:
        classifier_folder: The classifier.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = frozenset({"image_id", "label", "image_png", "status", "error"})
    writes: ClassVar = frozenset({"logits", "predicted_label", "loss", "confidence", "features"})

    def __init__(self, *, classifier_folder: str, device: str = "cpu") -> None:
        self._classifier = load_frozen(Path(classifier_folder), device)
        self._device = device

    def prepare(self, batch: Batch) -> Prepared[Images]:
        """The decoded pictures, in the classifier's frame."""
        return _prepared(batch, {self._classifier.frame})

    def work(self, prepared: Prepared[Images]) -> _Scores | None:
        """Features and logits."""
        for images_NCHW in prepared.inputs.values():
            with torch.inference_mode():
                outputs_ND = self._classifier.features(images_NCHW.to(self._device))
                logits_NC = self._classifier.head(outputs_ND).float().cpu().numpy()
                return _Scores(outputs_ND.float().cpu().numpy(), logits_NC)
        return None

    def finish(self, prepared: Prepared[Images], outputs: _Scores | None) -> Batch:
        """The rows with scores; a row that fails has none."""
        batch = prepared.batch
        columns: dict[str, np.ndarray] = {name: empty_column(len(batch["status"])) for name in sorted(self.writes)}
        if outputs is not None:
            rows, logits_NC, features_ND = ok_rows(batch), outputs.logits_NC, outputs.features_ND
            slots = fill_slots(rows, len(batch["status"]))
            loss_N = cross_entropy(logits_NC, np.array([batch["label"][i] for i in slots]))
            for i in rows:
                if not (np.isfinite(logits_NC[i]).all() and np.isfinite(features_ND[i]).all()):
                    fail_row(batch, i, NOT_FINITE)
                    continue
                columns["logits"][i] = logits_NC[i].tolist()
                columns["predicted_label"][i] = int(logits_NC[i].argmax())
                columns["loss"][i] = float(loss_N[i])
                columns["confidence"][i] = float(np.exp(-loss_N[i]))
                columns["features"][i] = features_ND[i].tolist()
        return {**batch, **columns}


class PredictStage(ModelStage[Images, dict[str, np.ndarray]]):
    """Predicted label of each row's picture, by several classifiers; the picture is decoded once.

    Its columns are named by its arguments, so `writes` cannot list them.

    Args:
        classifier_folders: Column to write -> folder of the classifier that fills it.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = frozenset({"image_png", "status", "error"})
    writes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, *, classifier_folders: Mapping[str, str], device: str = "cpu") -> None:
        self._classifiers = {name: load_frozen(Path(folder), device) for name, folder in classifier_folders.items()}
        self._device = device

    def prepare(self, batch: Batch) -> Prepared[Images]:
        """The decoded pictures, in each frame that a classifier takes."""
        return _prepared(batch, {classifier.frame for classifier in self._classifiers.values()})

    def work(self, prepared: Prepared[Images]) -> dict[str, np.ndarray]:
        """Logits by column, (N, C) each."""
        inputs = {frame: images_NCHW.to(self._device) for frame, images_NCHW in prepared.inputs.items()}
        if not inputs:
            return {}
        with torch.inference_mode():
            return {
                name: classifier(inputs[classifier.frame]).float().cpu().numpy()
                for name, classifier in self._classifiers.items()
            }

    def finish(self, prepared: Prepared[Images], outputs: dict[str, np.ndarray]) -> Batch:
        """The rows with one column of labels per classifier; a row that fails has none in any."""
        batch = prepared.batch
        columns = {name: empty_column(len(batch["status"])) for name in self._classifiers}
        rows = ok_rows(batch)
        for name, logits_NC in outputs.items():
            for i in rows:
                if np.isfinite(logits_NC[i]).all():
                    columns[name][i] = int(logits_NC[i].argmax())
                else:
                    fail_row(batch, i, f"{name}: {NOT_FINITE}")
        for i in np.flatnonzero(batch["status"] == "failed").tolist():
            for column in columns.values():
                column[i] = None
        return {**batch, **columns}


def _prepared(batch: Batch, frames: set[Frame]) -> Prepared[Images]:
    batch = with_own_status(batch)
    pictures = decode_framed(batch, ok_rows(batch), "image_png", frames)
    if not (rows := ok_rows(batch)):
        return Prepared(batch, {})
    slots = fill_slots(rows, len(batch["status"]))
    images = {frame: as_input(torch.from_numpy(np.stack([pictures[i][frame] for i in slots]))) for frame in frames}
    return Prepared(batch, images, sum(images_NCHW.nbytes for images_NCHW in images.values()))
