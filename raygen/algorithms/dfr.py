"""DFR: a new last layer on group-balanced validation images (Kirichenko et al. 2022, arXiv 2204.02937).

The features of a classifier that was fitted as usual are kept; a logistic regression with an L1 penalty is fitted on
them. It needs the groups of the *validation* images, none of the training images. Since it fits on validation, its
validation accuracies are of images that it has seen: compare on test.
"""

# N images, D features, C classes, A attributes, K decision functions: 1 for two classes, C beyond, R retrains

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from raygen.algorithms.features import Role
from raygen.algorithms.heads import HeadConfig, HeadInputs, Linear, fit_frozen, set_linear
from raygen.algorithms.selection import SelectBy
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import PositiveInt
from raygen.errors import DataError
from raygen.metrics import worst_group_accuracy
from raygen.seeding import row_seed
from raygen.worker import Worker

logger = logging.getLogger(__name__)


class DfrConfig(HeadConfig):
    """DFR on validation ("DFR-val").

    Attributes:
        c_values: Inverse strengths of the L1 penalty that are tried, in this order; the first best is taken (authors'
            code).
        num_retrains: Heads that are averaged, each fitted on another group-balanced part of validation (paper: 20).
        scaler: What the features are standardised by at the end: "val", as the authors' later code, or "train", their
            first. While the penalty is searched it is the half that is fitted on.
        init: Always the ERM classifier: of the run, or, after a synthesis, one that was fitted as `erm` says on the
            training images and the pictures.
    """

    paper = "DFR (Kirichenko et al. 2022, arXiv 2204.02937)"
    label_access: ClassVar[str] = "train: class; validation: group"
    needs_groups_of = "val"
    reads_first = False

    name: Literal["dfr"] = "dfr"
    c_values: tuple[float, ...] = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
    num_retrains: PositiveInt = 20
    scaler: Literal["val", "train"] = "val"
    init: Literal["erm"] = "erm"

    @field_validator("c_values")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not values or min(values) <= 0:
            raise ValueError("expected at least one number, all above 0")
        return values

    def check_groups(self, counts_CA: np.ndarray) -> None:
        """Checks that every group can be halved."""
        check_validation(counts_CA)

    def selects_by(self) -> SelectBy | None:
        """The penalty, by the worst group of the half that the head is not fitted on."""
        return "groups"

    def training_rows(self, label_N: np.ndarray, *, seed: int) -> np.ndarray | None:
        """All, if they are what the features are standardised by."""
        return np.arange(len(label_N)) if self.scaler == "train" else None


Config = DfrConfig


@dataclass(frozen=True, slots=True)
class Head:
    """Linear decision functions on features.

    Attributes:
        weight_KD: (K, D) float64.
        bias_K: (K,) float64.
    """

    weight_KD: np.ndarray
    bias_K: np.ndarray

    def decisions(self, features_ND: np.ndarray) -> np.ndarray:
        """Decision values, (N, K)."""
        return np.asarray(features_ND @ self.weight_KD.T + self.bias_K)

    def predict(self, features_ND: np.ndarray) -> np.ndarray:
        """Predicted labels, (N,) int; as scikit-learn does it, a decision of 0 is class 0."""
        decisions_NK = self.decisions(features_ND)
        if decisions_NK.shape[1] == 1:
            return (decisions_NK[:, 0] > 0).astype(np.int64)
        return np.asarray(decisions_NK.argmax(axis=1))


def fit(
    config: DfrConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Replaces the classifier's head in place; gives back an entry for each penalty that was tried.

    With several workers each extracts its share of the features; the leading one fits, no other's classifier is saved.

    Raises:
        DataError: A validation image has no attribute, a class has no validation image, or a group just one.
    """
    _checked_groups(val.group_N, num_classes=classifier.num_classes, num_attributes=val.num_attributes)
    return fit_frozen(fit_head, config, classifier, train, val, seed=seed, worker=worker)


def fit_head(config: DfrConfig, given: HeadInputs, *, seed: int) -> tuple[Linear, list[dict[str, float]]]:
    """The head, and an entry for each penalty that was tried.

    Every validation image is fitted on; the halves by which the penalty is chosen are parts of these.

    Raises:
        DataError: As `fit`.
    """
    val = given.val.use(Role.FIT)
    group_N = _checked_groups(val.group_N, num_classes=val.num_classes, num_attributes=val.num_attributes)
    scaled_by_ND = val.features_ND if given.train is None else given.train.use(Role.FIT).features_ND
    scores = penalty_scores(val.features_ND, val.label_N, group_N, c_values=config.c_values, seed=seed)
    c_value = config.c_values[int(np.argmax(scores))]
    logger.info("DFR: C = %g of %s, worst group %.3f on the held-out half", c_value, config.c_values, max(scores))
    head = average_head(
        val.features_ND,
        val.label_N,
        group_N,
        scaled_by_ND=scaled_by_ND,
        c_value=c_value,
        num_retrains=config.num_retrains,
        seed=seed,
    )
    return as_linear(head), [
        {"c": c, "val_worst_group": score, "chosen": float(c == c_value)}
        for c, score in zip(config.c_values, scores, strict=True)
    ]


def penalty_scores(
    features_ND: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, *, c_values: tuple[float, ...], seed: int
) -> list[float]:
    """Worst-group accuracy on one half of the images of a head fitted on the other half, balanced, for each C.

    Differs: each group is halved by itself. The authors halve all images at random, which can leave a half without the
    smallest group.
    """
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(row_seed(seed, "dfr/halves"))
    fitted_on = np.concatenate(
        [rng.permutation(rows)[: len(rows) // 2] for rows in (np.flatnonzero(group_N == g) for g in np.unique(group_N))]
    )
    held_out_N = np.ones(len(group_N), dtype=bool)
    held_out_N[fitted_on] = False
    chosen = fitted_on[balanced_rows(group_N[fitted_on], rng)]
    scaler = StandardScaler().fit(features_ND[chosen])
    fitted_ND, other_ND = scaler.transform(features_ND[chosen]), scaler.transform(features_ND[held_out_N])
    scores = []
    for c_value in c_values:
        head = logistic_head(fitted_ND, label_N[chosen], c_value=c_value, seed=row_seed(seed, "dfr/penalty"))
        correct_N = head.predict(other_ND) == label_N[held_out_N]
        scores.append(
            worst_group_accuracy(correct_N, group_N[held_out_N], num_groups=int(group_N.max()) + 1),
        )
    return scores


def average_head(
    features_ND: np.ndarray,
    label_N: np.ndarray,
    group_N: np.ndarray,
    *,
    scaled_by_ND: np.ndarray,
    c_value: float,
    num_retrains: int,
    seed: int,
) -> Head:
    """Mean of heads fitted on group-balanced parts of all images, for features as they are (the scaler is folded in).

    Args:
        features_ND: Of the images to fit on.
        label_N: Their classes.
        group_N: Their groups.
        scaled_by_ND: Features whose mean and deviation standardise all.
        c_value: Inverse strength of the penalty.
        num_retrains: How many.
        seed: Draws the parts.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(scaled_by_ND)
    scaled_ND = scaler.transform(features_ND)
    heads = []
    for number in range(num_retrains):
        this_seed = row_seed(seed, f"dfr/retrain/{number}")
        rows = balanced_rows(group_N, np.random.default_rng(this_seed))
        heads.append(logistic_head(scaled_ND[rows], label_N[rows], c_value=c_value, seed=this_seed))
    weight_KD = np.mean([head.weight_KD for head in heads], axis=0) / scaler.scale_
    bias_K = np.mean([head.bias_K for head in heads], axis=0)
    return Head(weight_KD, bias_K - weight_KD @ scaler.mean_)


def balanced_rows(group_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions of as many images of every group as the smallest has, drawn without replacement."""
    groups, counts_G = np.unique(group_N, return_counts=True)
    return np.concatenate(
        [rng.choice(np.flatnonzero(group_N == group), size=counts_G.min(), replace=False) for group in groups]
    )


def logistic_head(features_ND: np.ndarray, label_N: np.ndarray, *, c_value: float, seed: int) -> Head:
    """L1-penalised logistic regression by liblinear; one against the rest beyond two classes."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    # l1_ratio=1 is the L1 penalty; its default, 0, is not. liblinear's seeds are 32-bit.
    model: Any = LogisticRegression(l1_ratio=1, solver="liblinear", C=c_value, random_state=seed % 2**32)
    if len(np.unique(label_N)) == 2:
        fitted = model.fit(features_ND, label_N)
        return Head(fitted.coef_, np.asarray(fitted.intercept_))
    fitted = OneVsRestClassifier(model).fit(features_ND, label_N)
    parts = fitted.estimators_
    return Head(np.concatenate([part.coef_ for part in parts]), np.concatenate([part.intercept_ for part in parts]))


def set_head(classifier: Classifier, head: Head) -> None:
    """Makes a head the classifier's own linear layer."""
    set_linear(classifier, as_linear(head))


def as_linear(head: Head) -> Linear:
    """A head with a logit for every class.

    A single decision value d becomes the logits -d/2 and d/2, whose softmax is the logistic regression's probability.
    """
    weight_CD, bias_C = head.weight_KD, head.bias_K
    if len(bias_C) == 1:
        weight_CD, bias_C = np.concatenate([-weight_CD, weight_CD]) / 2, np.concatenate([-bias_C, bias_C]) / 2
    return Linear(weight_CD, bias_C)


def check_validation(counts_CA: np.ndarray) -> None:
    """Checks that a head can be fitted on one half of every group and measured on the other.

    Args:
        counts_CA: Validation images of each class with each attribute, (C, A) int.

    Raises:
        DataError: A class has no image, or a group just one.
    """
    for label, attribute in zip(*np.nonzero(counts_CA == 1), strict=True):
        raise DataError(
            f"algorithm dfr halves each group of validation, but class {label} with attribute {attribute} has one "
            "image; it needs two or more"
        )
    for label in np.flatnonzero(counts_CA.sum(axis=1) == 0):
        raise DataError(f"algorithm dfr fits on validation, which has no image of class {label}")


def _checked_groups(group_N: np.ndarray | None, *, num_classes: int, num_attributes: int) -> np.ndarray:
    if group_N is None:
        raise DataError("algorithm dfr needs the attribute of every validation image; this dataset has none")
    num_groups = num_classes * num_attributes
    check_validation(np.bincount(group_N, minlength=num_groups).reshape(num_classes, num_attributes))
    return group_N
