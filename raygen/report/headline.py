"""What may be said of results: against the best control first, and that chance is no success."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raygen.intervals import difference_interval
from raygen.report.words import noun_of

MINUS = "\N{MINUS SIGN}"
PLURALS = {"group": "groups", "class": "classes"}

Entry = Mapping[str, Any]


def chance_of(entry: Entry) -> float | None:
    """What a classifier that knows nothing has as its mean over groups, 1/C; None with one class."""
    num_classes = len({group["label"] for group in entry["groups"]})
    return 1 / num_classes if num_classes > 1 else None


def is_chance(entry: Entry) -> bool:
    """Whether the mean over groups may be that of a classifier that knows nothing, or lies below.

    Of entries from before there was such a mean, such as a sweep's, nothing is said.
    """
    chance, interval = chance_of(entry), entry.get("group_mean_ci")
    return chance is not None and interval is not None and interval[0] <= chance


def chance_words(entry: Entry) -> str:
    """What is said of a result at chance."""
    return f"no better than chance on balanced {PLURALS[noun_of(entry['groups'])]}"


def chance_line(of_split: Mapping[str, Entry]) -> str | None:
    """Who is at chance, with the mean over groups and its interval; None where nobody is."""
    found = {name: entry for name, entry in of_split.items() if is_chance(entry)}
    if not found:
        return None
    first = next(iter(found.values()))
    means = []
    for name, entry in found.items():
        low, high = entry["group_mean_ci"]
        means.append(f"{name} {100 * entry['group_mean']:.1f}% ({100 * low:.1f} to {100 * high:.1f})")
    return f"{chance_words(first)} (mean over them, chance is {100 * (chance_of(first) or 0):.1f}%): {', '.join(means)}"


@dataclass(frozen=True)
class Comparison:
    """A result against its best control.

    Attributes:
        control: Name of the control whose worst group is best.
        gain: Difference of the worst groups' accuracies, in [-1, 1].
        interval: Its 95% interval.
        verdict: What it shows.
    """

    control: str
    gain: float
    interval: tuple[float, float]
    verdict: str


def controls_of(name: str, of_split: Mapping[str, Any], recipe: str, counts: Entry | None) -> list[str]:
    """Names of the controls that have as many extra rows as a result.

    Args:
        name: The result.
        of_split: All results.
        recipe: The run's recipe.
        counts: What became of the pictures: where none was pruned, the recipe's controls are those of "_unpruned".
    """
    own = [control for control in of_split if control.startswith("control_")]
    if name == recipe:
        return own
    if name != f"{recipe}_unpruned":
        return []
    nothing_pruned = counts is not None and counts["kept"] == counts["generated"]
    return [control for control in of_split if control.startswith("unpruned_control_")] or own * nothing_pruned


def against_best(
    name: str, of_split: Mapping[str, Entry], recipe: str, counts: Entry | None = None
) -> Comparison | None:
    """How a result stands against the strongest control: what its pictures bring; None where it has no controls."""
    controls = controls_of(name, of_split, recipe, counts)
    if name not in of_split or not controls:
        return None
    best = max(controls, key=lambda control: of_split[control]["worst_group"])
    ours, theirs = of_split[name], of_split[best]
    interval = difference_interval(
        ours["worst_group"], ours["worst_group_ci"], theirs["worst_group"], theirs["worst_group_ci"]
    )
    if is_chance(ours):
        verdict = f"{chance_words(ours)}: whatever its worst group, this is no success"
    elif interval[0] > 0:
        verdict = "more than the size of the test split explains; seeds vary too"
    elif interval[1] < 0:
        verdict = "the generated pictures do worse than this control"
    else:
        verdict = "no clear difference: this run alone does not show that the pictures help"
    return Comparison(best, ours["worst_group"] - theirs["worst_group"], interval, verdict)


def lines(summary: Entry, of_split: Mapping[str, Entry], *, noun: str) -> list[str]:
    """What has to be known before any gain, one line each: against the best control, over ERM, who is at chance."""
    recipe, counts = summary.get("recipe"), summary.get("synthesis")
    found = []
    for name in (recipe, f"{recipe}_unpruned") if recipe else ():
        if name not in of_split or name == "erm":
            continue
        comparison = against_best(name, of_split, str(recipe), counts)
        if comparison is not None:
            low, high = comparison.interval
            found.append(
                f"{name} against its best control, {comparison.control}: {points(comparison.gain)} of the worst "
                f"{noun} ({signed(low)} to {signed(high)}): {comparison.verdict}"
            )
        if "erm" in of_split:
            gain = points(of_split[name]["worst_group"] - of_split["erm"]["worst_group"])
            found.append(f"{name} over erm: {gain} of the worst {noun}")
    return [*found, *([line] if (line := chance_line(of_split)) else [])]


def signed(difference: float) -> str:
    """A difference of shares in points, "+1.2"."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def points(difference: float) -> str:
    """The same with its unit."""
    return f"{signed(difference)} points"
