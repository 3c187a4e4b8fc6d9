"""What is said of measures beside accuracy: names, a sentence each, tables, and a scatter against accuracy."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from raygen.report.scatter import Point, scatter

MINUS, NONE = "\N{MINUS SIGN}", "\N{EN DASH}"

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Words:
    """A measure in words.

    Attributes:
        title: Its name.
        text: What it is, in a sentence.
        constant: What its `constant` comes from, a noun; empty where that is plain.
        is_signed: Whether it is a difference, which is written with its sign.
    """

    title: str
    text: str
    constant: str = ""
    is_signed: bool = False


# In the order of the tables; other measures in summary.json are for the record.
MEASURES = {
    "saliency_aupr": Words(
        "saliency AUPR",
        "how well the squared gradient of the true class's logit finds the object's pixels (area under precision and "
        "recall); higher is better.",
        "one score for all pixels",
    ),
    "deep_lift_aupr": Words(
        "DeepLIFT AUPR",
        "the same of DeepLiftShap's attributions against other pictures of the split.",
        "one score for all pixels",
    ),
    "pointing_game": Words(
        "pointing game",
        "how often the class activation map of the true class is hottest on the object; higher is better.",
        "a random pixel",
    ),
    "auc": Words(
        "AUC",
        "how well each class's logit sorts that class's pictures from others, averaged over classes; higher is better.",
        "a logit that knows nothing",
    ),
    "flip_rate": Words(
        "flip rate",
        "how often the answer changes when only the background is exchanged; lower is better.",
    ),
    "next_class_shift": Words(
        "next-class shift",
        "how far the next class's probability rises when only the background becomes that class's; nearer to 0 is "
        "better.",
        is_signed=True,
    ),
}


def shown(entries: Iterable[Entry]) -> list[str]:
    """Which measures some result has a value of, in the tables' order; entries are those of results on one split."""
    taken = [entry.get("measures", {}) for entry in entries]
    return [name for name in MEASURES if any(found.get(name, {}).get("value") is not None for found in taken)]


def absent(entries: Iterable[Entry]) -> list[str]:
    """One line for each measure that was taken and that no result has a value of: "flip rate: there are no pairs"."""
    entries = list(entries)
    lines = []
    for name, words in MEASURES.items():
        found = [entry["measures"][name] for entry in entries if name in entry.get("measures", {})]
        if found and all(measure["value"] is None for measure in found):
            lines.append(f"{words.title}: not measured: {found[0]['reason']}")
    return lines


def explained(entries: Iterable[Entry]) -> list[tuple[str, str]]:
    """Name and sentence of each measure that is shown, with what a score that knows nothing would give."""
    entries = list(entries)
    lines = []
    for name in shown(entries):
        words = MEASURES[name]
        found = [entry["measures"][name] for entry in entries if entry.get("measures", {}).get(name)]
        constants = {text(name, measure["constant"]) for measure in found if measure["constant"] is not None}
        by_chance = f" {words.constant.capitalize()} gives {' or '.join(sorted(constants))}." if words.constant else ""
        lines.append((words.title, f"{words.text[0].upper()}{words.text[1:]}{by_chance if constants else ''}"))
    return lines


def text(name: str, value: float | None) -> str:
    """A value in percent, or in points with its sign."""
    if value is None:
        return NONE
    return f"{100 * value:+.1f}".replace("-", MINUS) if MEASURES[name].is_signed else f"{100 * value:.1f}"


def interval_text(name: str, interval: Sequence[float] | None) -> str:
    """An interval in percent; empty where there is none."""
    return "" if interval is None else " to ".join(text(name, end) for end in interval)


def row_entry(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `compare` in the form of one run's result on one split, with means for values."""
    found = {name: {"value": over["mean"], "constant": over["constant"]} for name, over in row["measures"].items()}
    return {"worst_group": row["worst_group"]["mean"], "average": row["average"]["mean"], "measures": found}


def over_runs_text(name: str, over: Mapping[str, Any] | None) -> str:
    """Mean and standard deviation over runs."""
    if over is None:
        return NONE
    mean = text(name, over["mean"])
    return mean if over["std"] is None else f"{mean} ± {100 * over['std']:.1f}"


def table(entries: Mapping[str, Entry], *, split: str, recipe: str, noun: str) -> dict[str, Any]:
    """The page's section of one split; empty where nothing was measured.

    Args:
        entries: Those of results on the split, by name.
        split: Which.
        recipe: The result that is set off.
        noun: What the worst accuracy is of.
    """
    names, found = shown(entries.values()), [entry for entry in entries.values() if entry.get("measures")]
    rows = [
        {
            "name": result,
            "is_recipe": result == recipe,
            "cells": [_cell(name, entry.get("measures", {}).get(name)) for name in names],
        }
        for result, entry in entries.items()
    ]
    num = max((measure["n"] for entry in found for measure in entry["measures"].values()), default=0)
    return {
        "split": split,
        "num": num,
        "names": [MEASURES[name].title for name in names],
        "rows": rows,
        "explained": explained(found),
        "absent": absent(found),
        "scatter": scatters(
            [(result, result, entry) for result, entry in entries.items()], recipes={recipe}, noun=noun
        ),
    }


def scatters(results: Sequence[tuple[str, str, Entry]], *, recipes: set[str], noun: str) -> list[Markup]:
    """Saliency AUPR against worst-group and against average accuracy; nothing with fewer than two points.

    Args:
        results: (what it is called, the result's name, its entry) of each.
        recipes: The results that are recipes.
        noun: What the worst is of.
    """
    points: dict[str, list[Point]] = {"worst_group": [], "average": []}
    constants = []
    for called, result, entry in results:
        measure = entry.get("measures", {}).get("saliency_aupr")
        if measure is None or measure["value"] is None:
            continue
        constants.append(measure["constant"])
        role = "before" if result == "erm" else "after" if result in recipes else "other"
        for accuracy, of_accuracy in points.items():
            of_accuracy.append(Point(role, called, measure["value"], entry[accuracy]))
    if len(constants) < 2:
        return []
    names = {"worst_group": f"worst-{noun} accuracy", "average": "average accuracy"}
    constant = sum(constants) / len(constants)
    return [
        scatter(found, x_name="saliency AUPR", y_name=names[accuracy], constant=constant)
        for accuracy, found in points.items()
    ]


def _cell(name: str, measure: Entry | None) -> dict[str, str]:
    if measure is None or measure["value"] is None:
        return {"text": NONE, "interval": ""}
    return {"text": text(name, measure["value"]), "interval": interval_text(name, measure["interval"])}
