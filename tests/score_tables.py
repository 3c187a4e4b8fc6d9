"""SCORE tables made from a few arrays."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from raygen.datasets.table import DatasetInfo
from raygen.pruners.confidence import cross_entropy
from raygen.schema import SCORE


def score_table(
    labels: Sequence[int],
    logits_NC: ArrayLike,
    *,
    features_ND: np.ndarray | None = None,
    image_ids: Sequence[str] | None = None,
) -> pa.Table:
    """One ok row per label; loss and prediction follow from the logits."""
    logits_NC = np.asarray(logits_NC, dtype=np.float64)
    features_ND = logits_NC if features_ND is None else features_ND
    loss_N = cross_entropy(logits_NC, np.asarray(labels))
    rows = [
        {
            "image_id": image_ids[n] if image_ids else f"img{n:05d}",
            "label": int(label),
            "logits": logits_NC[n].tolist(),
            "predicted_label": int(logits_NC[n].argmax()),
            "loss": float(loss_N[n]),
            "confidence": float(np.exp(-loss_N[n])),
            "features": features_ND[n].tolist(),
            "status": "ok",
            "error": None,
        }
        for n, label in enumerate(labels)
    ]
    return pa.Table.from_pylist(rows, schema=SCORE)


def with_failed_rows(scores: pa.Table, image_ids: Sequence[str]) -> pa.Table:
    """The table with rows that could not be scored."""
    failed = [{"image_id": image_id, "label": 0, "status": "failed", "error": "damaged"} for image_id in image_ids]
    return pa.concat_tables([scores, pa.Table.from_pylist(failed, schema=SCORE)])


def shuffled(table: pa.Table, *, seed: int) -> pa.Table:
    """The same rows in another order."""
    return table.take(pa.array(np.random.default_rng(seed).permutation(table.num_rows)))


def dataset(num_classes: int = 2) -> DatasetInfo:
    """Names of as many classes as asked for."""
    names = ("cat", "dog", "cow", "hen")[:num_classes]
    return DatasetInfo("animals", names, (), tuple(f"a photo of a {name}" for name in names))
