"""From scores to a plan: what every synthesis needs, whatever it selects by; no paper's choice."""

# N training images, C classes, D features

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.errors import DataError
from raygen.schema import PLAN, cast, plan_key
from raygen.seeding import row_seed


@dataclass(frozen=True, slots=True)
class TrainScores:
    """Scores of the training images that could be scored, in order of image_id.

    Attributes:
        table: SCORE rows, (N,).
        image_ids: Their ids.
        label_N: Class, (N,) int.
        predicted_N: What the classifier says, (N,) int.
        loss_N: Cross entropy of the class, (N,) float64.
        loss_rank_N: 0 = lowest loss in its class, ties by image_id, (N,) int.
    """

    table: pa.Table
    image_ids: list[str]
    label_N: np.ndarray
    predicted_N: np.ndarray
    loss_N: np.ndarray
    loss_rank_N: np.ndarray

    def class_counts(self, num_classes: int) -> np.ndarray:
        """Images of each class, (C,) int."""
        return np.bincount(self.label_N, minlength=num_classes)

    def vectors(self, column: str, rows: np.ndarray) -> np.ndarray:
        """A list column ("logits", "features") of some rows as a matrix, (rows, values) float64."""
        lists = self.table[column].take(pa.array(rows)).combine_chunks()
        lengths = pc.unique(pc.list_value_length(lists)).to_pylist()
        if len(lengths) != 1 or lengths[0] is None:
            raise DataError(f"scores: '{column}' has lengths {lengths}; expected one length. Score the images again.")
        return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.float64).reshape(len(rows), -1)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image to generate: the row of its source in the scores, and what to make of it.

    `prompt` is what is asked for; None: that of the target class.
    """

    row: int
    sample: int
    target_label: int
    cluster: int | None = None
    prompt: str | None = None


def read_scores(scores: pa.Table) -> TrainScores:
    """The rows of a SCORE table with status ok, sorted by image_id.

    Raises:
        DataError: No such row, or an id that occurs twice.
    """
    table = scores.filter(pc.equal(scores["status"], "ok")).sort_by("image_id")
    image_ids = table["image_id"].to_pylist()
    if not image_ids:
        reasons = Counter(scores["error"].to_pylist()).most_common(5) if "error" in scores.column_names else []
        listed = "\n".join(f"  {n} x {reason}" for reason, n in reasons)
        raise DataError(f"none of {scores.num_rows} training images could be scored. Commonest reasons:\n{listed}")
    if len(set(image_ids)) != len(image_ids):
        raise DataError(f"scores: {len(image_ids) - len(set(image_ids))} image_id(s) occur twice")
    label_N = table["label"].to_numpy().astype(np.int64)
    loss_N = table["loss"].to_numpy().astype(np.float64)
    return TrainScores(
        table=table,
        image_ids=image_ids,
        label_N=label_N,
        predicted_N=table["predicted_label"].to_numpy().astype(np.int64),
        loss_N=loss_N,
        loss_rank_N=loss_ranks(loss_N, label_N),
    )


def loss_ranks(loss_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Rank of each image's loss in its class, 0 = lowest, (N,) int; equal losses keep their order."""
    rank_N = np.empty(len(loss_N), dtype=np.int64)
    for label in np.unique(label_N):
        rows = np.flatnonzero(label_N == label)
        rank_N[rows[np.argsort(loss_N[rows], kind="stable")]] = np.arange(len(rows))
    return rank_N


def plan_table(
    images: Sequence[PlannedImage], scores: TrainScores, *, prompts: Sequence[str], run_seed: int
) -> pa.Table:
    """PLAN rows sorted by key, so that the order in which images were planned does not matter."""
    keys = [
        plan_key(scores.image_ids[image.row], target_label=image.target_label, sample=image.sample) for image in images
    ]
    order = sorted(range(len(images)), key=keys.__getitem__)
    keys, images = [keys[i] for i in order], [images[i] for i in order]
    rows_N = np.array([image.row for image in images], dtype=np.int64)
    columns = {
        "key": keys,
        "image_id": scores.table["image_id"].take(pa.array(rows_N)),
        "sample": [image.sample for image in images],
        "source_label": scores.label_N[rows_N],
        "target_label": [image.target_label for image in images],
        "prompt": [prompts[image.target_label] if image.prompt is None else image.prompt for image in images],
        "seed": [row_seed(run_seed, key) for key in keys],
        "loss_rank": scores.loss_rank_N[rows_N],
        "cluster": pa.array([image.cluster for image in images], pa.int32()),
        "predicted_label": scores.predicted_N[rows_N],
    }
    return cast(pa.table(columns), PLAN, what="plan").combine_chunks()
