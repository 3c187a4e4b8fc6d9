"""What the page says of accuracies: headline numbers, the chart per group, the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from raygen.datasets.rows import RowIndex
from raygen.groups import group_name
from raygen.intervals import wilson_interval
from raygen.report import figures, measures
from raygen.report.figures import percent
from raygen.report.headline import PLURALS, against_best, chance_of, chance_words, is_chance, points, signed
from raygen.report.selection import selection_line
from raygen.report.words import NO_ATTRIBUTE, describe_result, noun_of

# With more groups a table is wider than any screen; the chart shows the lowest ones.
MAX_TABLE_GROUPS = 8
MAX_CHART_GROUPS = 16
NONE = "\N{EN DASH}"

Entry = Mapping[str, Any]


def main_split(summary: Entry) -> str:
    """The split whose numbers stand first: test, or val where no image is in test."""
    return "test" if any("test" in by_split for by_split in summary["results"].values()) else "val"


def group_noun(summary: Entry) -> str:
    """What the groups of the main split are: "group", or "class" without attributes."""
    split = main_split(summary)
    entries = [by_split[split] for by_split in summary["results"].values() if split in by_split]
    return noun_of([group for entry in entries for group in entry["groups"]])


def results(summary: Entry, rows: RowIndex) -> dict[str, Any]:
    """Headline numbers, the chart per group, and a table per split."""
    split, recipe, noun = main_split(summary), summary["recipe"], group_noun(summary)
    of_split = {name: by_split[split] for name, by_split in summary["results"].items() if split in by_split}
    before, after = of_split.get("erm") if recipe != "erm" else None, of_split.get(recipe)
    shown = after or next(iter(of_split.values()))
    return {
        "results_lead": f"{split.capitalize()} split. The worst {noun} is the one with the lowest accuracy, "
        f"whichever it is. {selection_line(summary)}".rstrip()
        + (f" {NO_ATTRIBUTE}; accuracy per class and what is measured beside it is what is known." * (noun == "class")),
        "cards": [
            *_control_card(of_split, recipe, noun=noun),
            *_accuracy_cards(before, shown, rows, split=split, noun=noun),
            *_picture_card(summary["synthesis"], summary.get("generated_share", {}).get(recipe)),
        ],
        "chart": _chart(before, shown, rows, name=recipe if after else next(iter(of_split))),
        "measures": measures.table(of_split, split=split, recipe=recipe, noun=noun),
        "tables": [_table(summary, name, rows) for name in dict.fromkeys((split, "val")) if _has(summary, name)],
    }


def _has(summary: Entry, split: str) -> bool:
    return any(split in by_split for by_split in summary["results"].values())


def _name(group: Entry, rows: RowIndex) -> str:
    classes, attributes = rows.dataset.class_names, rows.dataset.attribute_names
    return group_name(group["label"], group["attribute"], class_names=classes, attribute_names=attributes)


def _worst(entry: Entry) -> Entry:
    return min(entry["groups"], key=lambda group: group["accuracy"])


def _interval(entry: Entry) -> str:
    return _between(entry["worst_group_ci"])


def _between(interval: Sequence[float]) -> str:
    low, high = interval
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _accuracy_cards(
    before: Entry | None, after: Entry, rows: RowIndex, *, split: str, noun: str
) -> list[dict[str, Any]]:
    worst, average = percent(after["worst_group"]), percent(after["average"])
    adjusted = after["adjusted_average"]
    if before is None:
        was = average_was = ""
        lines = [f"{_name(_worst(after), rows)}; interval {_interval(after)}"]
        average_lines = [] if adjusted is None else [f"Adjusted {percent(adjusted)}"]
    else:
        was, average_was = percent(before["worst_group"]), percent(before["average"])
        gain = points(after["worst_group"] - before["worst_group"])
        lines = [
            f"{gain}; intervals {_interval(before)} and {_interval(after)}",
            f"Worst before: {_name(_worst(before), rows)}; after: {_name(_worst(after), rows)}",
        ]
        average_lines = [points(after["average"] - before["average"])]
        if adjusted is not None and before["adjusted_average"] is not None:
            average_lines.append(f"Adjusted {percent(before['adjusted_average'])} → {percent(adjusted)}")
    return [
        {"name": f"Worst-{noun} accuracy, {split}", "was": was, "value": worst, "lines": lines},
        _mean_card(before, after, split=split, noun=noun),
        {"name": f"Average accuracy, {split}", "was": average_was, "value": average, "lines": average_lines},
    ]


def _mean_card(before: Entry | None, after: Entry, *, split: str, noun: str) -> dict[str, Any]:
    """The unweighted mean over groups: their sizes do not count."""
    low, high = after["group_mean_ci"]
    lines = [f"Interval {100 * low:.1f} to {100 * high:.1f}; a classifier that knows nothing: {_chance(after)}"]
    if is_chance(after):
        lines.insert(0, f"{chance_words(after).capitalize()}: whatever the worst {noun}, this is no success")
    was = "" if before is None else percent(before["group_mean"])
    return {
        "name": f"Mean over {PLURALS[noun]}, {split}",
        "was": was,
        "value": percent(after["group_mean"]),
        "lines": lines,
    }


def _chance(entry: Entry) -> str:
    chance = chance_of(entry)
    return NONE if chance is None else percent(chance)


def _picture_card(counts: Entry | None, share: float | None) -> list[dict[str, Any]]:
    if counts is None:
        return []
    pruned = sum(counts["pruned"].values())
    lines = [f"of {counts['planned']:,} planned: {pruned:,} pruned, {counts['failed']:,} failed"]
    if share is not None:
        lines.append(f"They hold {share:.0%} of the loss")
    return [{"name": "Generated pictures kept", "was": "", "value": f"{counts['kept']:,}", "lines": lines}]


def _control_card(of_split: Mapping[str, Entry], recipe: str, *, noun: str) -> list[dict[str, Any]]:
    """How the recipe stands against the strongest control: what the generated pictures bring."""
    found = against_best(recipe, of_split, recipe)
    if found is None:
        return []
    low, high = found.interval
    lines = [
        f"{found.control}: worst {noun} {percent(of_split[found.control]['worst_group'])}",
        f"Interval of the difference {signed(low)} to {signed(high)}: {found.verdict}",
    ]
    return [{"name": "Against the best control", "was": "", "value": points(found.gain), "lines": lines}]


def _chart(before: Entry | None, after: Entry, rows: RowIndex, *, name: str) -> dict[str, Any]:
    first = {group["group"]: group for group in (before or after)["groups"]}
    second = {group["group"]: group for group in after["groups"]}
    shown = list(first.values())
    left_out = max(0, len(shown) - MAX_CHART_GROUPS)
    if left_out:
        shown = sorted(shown, key=lambda group: group["accuracy"])[:MAX_CHART_GROUPS]
    worst_before, worst_after = _worst(before or after)["group"], _worst(after)["group"]
    chart_rows = []
    for group in shown:
        number = group["group"]
        estimates = [_estimate("before", "erm", group)] if before else []
        estimates += [_estimate("after", name, second[number])] if number in second else []
        moments = ["before"] if before and number == worst_before else []
        moments += ["after"] if before and number == worst_after else []
        is_worst = number in (worst_before, worst_after)
        note = " ".join(["worst", " and ".join(moments)]).strip() if is_worst else ""
        svg = figures.estimate_rows(estimates)
        chart_rows.append({"name": _name(group, rows), "num": group["n"], "note": note, "svg": svg})
    key = [{"role": "before", "name": "erm"}] if before else []
    key.append({"role": "after", "name": name})
    return {"rows": chart_rows, "key": key, "axis": figures.percent_axis(), "left_out": left_out}


def _estimate(role: str, name: str, group: Entry) -> figures.Estimate:
    low, high = wilson_interval(round(group["accuracy"] * group["n"]), group["n"])
    return figures.Estimate(role, name, group["accuracy"], low, high)


def _table(summary: Entry, split: str, rows: RowIndex) -> dict[str, Any]:
    recipe = summary["recipe"]
    entries = {name: by_split[split] for name, by_split in summary["results"].items() if split in by_split}
    first = next(iter(entries.values()))["groups"]
    groups = first if len(first) <= MAX_TABLE_GROUPS else []
    lines = []
    for name, entry in entries.items():
        accuracy = {group["group"]: group["accuracy"] for group in entry["groups"]}
        worst = _worst(entry)["group"]
        cells = [
            {
                "text": f"{100 * accuracy[g['group']]:.1f}" if g["group"] in accuracy else NONE,
                "is_worst": g["group"] == worst,
            }
            for g in groups
        ]
        adjusted = entry["adjusted_average"]
        lines.append(
            {
                "name": name,
                "text": describe_result(name, recipe),
                "is_recipe": name == recipe,
                "worst": f"{100 * entry['worst_group']:.1f}",
                "interval": _interval(entry),
                "mean": f"{100 * entry['group_mean']:.1f}",
                "mean_note": chance_words(entry) if is_chance(entry) else _between(entry["group_mean_ci"]),
                "average": f"{100 * entry['average']:.1f}",
                "adjusted": NONE if adjusted is None else f"{100 * adjusted:.1f}",
                "cells": cells,
            }
        )
    return {
        "split": split,
        "num": sum(group["n"] for group in first),
        "has_adjusted": any(entry["adjusted_average"] is not None for entry in entries.values()),
        "groups": [{"name": _name(group, rows), "num": group["n"]} for group in groups],
        "rows": lines,
    }
