"""A pool of a larger amount, filtered, is what a run of the smaller amount would have kept."""

import numpy as np
import pyarrow as pa
import pytest
from score_tables import dataset, score_table
from small_sweeps import small_sweep

from raygen import synthesis
from raygen.errors import StageError
from raygen.pruners import verdicts
from raygen.run.config import RunConfig
from tune.selection import select_candidates


def scores() -> pa.Table:
    labels = [0] * 30 + [1] * 20
    return score_table(labels, np.random.default_rng(0).normal(size=(50, 2)) + np.eye(2)[labels])


def generated(config: RunConfig, *, seed: int = 0) -> pa.Table:
    """Candidates of a config's plan whose scores depend on the key only, as if painted; every ninth failed."""
    assert config.synthesis is not None
    plan = synthesis.of(config.synthesis).select(config.synthesis, scores(), dataset=dataset(), run_seed=seed)
    numbers = [int(key[3:8]) for key in plan["key"].to_pylist()]
    status = ["failed" if number % 9 == 0 else "ok" for number in numbers]
    psi = [None if s == "failed" else (number * 0.37) % 1 for number, s in zip(numbers, status, strict=True)]
    rho = [None if s == "failed" else (number * 0.73) % 3 - 1 for number, s in zip(numbers, status, strict=True)]
    table = plan.append_column("status", pa.array(status)).append_column(
        "source_probability", pa.array(psi, pa.float32())
    )
    return table.append_column("attribution_inside", pa.array(rho, pa.float32()))


def config(**fields: object) -> RunConfig:
    run = small_sweep().run
    assert run.synthesis is not None
    return run.model_copy(update={"synthesis": run.synthesis.model_copy(update=fields)})


@pytest.mark.parametrize(
    "fields",
    [
        {"k": 0.3},
        {"k": 0.3, "source_probability_test": "off"},
        {"k": 7, "attribution_threshold": (0.5, 0.1)},
        {"k": 0.6, "attribution_test": "absolute", "attribution_threshold": 0.4},
        {"k": 0.6, "prune": False},
        {"k": 1.0},
    ],
)
def test_the_filtered_pool_is_what_a_run_keeps(fields: dict[str, object]) -> None:
    pool = generated(config(k=1.0))
    found = select_candidates(config(**fields), scores=scores(), candidates=pool, dataset=dataset())
    own = generated(config(**fields))
    assert pool.take(found.rows).equals(own)
    chosen = config(**fields).synthesis
    assert chosen is not None
    limits = synthesis.of(chosen).thresholds(chosen, scores(), own)
    kept_N, reasons = verdicts(own, limits)
    assert found.thresholds == limits
    assert found.reasons == reasons
    assert pool["key"].take(found.kept).to_pylist() == own["key"].filter(pa.array(kept_N)).to_pylist()
    assert 0 < len(found.kept) < len(found.rows)


def test_a_pool_that_is_too_small_is_an_error_not_a_smaller_trial() -> None:
    with pytest.raises(StageError, match=r"lacks 10 of 25 planned pictures"):
        select_candidates(config(k=0.5), scores=scores(), candidates=generated(config(k=0.3)), dataset=dataset())


def test_pictures_of_another_seed_are_not_taken_for_these() -> None:
    with pytest.raises(AssertionError):
        select_candidates(config(k=0.3), scores=scores(), candidates=generated(config(), seed=1), dataset=dataset())
