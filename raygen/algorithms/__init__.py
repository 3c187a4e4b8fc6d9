"""Algorithms: rows to classifier. One paper, one file; each works with any synthesis, or none."""

from typing import Annotated, Any, Protocol

from pydantic import SerializeAsAny

from raygen.algorithms import (
    afr,
    balanced,
    dac_head,
    dfr,
    erm,
    evals,
    group_dro,
    hsfm,
    jtt,
    lff,
    lisa,
    masktune,
    nsf,
    reweighted,
    self_,
)
from raygen.algorithms.base import AlgorithmBase
from raygen.algorithms.heads import FitHead, HeadConfig
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import HasConfig, one_of
from raygen.worker import Worker


class Algorithm(HasConfig[AlgorithmBase], Protocol):
    """What a paper's module has."""

    def fit(
        self, config: Any, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
    ) -> list[dict[str, float]]:
        """Fits a classifier in place; gives back one entry per epoch (dfr: per penalty tried).

        Args:
            config: The module's.
            classifier: Weights to start from.
            train: What to fit on.
            val: What to select the epoch by (dfr: what to fit the head on).
            seed: Order of images, augmentation, draws.
            worker: Where this runs.

        Raises:
            ConfigError: A list in the config does not fit the classes.
            DataError: The algorithm needs groups that the dataset does not have.
            StageError: The loss is not finite.
        """
        ...


# The registry, by the `name` of the config; what is put into it later counts too.
ALGORITHMS: dict[str, Algorithm] = {
    "erm": erm,
    "balanced": balanced,
    "reweighted": reweighted,
    "jtt": jtt,
    "group_dro": group_dro,
    "dfr": dfr,
    "lisa": lisa,
    "lff": lff,
    "masktune": masktune,
    "dac_head": dac_head,
    "nsf": nsf,
    "afr": afr,
    "self": self_,
    "evals": evals,
    "hsfm": hsfm,
}
AlgorithmConfig = Annotated[SerializeAsAny[AlgorithmBase], one_of(ALGORITHMS)]


class HeadAlgorithm(Algorithm, Protocol):
    """What the module of an algorithm that fits only a new last layer has."""

    fit_head: FitHead


def head_algorithms() -> dict[str, HeadAlgorithm]:
    """The algorithms that fit only a new last layer, on features, by name."""
    heads: dict[str, Any] = {
        name: module for name, module in ALGORITHMS.items() if issubclass(module.Config, HeadConfig)
    }
    return heads


def of(config: AlgorithmBase) -> Algorithm:
    """The module of a config."""
    return ALGORITHMS[config.name]
