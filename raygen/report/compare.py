"""Several finished runs -> one table: mean and spread over runs (seeds) of each result.

Runs of the same recipe on the same dataset are put together; everything else of their configs is taken to be equal
except the seed, so compare what you know to be comparable.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raygen.errors import RunFolderError
from raygen.report import figures
from raygen.report.collect import order_results, summarize
from raygen.report.html import render
from raygen.storage.writing import write_text

MEASURES = ("worst_group", "average")


def compare(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """One row per recipe, dataset, split and result.

    Returns:
        Plain rows with `recipe`, `dataset`, `split`, `result`, `num_runs`, `seeds`, and for each of `worst_group`
        and `average` a mapping of `mean`, `std` (sample standard deviation; null for one run), `min`, `max`.

    Raises:
        RunFolderError: No run, the same run twice, or one that is not finished.
        DataError: Damaged data.
    """
    if not runs:
        raise RunFolderError("no run to compare; give the folders of finished runs")
    if len({run.resolve() for run in runs}) < len(runs):
        raise RunFolderError("a run is given twice: it would count twice in mean and spread")
    values: dict[tuple[str, str, str, str], list[tuple[Any, dict[str, Any]]]] = defaultdict(list)
    for run in runs:
        summary = summarize(run)
        for result, by_split in summary["results"].items():
            for split, entry in by_split.items():
                values[summary["recipe"], summary["dataset"], split, result].append((summary["seed"], entry))
    return [_row(*place, values[place]) for place in _ordered(list(values))]


def write_comparison(runs: Sequence[Path], path: Path) -> list[dict[str, Any]]:
    """Writes the comparison as a page; gives back the rows of `compare`, and raises as that does."""
    rows = compare(runs)
    tables: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in rows:
        place = (row["recipe"], row["dataset"], row["split"])
        table = tables.setdefault(
            place, {"recipe": place[0], "dataset": place[1], "split": place[2], "seeds": "", "rows": []}
        )
        table["seeds"] = ", ".join(str(seed) for seed in row["seeds"])
        table["rows"].append({**row, "svg": _svg(row), "cells": [_cell(row[measure]) for measure in MEASURES]})
    context = {
        "tables": list(tables.values()),
        "axis": figures.percent_axis(),
        "num_runs": len(runs),
        "runs": [str(run) for run in runs],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render("compare.html.j2", context))
    return rows


def _ordered(places: list[tuple[str, str, str, str]]) -> list[tuple[str, str, str, str]]:
    """Test before val, results in the report's order."""

    def rank(place: tuple[str, str, str, str]) -> tuple[str, str, bool, int]:
        recipe, dataset, split, result = place
        names = order_results({p[3] for p in places if p[:3] == place[:3]}, recipe)
        return dataset, recipe, split != "test", names.index(result)

    return sorted(places, key=rank)


def _row(recipe: str, dataset: str, split: str, result: str, found: list[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    row: dict[str, Any] = {"recipe": recipe, "dataset": dataset, "split": split, "result": result}
    row |= {"num_runs": len(found), "seeds": sorted((seed for seed, _ in found), key=str)}
    for measure in MEASURES:
        values = [entry[measure] for _, entry in found]
        std = statistics.stdev(values) if len(values) > 1 else None
        row[measure] = {"mean": statistics.fmean(values), "std": std, "min": min(values), "max": max(values)}
    return row


def _svg(row: dict[str, Any]) -> str:
    worst = row["worst_group"]
    return figures.estimate_rows([figures.Estimate("after", row["result"], worst["mean"], worst["min"], worst["max"])])


def _cell(measure: dict[str, Any]) -> tuple[str, str]:
    mean = f"{100 * measure['mean']:.1f}"
    if measure["std"] is None:
        return mean, ""
    return f"{mean} ± {100 * measure['std']:.1f}", f"{100 * measure['min']:.1f} to {100 * measure['max']:.1f}"
