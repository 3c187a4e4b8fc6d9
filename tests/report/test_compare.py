import statistics
from pathlib import Path
from typing import Any

import pytest
from report_runs import CORRECT, EVALUATION, write_run

from raygen.errors import RunFolderError
from raygen.report.compare import compare, write_comparison

WORSE = {name: {**splits, "test": tuple(max(c - 1, 0) for c in splits["test"])} for name, splits in CORRECT.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, finished_run: Path, erm_run: Path) -> Any:
    second = write_run(tmp_path_factory.mktemp("runs") / "dbb-1", seed=1, correct=WORSE)
    return [finished_run, second, erm_run]


def test_means_and_spread_are_over_seeds(runs: list[Path]) -> None:
    rows = compare(runs)
    (row,) = [r for r in rows if (r["recipe"], r["split"], r["result"]) == ("dbb", "test", "dbb")]
    worst = [
        min(c / n for c, n in zip(correct["dbb"]["test"], EVALUATION["test"], strict=True))
        for correct in (CORRECT, WORSE)
    ]
    assert (row["num_runs"], row["seeds"], row["dataset"]) == (2, [0, 1], "scenes")
    assert row["worst_group"] == {
        "mean": pytest.approx(statistics.fmean(worst)),
        "std": pytest.approx(statistics.stdev(worst)),
        "min": min(worst),
        "max": max(worst),
    }


def test_one_run_has_no_spread(runs: list[Path]) -> None:
    (row,) = [r for r in compare(runs) if r["recipe"] == "erm" and r["split"] == "test"]
    assert row["num_runs"] == 1
    assert row["average"]["std"] is None
    assert row["average"]["min"] == row["average"]["mean"] == row["average"]["max"]


def test_test_comes_before_val_and_results_in_order(runs: list[Path]) -> None:
    places = [(row["split"], row["result"]) for row in compare(runs) if row["recipe"] == "dbb"]
    names = ["erm", "dbb", "control_flat"]
    assert places == [("test", name) for name in names] + [("val", name) for name in names]


def test_comparison_page_has_every_row(runs: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "new" / "comparison.html"
    rows = write_comparison(runs, path)
    text = path.read_text(encoding="utf-8")
    assert text.count('<th scope="row">') == len(rows)
    assert "3 runs compared" in text
    assert "<script" not in text


def test_wrong_lists_of_runs_are_errors(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no run"):
        compare([])
    with pytest.raises(RunFolderError, match="twice"):
        compare([runs[0], runs[0]])
    with pytest.raises(RunFolderError, match="not a run's folder"):
        compare([runs[0], tmp_path])
