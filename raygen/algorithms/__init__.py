"""Algorithms: rows to classifier. A registry of configs and the function that fits each."""

from typing import Annotated, assert_never

from pydantic import Field

from raygen.algorithms.balanced import BalancedConfig, fit_balanced
from raygen.algorithms.erm import ErmConfig, fit_erm
from raygen.algorithms.reweighted import ReweightedConfig, fit_reweighted
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.worker import Worker

AnyAlgorithm = ErmConfig | BalancedConfig | ReweightedConfig
AlgorithmConfig = Annotated[AnyAlgorithm, Field(discriminator="name")]


def fit(
    config: AnyAlgorithm,
    classifier: Classifier,
    train: TrainingSet,
    val: TrainingSet,
    *,
    seed: int,
    worker: Worker,
) -> list[dict[str, float]]:
    """Fits a classifier in place by the configured algorithm; gives back one entry per epoch."""
    match config:
        case ErmConfig():
            return fit_erm(config, classifier, train, val, seed=seed, worker=worker)
        case BalancedConfig():
            return fit_balanced(config, classifier, train, val, seed=seed, worker=worker)
        case ReweightedConfig():
            return fit_reweighted(config, classifier, train, val, seed=seed, worker=worker)
        case _:
            assert_never(config)
