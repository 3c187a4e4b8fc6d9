"""Folds of the training images, and scores whose predicted labels are of classifiers that have not seen the image."""

# N training images

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.schema import SCORE, cast
from raygen.seeding import row_seed


def assign_folds(label_N: np.ndarray, *, num_folds: int, seed: int) -> np.ndarray:
    """Fold of each image, (N,) int in [0, num_folds); each class is spread over all folds as evenly as it can be.

    Args:
        label_N: Class of each image in order of image_id, (N,) int.
        num_folds: How many.
        seed: The run's seed.
    """
    fold_N = np.empty(len(label_N), dtype=np.int64)
    for label in np.unique(label_N):
        rows = np.flatnonzero(label_N == label)
        order = np.random.default_rng(row_seed(seed, f"folds/{label}")).permutation(len(rows))
        fold_N[rows[order]] = np.arange(len(rows)) % num_folds
    return fold_N


def with_unseen_predictions(scores: pa.Table, predictions: pa.Table, fold_N: np.ndarray) -> pa.Table:
    """The scores with `predicted_label` out of fold; all else (logits, loss, features) stays that of one classifier.

    Features of several classifiers could not be clustered together: each has axes of its own.

    Args:
        scores: SCORE rows by one classifier, in order of image_id.
        predictions: Columns image_id, in the same order, and "fold_0", "fold_1", ...: what each fold's classifier says
            of every image; null where it could not say.
        fold_N: Fold of each image, (N,) int.
    """
    assert scores["image_id"].equals(predictions["image_id"])
    by_fold = [predictions[f"fold_{number}"].to_pylist() for number in range(int(fold_N.max()) + 1)]
    unseen = [by_fold[fold][row] for row, fold in enumerate(fold_N.tolist())]
    rows = scores.to_pylist()
    for row, predicted in zip(rows, unseen, strict=True):
        if row["status"] != "ok":
            continue
        row["predicted_label"] = predicted
        if predicted is None:
            row["status"], row["error"] = "failed", "the classifier of its fold gave no finite output for this image"
    table = cast(pa.Table.from_pylist(rows, schema=SCORE), SCORE, what="scores")
    assert pc.all(pc.equal(table["image_id"], scores["image_id"])).as_py()
    return table
