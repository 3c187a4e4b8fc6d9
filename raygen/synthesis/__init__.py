"""Syntheses: which images to generate from which. One paper, one file; each works with any algorithm.

A synthesis selects on the small scores table, on ids and numbers only; its pictures are made by the pipeline.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, assert_never

import numpy as np
import pyarrow as pa
from pydantic import Field

from raygen.datasets.table import DatasetInfo
from raygen.maskers.language import AnyFinder, absolute_finder
from raygen.pruners import PruneThresholds
from raygen.synthesis import dbb, scgs
from raygen.synthesis.dbb import DbbConfig
from raygen.synthesis.scgs import ScgsConfig

SynthesisConfig = Annotated[ScgsConfig | DbbConfig, Field(discriminator="name")]


def select(config: ScgsConfig | DbbConfig, scores: pa.Table, *, dataset: DatasetInfo, run_seed: int) -> pa.Table:
    """PLAN rows sorted by key, whatever the order of the scores.

    Args:
        config: One of `SynthesisConfig`.
        scores: SCORE rows of the training split; failed ones are left out.
        dataset: Class names and prompts.
        run_seed: The run's seed.

    Raises:
        ConfigError: The config does not fit the dataset's classes.
        DataError: The scores do not hold the images that the synthesis needs.
    """
    match config:
        case ScgsConfig():
            return scgs.select(config, scores, dataset=dataset, run_seed=run_seed)
        case DbbConfig():
            return dbb.select(config, scores, dataset=dataset, run_seed=run_seed)
        case _:
            assert_never(config)


def thresholds(config: ScgsConfig | DbbConfig, scores: pa.Table, candidates: pa.Table) -> PruneThresholds:
    """What a candidate must reach to be kept.

    Args:
        config: One of `SynthesisConfig`.
        scores: SCORE rows of the training split.
        candidates: CANDIDATE rows that take part in the fit, without pictures.
    """
    match config:
        case ScgsConfig():
            return scgs.thresholds(config, scores, candidates)
        case DbbConfig():
            return dbb.thresholds(config, scores, candidates)
        case _:
            assert_never(config)


def masker(config: ScgsConfig | DbbConfig, *, dataset: DatasetInfo) -> dict[str, Any]:
    """Fields of the masker's config (`raygen.maskers.MaskerConfig`).

    Raises:
        ConfigError: What is looked for does not fit the dataset's classes.
    """
    match config:
        case ScgsConfig():
            return scgs.masker(config)
        case DbbConfig():
            return dbb.masker(config, dataset)
        case _:
            assert_never(config)


def finder(config: ScgsConfig | DbbConfig) -> AnyFinder | None:
    """The models that find objects by name, where the masker uses any."""
    match config:
        case ScgsConfig():
            return None
        case DbbConfig():
            return config.language if config.mask == "language" else None
        case _:
            assert_never(config)


def with_absolute_models(config: ScgsConfig | DbbConfig) -> ScgsConfig | DbbConfig:
    """The config with the folders of the models that find objects in full, for workers."""
    models = finder(config)
    return config if models is None else config.model_copy(update={"language": absolute_finder(models)})


def identification_epochs(config: ScgsConfig | DbbConfig) -> int | None:
    """Epochs of the ERM classifier whose scores are selected by; None: all of them."""
    match config:
        case ScgsConfig():
            return config.mis_epoch + 1 if config.mis_source == "epoch" else None
        case DbbConfig():
            return None
        case _:
            assert_never(config)


def identification_folds(config: ScgsConfig | DbbConfig) -> int | None:
    """Folds by whose out-of-fold predictions is selected; None: by those of the one identification classifier."""
    match config:
        case ScgsConfig():
            return config.num_folds if config.mis_source == "kfold" else None
        case DbbConfig():
            return None
        case _:
            assert_never(config)


def attribution(config: ScgsConfig | DbbConfig) -> tuple[Literal["exact", "ig"], int]:
    """How rho is computed, and the steps of integrated gradients."""
    match config:
        case ScgsConfig():
            return "exact", 1  # nothing is pruned by it; two forward passes are cheap enough for the report
        case DbbConfig():
            return config.attribution, config.num_steps
        case _:
            assert_never(config)


def check_classes(config: ScgsConfig | DbbConfig, counts: Mapping[str, int]) -> None:
    """Checks before any work that a config fits a dataset's classes.

    Args:
        config: One of `SynthesisConfig`.
        counts: Training images by class name, in order of label.

    Raises:
        ConfigError: A list in the config does not fit the classes.
        DataError: A class has fewer images than asked for.
    """
    match config:
        case ScgsConfig():
            scgs.clusters_per_class(config.num_clusters, num_classes=len(counts))
        case DbbConfig():
            dbb.check_classes(config, counts)
        case _:
            assert_never(config)


def num_sources(config: ScgsConfig | DbbConfig, counts_C: np.ndarray) -> list[int] | None:
    """Training images of each class that the config takes, whether or not there are as many; None: not known before.

    Raises:
        ConfigError: The config has another number of classes.
    """
    match config:
        case ScgsConfig():
            return None
        case DbbConfig():
            return dbb.num_selected(config.k, counts_C)
        case _:
            assert_never(config)
