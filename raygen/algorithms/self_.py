"""SELF: the last layer again, on the few held-out images about which an early and the final classifier disagree.

LaBonte et al. 2023, "Towards Last-layer Retraining for Group Robustness with Fewer Annotations" (NeurIPS, arXiv
2309.08534). Where the two disagree, images tend to be of the minority.
"""

# N rows, M of a batch, D features, C classes

import logging
from itertools import product
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator

from raygen.algorithms.base import AlgorithmBase, FirstFit
from raygen.algorithms.features import Features, Role, check_halves, halves
from raygen.algorithms.heads import (
    HeadConfig,
    HeadInputs,
    Linear,
    cross_entropies,
    fit_frozen,
    log_softmax,
)
from raygen.algorithms.selection import Best, SelectBy, score_of, selection_groups
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import PositiveInt
from raygen.errors import ConfigError
from raygen.seeding import row_seed
from raygen.worker import Worker

logger = logging.getLogger(__name__)

EARLY_SCORES = ("early_disagreement", "early_misclassification")


class SelfConfig(HeadConfig):
    """SELF. Half of validation is the pool that is chosen from, the other half selects among the settings.

    Differs: the halves are drawn class by class; the authors shuffle all. The features are those of the evaluation
    mode without augmentation, by which the rows were scored; the authors' code fits in training mode with augmentation.
    The early classifier is a fit of its own with fewer epochs, not a state on the way of the ERM fit.

    Attributes:
        score: What rows are chosen by, the highest first. "early_disagreement" (theirs): KL(early || final) / C.
            "dropout_disagreement": the same between the final classifier with and without dropout before its head.
            "misclassification" and "early_misclassification": cross entropy of the final or the early classifier.
            "random".
        early_fraction: Epochs of the early classifier, of ERM's; theirs: 0.1, 0.2 and 0.5 are tried.
        dropout: Share of features that dropout disagreement drops; theirs: 0.5, 0.7 and 0.9 are tried.
        num_rows: How many rows, over all classes; each is tried, and more than half of the pool is half of it.
        learning_rates: Each is tried; of all pairs the first best on the other half is taken.
        num_steps: Steps of a fine-tuning from ERM's head, always all of them.
        batch_size: Rows of a step, drawn with replacement, each class equally often.
        momentum: Of SGD. (In the authors' code 0.9 is set where it has no effect; parity wants 0.)
        weight_decay: L2.
        select_by: What the selecting half is told apart by, see `raygen.algorithms.selection`.
        init: Always the ERM classifier: of the run, or, after a synthesis, one fitted with the pictures.
    """

    paper = "SELF (LaBonte et al. 2023, arXiv 2309.08534)"
    label_access: ClassVar[str] = (
        "train: class; validation: class of the chosen rows; group, to select (class, where none is known)"
    )

    name: Literal["self"] = "self"
    score: Literal[
        "early_disagreement", "dropout_disagreement", "misclassification", "early_misclassification", "random"
    ] = "early_disagreement"
    early_fraction: float = Field(0.2, gt=0, le=1)
    dropout: float = Field(0.5, gt=0, lt=1)
    num_rows: tuple[PositiveInt, ...] = Field((20, 100, 500), min_length=1)
    learning_rates: tuple[float, ...] = Field((1e-4, 1e-3, 1e-2), min_length=1)
    num_steps: PositiveInt = 250
    batch_size: PositiveInt = 32
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    select_by: SelectBy = "auto"
    init: Literal["erm"] = "erm"

    @field_validator("learning_rates")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) <= 0:
            raise ValueError("expected numbers above 0")
        return values

    def check_counts(self, train_C: np.ndarray, val_C: np.ndarray) -> None:
        """Checks that validation can be halved."""
        check_halves(val_C, what=self.name)

    def selects_by(self) -> SelectBy | None:
        """Rows and rate."""
        return self.select_by

    def first_fits(self, erm: AlgorithmBase, *, has_extra: bool) -> list[FirstFit]:
        """The features, and the early classifier beside them."""
        fits = [*super().first_fits(erm, has_extra=has_extra)]
        if self.score in EARLY_SCORES:
            epochs = max(1, round(self.early_fraction * getattr(erm, "epochs", 1)))
            early = erm.model_copy(update={"epochs": epochs, "select": "last"})
            fits.append(FirstFit(early, "self_early", "early classifier", beside=True))
        return fits


Config = SelfConfig


def fit(
    config: SelfConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Replaces the classifier's head in place; gives back an entry for each pair of settings that was tried.

    The early classifier is `worker.beside`.

    Raises:
        DataError: A class has too few validation images.
    """
    return fit_frozen(fit_head, config, classifier, train, val, seed=seed, worker=worker)


def fit_head(config: SelfConfig, given: HeadInputs, *, seed: int) -> tuple[Linear, list[dict[str, float]]]:
    """The head, and an entry for each pair of settings that was tried.

    Raises:
        ConfigError: The rows are to be chosen by an early classifier, and there is none.
        DataError: A class has too few validation images.
    """
    pool_M, other_M = halves(given.val, seed=seed, what=config.name)
    pool, val = given.val.use(Role.FIT, pool_M), given.val.use(Role.SELECT, other_M)
    early_NC = None if given.early_NC is None else given.early_NC[pool_M]
    order_N = order(scores(config, pool, given.first, early_NC, seed=seed))
    group_N = selection_groups(config.select_by, val, given.first.logits(val.features_ND), seed=seed)
    best, entries = Best[Linear](), []
    sizes = dict.fromkeys(min(num, max(1, len(pool) // 2)) for num in config.num_rows)
    for num, rate in product(sizes, config.learning_rates):
        rows = pool.take(order_N[:num])
        head = tuned(rows, given.first, rate=rate, config=config, seed=row_seed(seed, f"self/{num}"))
        score = score_of(head.predict(val.features_ND), val.label_N, group_N)
        best.offer(score, head)
        entry = {"num_rows": num, "learning_rate": rate, "val_worst_group": score[0], "val_average": score[1]}
        entries.append({**entry, "classes": float((rows.counts_C > 0).sum()), "chosen": 0.0})
        if (rows.counts_C == 0).any():
            logger.warning("SELF: the %d chosen rows are of %d class(es) only", num, int((rows.counts_C > 0).sum()))
    assert best.item is not None
    chosen = next(entry for entry in entries if (entry["val_worst_group"], entry["val_average"]) == best.score)
    chosen["chosen"] = 1.0
    return best.item, entries


def scores(config: SelfConfig, pool: Features, final: Linear, early_NC: np.ndarray | None, *, seed: int) -> np.ndarray:
    """By what each row of the pool is chosen, (N,) float.

    Args:
        config: Which score.
        pool: The rows.
        final: ERM's head.
        early_NC: Logits of the early classifier.
        seed: Of dropout and of the random baseline.

    Raises:
        ConfigError: The early classifier is asked for, and there is none.
    """
    rng, final_NC = np.random.default_rng(row_seed(seed, f"self/{config.score}")), final.logits(pool.features_ND)
    if config.score in EARLY_SCORES and early_NC is None:
        raise ConfigError(
            f"algorithm.score is {config.score}, which needs logits of an earlier state of the classifier, and there "
            "are none; take misclassification or dropout_disagreement"
        )
    match config.score:
        case "random":
            return rng.random(len(pool))
        case "misclassification":
            return cross_entropies(final_NC, pool.label_N)
        case "dropout_disagreement":
            kept_ND = rng.random(pool.features_ND.shape) >= config.dropout
            dropped_NC = final.logits(pool.features_ND * kept_ND / (1 - config.dropout))
            return disagreement(dropped_NC, final_NC)
        case "early_misclassification":
            assert early_NC is not None
            return cross_entropies(early_NC, pool.label_N)
        case _:
            assert early_NC is not None
            return disagreement(early_NC, final_NC)


def disagreement(early_NC: np.ndarray, final_NC: np.ndarray) -> np.ndarray:
    """KL(early || final) / C of the softmax of two classifiers' logits, (N,) float, 0 or more."""
    early_log_NC, final_log_NC = log_softmax(early_NC), log_softmax(final_NC)
    return np.asarray((np.exp(early_log_NC) * (early_log_NC - final_log_NC)).mean(axis=1))


def order(score_N: np.ndarray) -> np.ndarray:
    """Positions from the highest score to the lowest, equal ones as they stand, (N,) int."""
    if len(score_N) > 1 and not np.ptp(score_N):
        logger.warning("SELF: all %d rows of the pool have the same score; they are taken as they stand", len(score_N))
    return np.argsort(-score_N, kind="stable")


def tuned(rows: Features, first: Linear, *, rate: float, config: SelfConfig, seed: int) -> Linear:
    """ERM's head after some steps on the chosen rows."""
    rng = np.random.default_rng(seed)
    present = np.flatnonzero(rows.counts_C)
    probability_N = 1 / (len(present) * rows.counts_C[rows.label_N])
    features_ND, label_N = torch.from_numpy(rows.features_ND), torch.from_numpy(rows.label_N)
    weight_CD = torch.from_numpy(first.weight_CD.copy()).requires_grad_()
    bias_C = torch.from_numpy(first.bias_C.copy()).requires_grad_()
    optimizer = torch.optim.SGD(
        [weight_CD, bias_C], lr=rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    for _ in range(config.num_steps):
        drawn_M = torch.from_numpy(rng.choice(len(rows), size=config.batch_size, p=probability_N))
        loss = F.cross_entropy(features_ND[drawn_M] @ weight_CD.T + bias_C, label_N[drawn_M])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Linear(weight_CD.detach().numpy(), bias_C.detach().numpy())
