"""Algorithms: rows to classifier. A registry of configs and the function that fits each."""

# N images, C classes, A attributes

from typing import Annotated, assert_never

import numpy as np
from pydantic import Field

from raygen.algorithms.balanced import BalancedConfig, fit_balanced, gammas
from raygen.algorithms.dfr import DfrConfig, check_validation, fit_dfr
from raygen.algorithms.erm import ErmConfig, fit_erm
from raygen.algorithms.group_dro import GroupDroConfig, fit_group_dro
from raygen.algorithms.jtt import JttConfig, fit_jtt
from raygen.algorithms.reweighted import ReweightedConfig, fit_reweighted
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.worker import Worker

AnyAlgorithm = ErmConfig | BalancedConfig | ReweightedConfig | JttConfig | GroupDroConfig | DfrConfig
AlgorithmConfig = Annotated[AnyAlgorithm, Field(discriminator="name")]


def fit(
    config: AnyAlgorithm,
    classifier: Classifier,
    train: TrainingSet,
    val: TrainingSet,
    *,
    seed: int,
    worker: Worker,
    error_N: np.ndarray | None = None,
) -> list[dict[str, float]]:
    """Fits a classifier in place by the configured algorithm; gives back one entry per epoch (dfr: per penalty tried).

    Args:
        config: One of `AlgorithmConfig`.
        classifier: Weights to start from.
        train: What to fit on.
        val: What to select the epoch by (dfr: what to fit the head on).
        seed: Order of images, augmentation, draws.
        worker: Where this runs.
        error_N: JTT's error set, (N,) bool, from `jtt.find_errors`; the others ignore it.

    Raises:
        DataError: The algorithm needs groups that the dataset does not have.
        StageError: The loss is not finite.
    """
    match config:
        case ErmConfig():
            return fit_erm(config, classifier, train, val, seed=seed, worker=worker)
        case BalancedConfig():
            return fit_balanced(config, classifier, train, val, seed=seed, worker=worker)
        case ReweightedConfig():
            return fit_reweighted(config, classifier, train, val, seed=seed, worker=worker)
        case JttConfig():
            assert error_N is not None, "JTT is fitted in two steps: find_errors comes first"
            return fit_jtt(config, classifier, train, val, error_N=error_N, seed=seed, worker=worker)
        case GroupDroConfig():
            return fit_group_dro(config, classifier, train, val, seed=seed, worker=worker)
        case DfrConfig():
            return fit_dfr(config, classifier, train, val, seed=seed, worker=worker)
        case _:
            assert_never(config)


def check_classes(config: AnyAlgorithm, *, num_classes: int) -> None:
    """Checks before any work that a config fits a dataset's classes.

    Raises:
        ConfigError: A list in the config does not.
    """
    if isinstance(config, BalancedConfig):
        gammas(config.gamma, num_classes=num_classes)


def check_groups(config: AnyAlgorithm, counts_CA: np.ndarray) -> None:
    """Checks before any work that the groups an algorithm needs are large enough for it.

    Args:
        config: The algorithm.
        counts_CA: Images of each class with each attribute, (C, A) int, of the split `needs_groups_of` names.

    Raises:
        DataError: They are not.
    """
    if isinstance(config, DfrConfig):
        check_validation(counts_CA)


def needs_groups_of(config: AnyAlgorithm) -> str | None:
    """The split whose images must all have an attribute, "train" or "val"; None: neither."""
    match config:
        case ReweightedConfig() | GroupDroConfig():
            return "train"
        case DfrConfig():
            return "val"
        case ErmConfig() | BalancedConfig() | JttConfig():
            return None
        case _:
            assert_never(config)
