"""Accuracies and measures of fits on the held-out splits, in the form of summary.json."""

# N images, G groups, C classes

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.datasets.rows import RowIndex
from raygen.groups import group_index
from raygen.metrics import (
    Measure,
    evaluate_predictions,
    flip_rate,
    macro_auc,
    mean_measure,
    next_class_shift,
    share_measure,
)

HELD_OUT_SPLITS = ("val", "test")
MEASURES_FILE = "measures.parquet"
# Predictions of the controls that came later than others.
LATER_FOLDER = "control_evaluation"
# A DeepLIFT whose attributions do not sum to what they explain, but for this share of it, has missed a part of the
# network. Rounding leaves 1e-15; a rule that is missing leaves tenths.
COMPLETENESS_TOLERANCE = 1e-3


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


def measured(rows: pa.Table) -> dict[str, dict[str, dict[str, Any]]]:
    """Measures of each result on each split, by name.

    What can never be had of the rows, such as DeepLIFT where it was not asked for, is left out; what lacks something,
    such as masks, is there without a value, and with the reason.

    Args:
        rows: MEASURED rows.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in dict.fromkeys(rows["result"].to_pylist()):
        found[name] = {}
        of_result = rows.filter(pc.equal(rows["result"], name))
        for split in HELD_OUT_SPLITS:
            part = of_result.filter(pc.equal(of_result["split"], split))
            if part.num_rows:
                found[name][split] = {key: measure.plain() for key, measure in _measures(part).items()}
    return found


def _measures(rows: pa.Table) -> dict[str, Measure]:
    """Those of one result on one split."""
    given = rows.filter(rows["logits"].is_valid())
    measures = {
        "saliency_aupr": _on_objects(rows, "saliency_ap", mean_measure, "the gradient is not finite"),
        "pointing_game": _on_objects(rows, "pointing", share_measure, "the network has no class activation map"),
        "auc": macro_auc(_logits(given, "logits"), given["label"].to_numpy()),
        **_pair_measures(given.filter(given["pair_logits"].is_valid())),
    }
    if rows["deep_lift_gap"].null_count < rows.num_rows:
        measures |= _deep_lift(rows)
    return measures


def _on_objects(rows: pa.Table, column: str, of: Callable[..., Measure], why_none: str) -> Measure:
    """A measure of the pictures whose object the classifier sees in part: of the others, none can be had."""
    with_mask = rows.filter(rows["foreground"].is_valid())
    if not with_mask.num_rows:
        return Measure(None, 0, reason="none of the measured pictures has an object mask that can be used")
    partial = with_mask.filter(pc.and_(pc.greater(with_mask["foreground"], 0), pc.less(with_mask["foreground"], 1)))
    if not partial.num_rows:
        return Measure(None, 0, reason="every object mask covers all that the classifier sees, or nothing of it")
    known = partial.filter(partial[column].is_valid())
    return of(known[column].to_numpy(), constant_N=known["foreground"].to_numpy(), reason=why_none)


def _deep_lift(rows: pa.Table) -> dict[str, Measure]:
    """DeepLiftShap's measure, and the largest share that its attributions are away from complete."""
    gaps_N = rows["deep_lift_gap"].drop_null().to_numpy()
    worst = float(gaps_N.max())  # not Arrow's, which overlooks NaN
    gap = Measure(worst, len(gaps_N))
    measure = _on_objects(rows, "deep_lift_ap", mean_measure, "the attribution is not finite")
    if not math.isfinite(worst):
        measure = gap = Measure(None, 0, reason="the attribution is not finite")
    elif worst > COMPLETENESS_TOLERANCE:
        reason = (
            f"its attributions miss up to {worst:.2g} of what they explain, more than {COMPLETENESS_TOLERANCE:g}: the "
            "network has a part that DeepLIFT does not see"
        )
        measure = Measure(None, 0, reason=reason)
    return {"deep_lift_aupr": measure, "deep_lift_gap": gap}


def _pair_measures(rows: pa.Table) -> dict[str, Measure]:
    """What the other background does."""
    first_NC, second_NC = _logits(rows, "logits"), _logits(rows, "pair_logits")
    is_next_N = rows["is_next_class"].to_numpy().astype(bool)
    label_N = rows["label"].to_numpy()
    return {
        "flip_rate": flip_rate(first_NC.argmax(axis=1), second_NC.argmax(axis=1)),
        "next_class_shift": next_class_shift(first_NC[is_next_N], second_NC[is_next_N], label_N[is_next_N]),
    }


def _logits(rows: pa.Table, column: str) -> np.ndarray:
    """Logits, (N, C) float64; (0, 1) of no rows."""
    return np.array(rows[column].to_pylist(), dtype=np.float64).reshape(rows.num_rows, -1 if rows.num_rows else 1)
