"""New last layers on frozen features: what all methods that fit only those share."""

# N rows, D features, C classes

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raygen.algorithms.base import AlgorithmBase, FirstFit
from raygen.algorithms.features import FeatureTable, feature_table
from raygen.algorithms.inference import extract_logits
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, load_classifier
from raygen.errors import StageError
from raygen.inpainters.fills import Infilling
from raygen.storage.writing import atomic
from raygen.worker import Worker

# Beside a classifier whose head was fitted and selected on different rows: split, image_id and role of each.
ROLES_FILE = "roles.parquet"

History = list[dict[str, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A linear head.

    Attributes:
        weight_CD: (C, D) float64.
        bias_C: (C,) float64.
    """

    weight_CD: np.ndarray
    bias_C: np.ndarray

    def logits(self, features_ND: np.ndarray) -> np.ndarray:
        """Logits, (N, C) float64."""
        return np.asarray(features_ND @ self.weight_CD.T + self.bias_C)

    def predict(self, features_ND: np.ndarray) -> np.ndarray:
        """Predicted labels, (N,) int."""
        return np.asarray(self.logits(features_ND).argmax(axis=1))

    def of_affine(self, scale_D: np.ndarray, shift_D: np.ndarray) -> "Linear":
        """The head that says of x what this one says of `scale_D * x + shift_D`."""
        return Linear(self.weight_CD * scale_D, self.bias_C + self.weight_CD @ shift_D)


@dataclass(frozen=True, slots=True, eq=False)
class HeadInputs:
    """What a head is fitted from.

    Attributes:
        first: The head of the first fit, whose features these are.
        val: Validation.
        train: Training images, where the algorithm reads any (`HeadConfig.training_rows`).
        early_NC: Logits of validation by an earlier state of the classifier, (N, C); None where there is none.
    """

    first: Linear
    val: FeatureTable
    train: FeatureTable | None = None
    early_NC: np.ndarray | None = None


class FitHead(Protocol):
    """Fits a head on features; what a module of such an algorithm has as `fit_head`."""

    def __call__(self, config: Any, given: HeadInputs, *, seed: int) -> tuple[Linear, History]:
        """The head and the history.

        Raises:
            DataError: The rows do not suffice.
            StageError: The loss is not finite.
        """
        ...


class HeadConfig(AlgorithmBase):
    """Base of the configs of algorithms that fit only a new last layer.

    Attributes:
        reads_first: Whether the head of the first fit is read, not only its features.
    """

    reads_first: ClassVar[bool] = True

    def training_rows(self, label_N: np.ndarray, *, seed: int) -> np.ndarray | None:
        """Positions of the training images whose features are read, (M,) int; None: none is.

        Args:
            label_N: Classes of the training images.
            seed: Of the draw, where they are drawn.

        Raises:
            DataError: There are too few.
        """
        return None

    def check_infilling(self, infilling: Infilling) -> None:
        """The features are fitted on them, by ERM; the head on the dataset's own images."""

    def first_fit(self, erm: AlgorithmBase, *, has_extra: bool) -> FirstFit | None:
        """With pictures, features that have seen them: by ERM, as the run's own are."""
        return FirstFit(erm, f"{self.name}_features", "features") if has_extra else None


def fit_frozen(
    fit_head: FitHead,
    config: HeadConfig,
    classifier: Classifier,
    train: TrainingSet,
    val: TrainingSet,
    *,
    seed: int,
    worker: Worker,
) -> History:
    """Replaces the classifier's head in place by one that is fitted on its features; gives back the history.

    With several workers each extracts its share of the features; the leading one fits, no other's classifier is saved.

    Raises:
        DataError: The rows do not suffice.
        StageError: A feature, the loss or the new head is not finite.
    """
    own = train.without_extra()
    row_M = config.training_rows(own.label_N, seed=seed)
    early = None if worker.beside is None else load_classifier(worker.beside)
    given = HeadInputs(
        first=head_of(classifier),
        val=feature_table(classifier, val, worker, split="val"),
        train=None if row_M is None else feature_table(classifier, own, worker, split="train", row_M=row_M),
        early_NC=None if early is None else extract_logits(early, val, worker),
    )
    if not worker.leads:
        return []
    head, history = fit_head(config, given, seed=seed)
    set_linear(classifier, checked(head, what=config.name))
    write_roles(given, lambda table: _write(table, worker))
    return history


def head_of(classifier: Classifier) -> Linear:
    """A classifier's last layer."""
    layer = classifier.head
    weight_CD, bias_C = layer.weight.detach().cpu().double().numpy(), layer.bias.detach().cpu().double().numpy()
    return Linear(weight_CD, bias_C)


def set_linear(classifier: Classifier, head: Linear) -> None:
    """Makes a head the classifier's last layer."""
    layer = classifier.head
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight_CD))
        layer.bias.copy_(torch.from_numpy(head.bias_C))


def checked(head: Linear, *, what: str) -> Linear:
    """The head.

    Raises:
        StageError: It is not finite.
    """
    if not (np.isfinite(head.weight_CD).all() and np.isfinite(head.bias_C).all()):
        raise StageError(f"the head that {what} fitted is not finite; lower its rates")
    return head


def write_roles(given: HeadInputs, write: Callable[[pa.Table], None]) -> None:
    """Hands on the roles of all rows, unless the head is fitted on every one of them."""
    tables = [table for table in (given.train, given.val) if table is not None]
    if not all(table.is_all_to_fit for table in tables):
        write(pa.concat_tables([table.roles() for table in tables]))


def _write(table: pa.Table, worker: Worker) -> None:
    with atomic(worker.folder / ROLES_FILE) as temporary:
        pq.write_table(table, temporary)


def softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Probabilities, (N, C) float64."""
    return np.exp(log_softmax(logits_NC))


def log_softmax(logits_NC: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities, (N, C) float64; finite for any finite logits."""
    from scipy.special import log_softmax as of

    return np.asarray(of(logits_NC, axis=1))


def cross_entropies(logits_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Cross entropy of each row, (N,) float64."""
    return np.asarray(-log_softmax(logits_NC)[np.arange(len(label_N)), label_N])
