"""Accuracies of predicted labels on the held-out splits, in the form of summary.json."""

# N images, G groups

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.datasets.rows import RowIndex
from raygen.groups import group_index
from raygen.metrics import evaluate_predictions

HELD_OUT_SPLITS = ("val", "test")


def results(predictions: pa.Table, rows: RowIndex, *, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Accuracies of each result on each split that has predictions.

    Args:
        predictions: `label`, `attribute`, `split`, and a column of predicted labels for each result; a row that could
            not be predicted has none.
        rows: The dataset.
        names: The results' columns.

    Raises:
        DataError: No image at all.
    """
    num_attributes = len(rows.dataset.attribute_names)
    train_counts_G = _train_group_counts(rows)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        found[name] = {}
        for split in HELD_OUT_SPLITS:
            part = predictions.filter(pc.and_(pc.equal(predictions["split"], split), predictions[name].is_valid()))
            if part.num_rows:
                found[name][split] = evaluate_predictions(
                    part["label"].to_numpy(),
                    part[name].to_numpy(),
                    pc.fill_null(part["attribute"], -1).to_numpy(),
                    num_classes=rows.num_classes,
                    num_attributes=num_attributes,
                    train_counts_G=train_counts_G,
                )
    return found


def _train_group_counts(rows: RowIndex) -> np.ndarray | None:
    """Training images per group, (G,) int; None when an attribute is unknown."""
    train = rows.split("train")
    train = train.filter(pc.equal(train["role"], "source"))
    num_attributes = len(rows.dataset.attribute_names)
    if not num_attributes or not train.num_rows or train["attribute"].null_count:
        return None
    group_N = group_index(train["label"].to_numpy(), train["attribute"].to_numpy(), num_attributes=num_attributes)
    return np.bincount(group_N, minlength=rows.num_classes * num_attributes)
