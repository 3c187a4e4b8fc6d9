"""Several finished runs -> one table: mean and spread over runs (seeds) of each result.

Runs of the same recipe on the same dataset are put together; everything else of their configs is taken to be equal
except the seed, so compare what you know to be comparable.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raygen.errors import RunFolderError
from raygen.report import figures, measures
from raygen.report.collect import order_results, summarize
from raygen.report.html import render
from raygen.report.words import noun_of
from raygen.storage.writing import write_text

MEASURES = ("worst_group", "group_mean", "average")


def compare(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """One row per recipe, dataset, split and result.

    Returns:
        Plain rows with `recipe`, `dataset`, `split`, `result`, `num_runs`, `seeds`, `noun` ("class" where no attribute
        is known: then the worst group is the worst class), and for each of `worst_group`, `group_mean` and `average` a
        mapping of `mean`, `std` (sample standard deviation; null for one run), `min`, `max`. `measures` has such
        mappings by name, over the runs that have the measure, with its mean `constant` too.

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
        table["noun"] = row["noun"]
        table["seeds"] = ", ".join(str(seed) for seed in row["seeds"])
        table["rows"].append({**row, "svg": _svg(row), "cells": [_cell(row[measure]) for measure in MEASURES]})
    for table in tables.values():
        _add_measures(table)
    context = {
        "tables": list(tables.values()),
        "scatters": _scatters(rows),
        "axis": figures.percent_axis(),
        "num_runs": len(runs),
        "runs": [str(run) for run in runs],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render("compare.html.j2", context))
    return rows


def _add_measures(table: dict[str, Any]) -> None:
    """Columns of the measures that some result of the table has, and a sentence on each."""
    entries = [measures.row_entry(row) for row in table["rows"]]
    names = measures.shown(entries)
    table["measures"] = [measures.MEASURES[name].title for name in names]
    table["explained"] = measures.explained(entries)
    for row in table["rows"]:
        row["measure_cells"] = [_measure_cell(name, row["measures"].get(name)) for name in names]


def _scatters(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each dataset and split that has them: saliency AUPR against accuracy, one dot for each recipe's results."""
    found = []
    for place in dict.fromkeys((row["dataset"], row["split"]) for row in rows):
        own = [row for row in rows if (row["dataset"], row["split"]) == place]
        recipes, several = {row["recipe"] for row in own}, len({row["recipe"] for row in own}) > 1
        # ERM is the same fit in every recipe's run of a seed: once is enough.
        kept = [row for row in own if row["result"] != "erm" or row["recipe"] == own[0]["recipe"]]
        called = [_called(row, several=several) for row in kept]
        results = [(name, row["result"], measures.row_entry(row)) for name, row in zip(called, kept, strict=True)]
        panels = measures.scatters(results, recipes=recipes, noun=own[0]["noun"])
        if panels:
            found.append({"dataset": place[0], "split": place[1], "panels": panels})
    return found


def _called(row: Mapping[str, Any], *, several: bool) -> str:
    """A result's name; a control's with its recipe where there are several."""
    own_name = not several or row["result"] in {"erm", row["recipe"]}
    return str(row["result"]) if own_name else f"{row['result']} ({row['recipe']})"


def _measure_cell(name: str, over: Mapping[str, Any] | None) -> tuple[str, str]:
    text = measures.over_runs_text(name, over)
    if over is None or over["std"] is None:
        return text, ""
    return text, f"{measures.text(name, over['min'])} to {measures.text(name, over['max'])}"


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
    row["noun"] = noun_of([group for _, entry in found for group in entry["groups"]])
    for measure in MEASURES:
        row[measure] = _over_runs([entry[measure] for _, entry in found])
    row["measures"] = {}
    for name in measures.MEASURES:
        taken = [entry["measures"][name] for _, entry in found if entry.get("measures", {}).get(name)]
        taken = [measure for measure in taken if measure["value"] is not None]
        if taken:
            constants = [measure["constant"] for measure in taken if measure["constant"] is not None]
            constant = statistics.fmean(constants) if constants else None
            row["measures"][name] = {**_over_runs([measure["value"] for measure in taken]), "constant": constant}
    return row


def _over_runs(values: Sequence[float]) -> dict[str, float | None]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "min": min(values), "max": max(values)}


def _svg(row: dict[str, Any]) -> str:
    worst = row["worst_group"]
    return figures.estimate_rows([figures.Estimate("after", row["result"], worst["mean"], worst["min"], worst["max"])])


def _cell(measure: dict[str, Any]) -> tuple[str, str]:
    mean = f"{100 * measure['mean']:.1f}"
    if measure["std"] is None:
        return mean, ""
    return f"{mean} ± {100 * measure['std']:.1f}", f"{100 * measure['min']:.1f} to {100 * measure['max']:.1f}"
