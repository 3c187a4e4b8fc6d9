"""AFR: the last layer again, on held-out training images that weigh more the less sure ERM is of them.

Qiu et al. 2023, "Simple and Fast Group Robustness by Automatic Feature Reweighting" (ICML). No group of a training
image; those of validation, where they are known, choose the step.
"""

# N rows, D features, C classes

import logging
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from raygen.algorithms.base import AlgorithmBase, FirstFit
from raygen.algorithms.features import Role
from raygen.algorithms.heads import HeadConfig, HeadInputs, Linear, fit_frozen, softmax
from raygen.algorithms.selection import Best, SelectBy, score_of, selection_groups
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import PositiveInt
from raygen.errors import DataError
from raygen.worker import Worker

logger = logging.getLogger(__name__)


class AfrConfig(HeadConfig):
    """AFR. The defaults are those of Waterbirds; CelebA: gamma 1.44, l2 1e-3, 1000 steps at rate 2e-2.

    The gradient's norm is at most 1, so a head moves by `num_steps * learning_rate` at most: gamma, l2 and the steps do
    not carry over to features of another scale.

    Differs: the held-out images are drawn class by class; the authors permute all.

    Attributes:
        gamma: How much an image weighs less that ERM is sure of: exp(-gamma * p), p the probability of its label.
        class_factor: Whether weights are divided by the class's number of images (the authors' code; on by default
            there too).
        l2: Penalty on the squared distance from ERM's head.
        num_steps: Full-batch gradient steps.
        learning_rate: Theirs.
        max_gradient_norm: Longer gradients are shortened to this.
        num_folds: ERM is fitted on all but one of so many parts of the training images, the head on that one.
        select: "best": the step of the best validation accuracy by `select_by`, ties by average accuracy, then the
            earlier; "last".
        select_by: What validation images are told apart by, see `raygen.algorithms.selection`.
        init: Always the ERM classifier of the other parts (after a synthesis: and of the pictures).
    """

    paper = "AFR (Qiu et al., ICML 2023)"
    label_access: ClassVar[str] = "train: class; validation: group, to select the step (class, where none is known)"

    name: Literal["afr"] = "afr"
    gamma: float = Field(10.0, ge=0)
    class_factor: bool = True
    l2: float = Field(0.0, ge=0)
    num_steps: PositiveInt = 500
    learning_rate: float = Field(1e-2, gt=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    num_folds: int = Field(5, ge=2)
    select: Literal["best", "last"] = "best"
    select_by: SelectBy = "auto"
    init: Literal["erm"] = "erm"

    def check_counts(self, train_C: np.ndarray, val_C: np.ndarray) -> None:
        """Checks that both parts of the training images hold every class."""
        for label in np.flatnonzero(train_C < 2):
            raise DataError(
                f"algorithm afr fits ERM on a part of the training images and the head on another, and class {label} "
                f"has {train_C[label]} training image(s), not one for each; it needs 2 or more"
            )

    def selects_by(self) -> SelectBy | None:
        """The step."""
        return self.select_by if self.select == "best" else None

    def held_out_fold(self) -> tuple[int, int] | None:
        """On images that ERM was fitted on it is sure of all, and the weights would be alike."""
        return 0, self.num_folds

    def first_fit(self, erm: AlgorithmBase, *, has_extra: bool) -> FirstFit | None:
        """ERM on the other parts, with the pictures where there are any."""
        return FirstFit(erm, "afr_features", "features")

    def training_rows(self, label_N: np.ndarray, *, seed: int) -> np.ndarray | None:
        """All of the held-out part."""
        return np.arange(len(label_N))


Config = AfrConfig


def fit(
    config: AfrConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Replaces the classifier's head in place; gives back an entry for each step that was the best so far and the last.

    Args:
        config: The settings.
        classifier: ERM on the other parts of the training images.
        train: The held-out part; pictures beside it are left out.
        val: What the step is selected by.
        seed: Of clusters, if these are selected by.
        worker: Where this runs.

    Raises:
        DataError: The held-out part lacks a class.
    """
    return fit_frozen(fit_head, config, classifier, train, val, seed=seed, worker=worker)


def fit_head(config: AfrConfig, given: HeadInputs, *, seed: int) -> tuple[Linear, list[dict[str, float]]]:
    """The head, and an entry for each step that was the best so far, and for the last."""
    assert given.train is not None
    rows, val = given.train.use(Role.FIT), given.val.use(Role.SELECT)
    for label in np.flatnonzero(rows.counts_C == 0):
        raise DataError(
            f"the part of the training images that algorithm afr fits the head on has none of class {label}"
        )
    probability_N = softmax(given.first.logits(rows.features_ND))[np.arange(len(rows)), rows.label_N]
    weight_N = weights(probability_N, rows.label_N, gamma=config.gamma, class_factor=config.class_factor)
    effective = 1 / float((weight_N**2).sum())
    logger.info("AFR: %d held-out training images weigh as much as %.1f alike", len(rows), effective)
    group_N = selection_groups(config.select_by, val, given.first.logits(val.features_ND), seed=seed)

    head, best, history = given.first, Best[Linear](), []
    for step in range(1, config.num_steps + 1):
        head = stepped(head, rows.features_ND, rows.label_N, weight_N, first=given.first, config=config)
        score = score_of(head.predict(val.features_ND), val.label_N, group_N)
        if best.offer(score, head) or step == config.num_steps:
            scores = {"val_worst_group": score[0], "val_average": score[1]}
            history.append({"step": step, **scores, "effective_images": effective})
    if config.select == "best":
        assert best.item is not None
        head = best.item
    return head, history


def weights(probability_N: np.ndarray, label_N: np.ndarray, *, gamma: float, class_factor: bool) -> np.ndarray:
    """Weight of each row in the loss, (N,) float, 1 in all: exp(-gamma * p), by default over the class's count.

    Args:
        probability_N: What ERM gives each row's own label, (N,) in [0, 1].
        label_N: The labels.
        gamma: The larger, the more the rows that ERM is wrong about count.
        class_factor: Whether to divide by the class's number of rows.
    """
    # The largest is 1 before they are divided by their sum, so that none of them can be 0 for all.
    weight_N = np.exp(-gamma * (probability_N - probability_N.min()))
    if class_factor:
        weight_N = weight_N * len(label_N) / np.bincount(label_N)[label_N]
    return np.asarray(weight_N / weight_N.sum())


def gradient(
    head: Linear, features_ND: np.ndarray, label_N: np.ndarray, weight_N: np.ndarray, *, first: Linear, l2: float
) -> Linear:
    """Of sum_i w_i CE_i + l2 * (|W - W0|^2 + |b - b0|^2), in the form of a head."""
    residual_NC = softmax(head.logits(features_ND))
    residual_NC[np.arange(len(label_N)), label_N] -= 1
    residual_NC *= weight_N[:, None]
    return Linear(
        residual_NC.T @ features_ND + 2 * l2 * (head.weight_CD - first.weight_CD),
        residual_NC.sum(axis=0) + 2 * l2 * (head.bias_C - first.bias_C),
    )


def stepped(
    head: Linear,
    features_ND: np.ndarray,
    label_N: np.ndarray,
    weight_N: np.ndarray,
    *,
    first: Linear,
    config: AfrConfig,
) -> Linear:
    """The head after one step."""
    down = gradient(head, features_ND, label_N, weight_N, first=first, l2=config.l2)
    norm = float(np.sqrt((down.weight_CD**2).sum() + (down.bias_C**2).sum()))
    rate = config.learning_rate * min(1.0, config.max_gradient_norm / max(norm, 1e-12))
    return Linear(head.weight_CD - rate * down.weight_CD, head.bias_C - rate * down.bias_C)
