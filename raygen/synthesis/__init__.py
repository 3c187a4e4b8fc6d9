"""Syntheses: which images to generate from which. One paper, one file; each works with any algorithm.

A synthesis selects on the small scores table, on ids and numbers only; its pictures are made by the pipeline.
"""

from typing import Annotated, Any, Protocol

import pyarrow as pa
from pydantic import SerializeAsAny

from raygen.config import HasConfig, one_of
from raygen.datasets.table import DatasetInfo
from raygen.pruners import PruneThresholds
from raygen.synthesis import dac, dbb, scgs
from raygen.synthesis.base import SynthesisBase


class Synthesis(HasConfig[SynthesisBase], Protocol):
    """What a paper's module has."""

    def select(self, config: Any, scores: pa.Table, *, dataset: DatasetInfo, run_seed: int) -> pa.Table:
        """PLAN rows sorted by key, whatever the order of the scores.

        Args:
            config: The module's.
            scores: SCORE rows of the training split; failed ones are left out.
            dataset: Class names and prompts.
            run_seed: The run's seed.

        Raises:
            ConfigError: The config does not fit the dataset's classes.
            DataError: The scores do not hold the images that the synthesis needs.
        """
        ...

    def masker(self, config: Any, dataset: DatasetInfo) -> dict[str, Any]:
        """Fields of the masker's config (`raygen.maskers.MaskerConfig`).

        Raises:
            ConfigError: What is looked for does not fit the dataset's classes.
        """
        ...

    def thresholds(self, config: Any, scores: pa.Table, candidates: pa.Table) -> PruneThresholds:
        """What a candidate must reach to be kept.

        Args:
            config: The module's.
            scores: SCORE rows of the training split.
            candidates: CANDIDATE rows that take part in the fit, without pictures.
        """
        ...


# The registry, by the `name` of the config; what is put into it later counts too.
SYNTHESES: dict[str, Synthesis] = {"scgs": scgs, "dbb": dbb, "dac": dac}
SynthesisConfig = Annotated[SerializeAsAny[SynthesisBase], one_of(SYNTHESES)]


def of(config: SynthesisBase) -> Synthesis:
    """The module of a config."""
    return SYNTHESES[config.name]
