"""Frozen features of a fitted classifier, each row with a role, so that none is used twice by accident.

The one stage that all last-layer methods share: the evaluation transform, evaluation mode, no augmentation; pictures
stream through the classifier in batches, on every worker a share.
"""

# N rows, M some of them, D features, C classes

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import pyarrow as pa

from raygen.algorithms.inference import extract_features
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.errors import DataError, StageError
from raygen.seeding import row_seed
from raygen.worker import Worker


class Role(Enum):
    """What a row is used for. A row without one is held out of everything."""

    FIT = "fit"
    """The head is fitted on it."""
    SELECT = "select"
    """Steps and settings of the head are selected by it."""
    FIT_AND_SELECT = "fit and select"
    """Both, where a method means it so."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Rows of features.

    Attributes:
        features_ND: Inputs of the linear head, (N, D) float64.
        label_N: Classes, (N,) int.
        group_N: Groups, (N,) int; None where the attributes are not known.
        num_classes: C.
        num_attributes: Attributes that the dataset names.
    """

    features_ND: np.ndarray
    label_N: np.ndarray
    group_N: np.ndarray | None
    num_classes: int
    num_attributes: int

    def __len__(self) -> int:
        return len(self.label_N)

    def take(self, row_M: np.ndarray) -> "Features":
        """Some of the rows."""
        group_N = None if self.group_N is None else self.group_N[row_M]
        return replace(self, features_ND=self.features_ND[row_M], label_N=self.label_N[row_M], group_N=group_N)

    @property
    def counts_C(self) -> np.ndarray:
        """Rows of each class, (C,) int."""
        return np.bincount(self.label_N, minlength=self.num_classes)


class FeatureTable:
    """Features that can be had only by giving them a role, once.

    Args:
        rows: The features.
        split: What they are of, for messages and the file of roles.
        ids: Names of the rows.
    """

    def __init__(self, rows: Features, *, split: str, ids: Sequence[str | None]) -> None:
        self._rows, self._ids, self.split = rows, ids, split
        self._role_N: np.ndarray = np.full(len(rows), None, dtype=object)
        self.label_N, self.num_classes = rows.label_N, rows.num_classes

    def __len__(self) -> int:
        return len(self._rows)

    def use(self, role: Role, row_M: np.ndarray | None = None) -> Features:
        """The rows at these positions (by default all), which from now on have that role.

        Raises:
            AssertionError: One of them has a role already, or stands twice among them.
        """
        row_M = np.arange(len(self)) if row_M is None else row_M
        assert len(np.unique(row_M)) == len(row_M), f"a row of {self.split} would be used twice to {role.value}"
        taken = [row for row in row_M if self._role_N[row] is not None]
        assert not taken, f"{len(taken)} rows of {self.split} would be used to {role.value}, and have a role already"
        self._role_N[row_M] = role
        return self._rows.take(row_M)

    @property
    def is_all_to_fit(self) -> bool:
        """Whether the head is fitted on every row, and none has another role."""
        return all(role is Role.FIT for role in self._role_N)

    def roles(self) -> pa.Table:
        """split, image_id and role of every row."""
        roles = ["held out" if role is None else role.value for role in self._role_N]
        ids = pa.array(list(self._ids), pa.string())
        return pa.table({"split": pa.array([self.split] * len(self), pa.string()), "image_id": ids, "role": roles})


def feature_table(
    classifier: Classifier, data: TrainingSet, worker: Worker, *, split: str, row_M: np.ndarray | None = None
) -> FeatureTable:
    """A classifier's features of pictures; the same on all workers.

    Args:
        classifier: What gives them.
        data: The pictures; without extra ones.
        worker: Where this runs.
        split: What they are of.
        row_M: Positions of those to take, (M,) int; by default all.

    Raises:
        StageError: A feature is not finite.
    """
    row_M = np.arange(len(data)) if row_M is None else row_M
    features_MD = extract_features(classifier, data, worker, row_M=row_M)
    ids = data.image_ids(row_M)
    if not np.isfinite(features_MD).all():
        bad = int(np.flatnonzero(~np.isfinite(features_MD).all(axis=1))[0])
        raise StageError(f"the classifier's features of {split} image {ids[bad]} are not finite; its fit went wrong")
    group_M = None if data.group_N is None else data.group_N[row_M]
    rows = Features(features_MD, data.label_N[row_M], group_M, classifier.num_classes, data.num_attributes)
    return FeatureTable(rows, split=split, ids=ids)


def halves(table: FeatureTable, *, seed: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of two random halves; each class is halved by itself, the first half has its odd row.

    Args:
        table: The rows.
        seed: Of the draw.
        what: Names the draw, and the algorithm in messages.

    Raises:
        DataError: A class has one row, or none.
    """
    check_halves(np.bincount(table.label_N, minlength=table.num_classes), what=what)
    rng = np.random.default_rng(row_seed(seed, f"{what}/halves"))
    first = []
    for label in range(table.num_classes):
        rows = rng.permutation(np.flatnonzero(table.label_N == label))
        first.append(rows[: (len(rows) + 1) // 2])
    first_M = np.sort(np.concatenate(first))
    return first_M, np.setdiff1d(np.arange(len(table)), first_M)


def check_halves(val_C: np.ndarray, *, what: str, least: int = 2) -> None:
    """Checks that validation can be halved, class by class.

    Args:
        val_C: Validation images of each class, (C,) int.
        what: The algorithm.
        least: Images that each class needs.

    Raises:
        DataError: A class has too few.
    """
    for label in np.flatnonzero(val_C < least):
        raise DataError(
            f"algorithm {what} splits validation in halves, class by class, and class {label} has {val_C[label]} "
            f"validation image(s); it needs {least} or more"
        )


def check_present(val_C: np.ndarray, *, what: str) -> None:
    """Checks that every class has a validation image.

    Raises:
        DataError: One has none.
    """
    for label in np.flatnonzero(val_C == 0):
        raise DataError(f"algorithm {what} fits on validation, which has no image of class {label}")
