"""EVaLS: the last layer on the held-out images of highest and lowest loss, selected by environments that are inferred.

arXiv 2410.05345, "Trained Models Tell Us How to Make Them Robust to Spurious Correlation without Group Annotation". No
group of any image is read, neither to fit nor to select: what to take where no attribute is known.
"""

# N rows, M of a batch, D features, C classes, H heads that are fitted at once

import logging
from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from raygen.algorithms.environments import eiil, risk_gradients
from raygen.algorithms.features import Features, Role, check_halves, halves
from raygen.algorithms.heads import HeadConfig, HeadInputs, Linear, cross_entropies, fit_frozen
from raygen.algorithms.selection import Best, SelectBy, score_of, selection_groups
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import PositiveInt
from raygen.errors import DataError
from raygen.seeding import row_seed
from raygen.worker import Worker

logger = logging.getLogger(__name__)

# Validation images that each class needs: two to fit on, one of high and one of low loss, and two to select by.
LEAST_PER_CLASS = 4


class EvalsConfig(HeadConfig):
    """EVaLS. Half of validation is fitted on, the other half selects among the settings and epochs.

    Differs: the halves are drawn class by class; the authors split at random. The head that is fitted is the one that
    is evaluated, on features of the evaluation mode (paper; the released script never updates the head that it
    evaluates).

    Attributes:
        num_extremes: k: so many rows of highest and of lowest loss of each class are fitted on. Each is tried; more
            than half of a class is half of it, so that none is taken twice. Theirs.
        l1: Penalty on the absolute values of weights and biases; each is tried. Theirs. Of all pairs and epochs the
            first best on the other half is taken.
        epochs: Passes over the chosen rows.
        batch_size: Rows of a step.
        learning_rate: Of Adam, from a new head.
        decay_epoch: After so many epochs it is a tenth.
        select_by: What the selecting half is told apart by, see `raygen.algorithms.selection`. "environments" needs no
            group. "groups" is their EVaLS-GL.
        environments: Where these come from. "error_set": what ERM gets right and what it gets wrong of each class,
            which is what EIIL converges to with two classes. "eiil": EIIL itself, for parity.
        eiil_steps: Of EIIL. Theirs (README).
        eiil_learning_rate: Of its Adam. Theirs (README).
        init: Always the ERM classifier: of the run, or, after a synthesis, one fitted with the pictures.
    """

    paper = "EVaLS (arXiv 2410.05345)"
    label_access: ClassVar[str] = "train: class; validation: class"

    name: Literal["evals"] = "evals"
    num_extremes: tuple[PositiveInt, ...] = Field((10, 20, 30, 40, 50, 70, 100, 150, 200, 250, 300), min_length=1)
    l1: tuple[float, ...] = Field((0.0, 0.01, 0.05, 0.1, 0.2, 1.0, 2.0), min_length=1)
    epochs: PositiveInt = 100
    batch_size: PositiveInt = 32
    learning_rate: float = Field(5e-4, gt=0)
    decay_epoch: PositiveInt = 85
    select_by: SelectBy = "environments"
    environments: Literal["error_set", "eiil"] = "error_set"
    eiil_steps: PositiveInt = 20_000
    eiil_learning_rate: float = Field(0.01, gt=0)
    init: Literal["erm"] = "erm"

    @field_validator("l1")
    @classmethod
    def _not_negative(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) < 0:
            raise ValueError("expected numbers of 0 or more")
        return values

    def check_counts(self, train_C: np.ndarray, val_C: np.ndarray) -> None:
        """Checks that validation can be halved, with enough in either half."""
        check_halves(val_C, what=self.name, least=LEAST_PER_CLASS)

    def selects_by(self) -> SelectBy | None:
        """Rows, penalty and epoch."""
        return self.select_by


Config = EvalsConfig


def fit(
    config: EvalsConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Replaces the classifier's head in place; gives back an entry for each pair of settings that was tried.

    Raises:
        DataError: A class has too few validation images.
        StageError: The loss is not finite.
    """
    return fit_frozen(fit_head, config, classifier, train, val, seed=seed, worker=worker)


def fit_head(config: EvalsConfig, given: HeadInputs, *, seed: int) -> tuple[Linear, list[dict[str, float]]]:
    """The head, and an entry for each pair of settings that was tried.

    Raises:
        DataError: A class has too few validation images.
    """
    check_halves(np.bincount(given.val.label_N, minlength=given.val.num_classes), what="evals", least=LEAST_PER_CLASS)
    pool_M, other_M = halves(given.val, seed=seed, what="evals")
    pool, val = given.val.use(Role.FIT, pool_M), given.val.use(Role.SELECT, other_M)
    loss_N = cross_entropies(given.first.logits(pool.features_ND), pool.label_N)
    group_N = _groups(config, val, given.first, seed=seed)
    best: Best[tuple[Linear, int]] = Best()
    entries: list[dict[str, float]] = []
    for num, rows_M in distinct_extremes(config.num_extremes, loss_N, pool).items():
        tried = [Best[Linear]() for _ in config.l1]
        for heads in fitted_heads(config, pool.take(rows_M), seed=row_seed(seed, "evals/head")):
            for found, head in zip(tried, heads, strict=True):
                found.offer(score_of(head.predict(val.features_ND), val.label_N, group_N), head)
        for found, l1 in zip(tried, config.l1, strict=True):
            assert found.item is not None
            best.offer(found.score, (found.item, len(entries)))
            worst, average = found.score
            entries.append({"num_extremes": num, "l1": l1, "val_worst_group": worst, "val_average": average})
    assert best.item is not None
    head, chosen = best.item
    return head, [{**entry, "chosen": float(number == chosen)} for number, entry in enumerate(entries)]


def _groups(config: EvalsConfig, val: Features, first: Linear, *, seed: int) -> np.ndarray:
    logits_NC = first.logits(val.features_ND)
    if config.select_by != "environments" or config.environments == "error_set":
        return selection_groups(config.select_by, val, logits_NC, seed=seed)
    gradient_N, rng = risk_gradients(logits_NC, val.label_N), np.random.default_rng(row_seed(seed, "evals/eiil"))
    group_N = 2 * val.label_N
    group_N += eiil(gradient_N, num_steps=config.eiil_steps, learning_rate=config.eiil_learning_rate, rng=rng)
    return np.asarray(group_N)


def distinct_extremes(numbers: tuple[int, ...], loss_N: np.ndarray, pool: Features) -> dict[int, np.ndarray]:
    """Rows to fit on for each number that makes a difference: positions in the pool, sorted."""
    found: dict[int, np.ndarray] = {}
    for num in numbers:
        rows = extremes(loss_N, pool.label_N, num=num)
        if not any(np.array_equal(rows, others) for others in found.values()):
            found[num] = rows
    return found


def extremes(loss_N: np.ndarray, label_N: np.ndarray, *, num: int) -> np.ndarray:
    """Positions of the rows of highest and of lowest loss of each class, sorted, (M,) int, none twice.

    Args:
        loss_N: Cross entropy of each row by ERM.
        label_N: Classes.
        num: k, how many of each; at most half of a class.

    Raises:
        DataError: A class has one row.
    """
    chosen = []
    for label in np.unique(label_N):
        own = np.flatnonzero(label_N == label)
        own = own[np.argsort(loss_N[own], kind="stable")]
        if len(own) < 2:
            raise DataError(f"algorithm evals has one validation image of class {label} to fit on; it needs 2 or more")
        k = min(num, len(own) // 2)
        chosen += [own[:k], own[-k:]]
    return np.sort(np.concatenate(chosen))


def fitted_heads(config: EvalsConfig, rows: Features, *, seed: int) -> Iterator[list[Linear]]:
    """Heads with each of the penalties after each epoch, all from the same start and on the same batches.

    They are fitted side by side, which is as if each were by itself: Adam goes by each weight alone.
    """
    rng, num_heads, num_features = np.random.default_rng(seed), len(config.l1), rows.features_ND.shape[1]
    features_ND, label_N = torch.from_numpy(rows.features_ND), torch.from_numpy(rows.label_N)
    bound = float(np.sqrt(6 / (num_features + rows.num_classes)))  # Xavier's
    first_CD = torch.from_numpy(rng.uniform(-bound, bound, size=(rows.num_classes, num_features)))
    weight_HCD = first_CD.repeat(num_heads, 1, 1).requires_grad_()
    bias_HC = torch.zeros((num_heads, rows.num_classes), dtype=torch.float64, requires_grad=True)
    l1_H = torch.tensor(config.l1, dtype=torch.float64)
    optimizer = torch.optim.Adam([weight_HCD, bias_HC], lr=config.learning_rate)
    for epoch in range(config.epochs):
        if epoch == config.decay_epoch:
            optimizer.param_groups[0]["lr"] = config.learning_rate / 10
        order = rng.permutation(len(rows))
        for start in range(0, len(rows), config.batch_size):
            drawn_M = torch.from_numpy(order[start : start + config.batch_size])
            logits_HMC = features_ND[drawn_M] @ weight_HCD.transpose(1, 2) + bias_HC[:, None]
            target_HM = label_N[drawn_M].expand(num_heads, -1)
            loss = num_heads * F.cross_entropy(logits_HMC.flatten(0, 1), target_HM.flatten())
            loss = loss + (l1_H * (weight_HCD.abs().sum((1, 2)) + bias_HC.abs().sum(1))).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        weights, biases = weight_HCD.detach().numpy().copy(), bias_HC.detach().numpy().copy()
        yield [Linear(weight_CD, bias_C) for weight_CD, bias_C in zip(weights, biases, strict=True)]
