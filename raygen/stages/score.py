"""Stages that classify pictures: ScoreStage writes what the syntheses select by, PredictStage only labels."""

# N rows of a model call, C classes, D features

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from raygen.classifier import load_frozen
from raygen.classifier.framing import as_input
from raygen.pruners.confidence import cross_entropy
from raygen.stages.pictures import decode_framed
from raygen.stages.spec import NOT_FINITE, Batch, empty_column, fail_row, fill_slots, ok_rows, with_own_status


class ScoreStage:
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

    def __call__(self, batch: Batch) -> Batch:
        """The rows with scores; a row that fails has none."""
        batch = with_own_status(batch)
        frame = self._classifier.frame
        pictures = decode_framed(batch, ok_rows(batch), "image_png", [frame])
        columns: dict[str, np.ndarray] = {name: empty_column(len(batch["status"])) for name in sorted(self.writes)}
        if rows := ok_rows(batch):
            slots = fill_slots(rows, len(batch["status"]))
            images_NCHW = as_input(torch.from_numpy(np.stack([pictures[i][frame] for i in slots])))
            with torch.inference_mode():
                outputs_ND = self._classifier.features(images_NCHW.to(self._device))
                logits_NC = self._classifier.head(outputs_ND).float().cpu().numpy()
                features_ND = outputs_ND.float().cpu().numpy()
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


class PredictStage:
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

    def __call__(self, batch: Batch) -> Batch:
        """The rows with one column of labels per classifier; a row that fails has none in any."""
        batch = with_own_status(batch)
        frames = {classifier.frame for classifier in self._classifiers.values()}
        pictures = decode_framed(batch, ok_rows(batch), "image_png", frames)
        columns = {name: empty_column(len(batch["status"])) for name in self._classifiers}
        if rows := ok_rows(batch):
            slots = fill_slots(rows, len(batch["status"]))
            inputs = {
                frame: as_input(torch.from_numpy(np.stack([pictures[i][frame] for i in slots]))).to(self._device)
                for frame in frames
            }
            for name, classifier in self._classifiers.items():
                with torch.inference_mode():
                    logits_NC = classifier(inputs[classifier.frame]).float().cpu().numpy()
                for i in rows:
                    if np.isfinite(logits_NC[i]).all():
                        columns[name][i] = int(logits_NC[i].argmax())
                    else:
                        fail_row(batch, i, f"{name}: {NOT_FINITE}")
        for i in np.flatnonzero(batch["status"] == "failed").tolist():
            for column in columns.values():
                column[i] = None
        return {**batch, **columns}
