"""Which candidates of a set a config asks for, and which of those it keeps: what `raygen run` of it would."""

# M candidates of the set

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raygen import synthesis
from raygen.datasets.table import DatasetInfo
from raygen.errors import StageError
from raygen.pruners import PruneThresholds, verdicts
from raygen.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class Selection:
    """A config's part of a candidate set.

    Attributes:
        rows: Positions in the candidate set of the candidates that it asks for, in order of key.
        reasons: Of each of these, why it is not kept; None where it is.
        thresholds: What they were measured by.
    """

    rows: np.ndarray
    reasons: list[str | None]
    thresholds: PruneThresholds

    @property
    def kept(self) -> np.ndarray:
        """Positions in the candidate set of those that are kept."""
        return self.rows[[reason is None for reason in self.reasons]]


def select_candidates(config: RunConfig, *, scores: pa.Table, candidates: pa.Table, dataset: DatasetInfo) -> Selection:
    """A config's part of a candidate set that was generated for a larger amount.

    Args:
        config: A trial's config.
        scores: SCORE rows that the candidate set was planned by.
        candidates: The candidate set's CANDIDATE rows without pictures, sorted by key.
        dataset: Class names and prompts.

    Raises:
        StageError: The candidate set lacks a picture that the config asks for.
    """
    assert config.synthesis is not None
    plan = synthesis.of(config.synthesis).select(
        config.synthesis, scores, dataset=dataset, run_seed=config.seed_of_pictures
    )
    place = {key: row for row, key in enumerate(candidates["key"].to_pylist())}
    keys = plan["key"].to_pylist()
    missing = [key for key in keys if key not in place]
    if missing:
        raise StageError(f"the pool lacks {len(missing)} of {len(keys)} planned pictures, such as '{missing[0]}'")
    rows = np.array([place[key] for key in keys], dtype=np.int64)
    chosen = candidates.take(rows)
    # The same seeds, or the pictures would be others under equal names.
    assert chosen["seed"].to_pylist() == plan["seed"].to_pylist()
    thresholds = synthesis.of(config.synthesis).thresholds(config.synthesis, scores, chosen)
    return Selection(rows, verdicts(chosen, thresholds)[1], thresholds)
