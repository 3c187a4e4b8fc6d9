"""The ranking: what is above what, what can be chosen, and what decides."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from small_sweeps import small_sweep, toy_task

from raygen.errors import StageError
from tune.domains import Domain
from tune.ranking import chosen, importances, num_alike, rank, warning_of_small_validation, write_ranking
from tune.records import Outcome, Progress, Record
from tune.trial import SharedRows, Task


@pytest.fixture
def task(scenes_folder: Path, tmp_path: Path, ray_session: None) -> Task:
    """Validation: 80 images, 20 of each group."""
    return toy_task(small_sweep("tiny", validation_splits=0), scenes_folder, tmp_path)


def record(task: Task, k: float, *shares: float, status: Any = "complete") -> Record:
    """A trial after whose epochs a share of every group was right."""
    rows: SharedRows = ray.get(task.rows)
    group_N = np.asarray(rows.val.group_N)
    progress = Progress(params={"synthesis.k": k}, begun=k, pool="p", epochs_planned=2, planned=4, kept=3)
    for epoch, share in enumerate(shares):
        rank_N = np.array([(group_N[:i] == group).sum() for i, group in enumerate(group_N)])
        progress.add({"epoch": epoch, "loss": 0.0, "val_average": share, "val_worst_group": share}, rank_N < 20 * share)
    error = "ValueError: bang" if status == "failed" else None
    return Record(f"{k}", progress, Outcome(status, 2 if error else 0, error))


def test_only_a_complete_trial_is_ranked_first_however_good_another_was_when_it_was_stopped(task: Task) -> None:
    records = [
        record(task, 0.1, 0.5, 0.6),
        record(task, 0.2, 0.9, status="stopped"),
        record(task, 0.3, status="failed"),
        record(task, 0.4, 0.7, 0.65),
        record(task, 0.5, 0.2, status="stopped"),
    ]
    ranked = rank(task, records, ray.get(task.rows))
    assert [row["params"]["synthesis.k"] for row in ranked] == [0.4, 0.1, 0.2, 0.5, 0.3]
    assert [row["worst_group"] for row in ranked] == [0.7, 0.6, 0.9, 0.2, None]
    assert [row["trial"] for row in ranked] == [4, 1, 2, 5, 3]
    assert ranked[0]["epoch"] == 1
    assert chosen(ranked) == ranked[0]
    # (14 + 1) / (20 + 2): a standard error of ten points, which holds 0.6 just so.
    assert ranked[0]["standard_error"] == pytest.approx((15 / 22 * 7 / 22 / 20) ** 0.5)
    assert num_alike(ranked) == 2
    assert num_alike([{**ranked[0], "standard_error": 0.05}, *ranked[1:]]) == 1


def test_without_a_complete_trial_nothing_is_chosen_and_the_reasons_are_named(task: Task) -> None:
    ranked = rank(task, [record(task, 0.3, status="failed"), record(task, 0.2, status="failed")], ray.get(task.rows))
    with pytest.raises(StageError, match="none of 2 trials was completed: ValueError: bang"):
        chosen(ranked)


def test_the_ranking_on_disk_has_a_column_for_each_parameter_of_one_type(task: Task, tmp_path: Path) -> None:
    ranked = rank(task, [record(task, 0.1, 0.5, 0.6), record(task, 0.3, status="failed")], ray.get(task.rows))
    ranked[0]["params"] |= {"a": 1, "b": "off"}
    ranked[1]["params"] |= {"a": 0.5, "b": 3}
    write_ranking(ranked, tmp_path / "sweep.parquet")
    rows = pq.read_table(tmp_path / "sweep.parquet").to_pylist()
    assert [(row["synthesis.k"], row["a"], row["b"]) for row in rows] == [(0.1, 1.0, "off"), (0.3, 0.5, "3")]
    assert [(row["status"], row["crashes"], row["error"]) for row in rows] == [
        ("complete", 0, None),
        ("failed", 2, "ValueError: bang"),
    ]


def test_importance_goes_to_the_parameter_that_decides() -> None:
    domains = {
        "decides": Domain(low=0.0, high=1.0),
        "does_not": Domain(low=1, high=10),
        "nor": Domain(values=("a", "b")),
    }
    rng = np.random.default_rng(0)
    ranked = []
    for _ in range(60):
        params: dict[str, Any] = {
            "decides": rng.random(),
            "does_not": int(rng.integers(1, 11)),
            "nor": str(rng.choice(["a", "b"])),
        }
        ranked.append({"params": params, "worst_group": params["decides"] ** 2})
    shares = importances(ranked, domains, metric="worst_group", seed=0)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["decides"] > 0.9
    assert shares == importances(ranked, domains, metric="worst_group", seed=0)
    assert importances(ranked[:1], domains, metric="worst_group", seed=0) == {}
    assert importances([{**row, "worst_group": 0.5} for row in ranked], domains, metric="worst_group", seed=0) == {}


def test_a_small_validation_split_is_warned_of() -> None:
    """MetaShift's 81 images; 0.5 / sqrt(16) is 12 points."""
    warning = warning_of_small_validation(np.repeat([0, 1, 2, 3], [16, 20, 20, 25]))
    assert warning is not None
    assert "81 images, 16 in its smallest group" in warning
    assert "a standard error of 12 points" in warning
    of_classes = warning_of_small_validation(np.repeat([0, 1], [40, 41]), noun="class")
    assert of_classes is not None
    assert "40 in its smallest class: a worst-class accuracy" in of_classes
    assert warning_of_small_validation(np.repeat([0, 1], [100, 400])) is None
