"""The tables of `effect.py`: recipes beside each other, and each with its controls."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _costs import costs
from _runs import Attempt, interval, spread

from raygen.run.names import find_recipe
from raygen.storage.parts import read_parts

# Steps that are the same for all recipes, or only look.
SHARED = {"data", "erm", "evaluation", "measures"}


def overview(by_recipe: Mapping[str, Sequence[Attempt]]) -> str:
    """Markdown: one row a recipe."""
    lines = [
        "| recipe | labels: train | labels: validation | worst-group accuracy, % | range | mean over groups, % "
        "| average accuracy, % | original / flipped, % | over its best control | over ERM | saliency AUPR, % "
        "| cost beyond ERM |",
        "|---" * 12 + "|",
    ]
    done = {recipe: finished(found) for recipe, found in by_recipe.items()}
    if first := next((found for found in done.values() if found), None):
        lines.append(row("erm", first, labels="train: class"))  # a run's first fit takes its last epoch
    for recipe, found in by_recipe.items():
        labels = find_recipe(recipe)[1].label_access
        if not done[recipe]:
            reason = next((one.reason for one in found if one.reason), "not run").replace("|", "/")
            lines.append(f"| {recipe} | {' | '.join(labels_read(labels))} | {reason} |" + " |" * 8)
            continue
        shown = [name for name in (recipe, f"{recipe}_unpruned") if name in results(done[recipe][0])]
        lines += [row(name, done[recipe], labels=labels, recipe=recipe) for name in shown]
    return "\n".join([*lines, "", *rests_on(by_recipe), ""])


def row(name: str, found: Sequence[Attempt], *, labels: str, recipe: str | None = None) -> str:
    worst, average = accuracies(found)
    low, high = min(worst[name]), max(worst[name])
    over_erm = interval(differences(worst[name], worst["erm"])) if name != "erm" else ""
    best = best_control(worst, name, recipe)
    over_best = interval(differences(worst[name], best)) if best else ""
    saliency = [100 * value for one in found if (value := saliency_of(one, name)) is not None]
    sides = [side for one in found if (side := flipped(one, name)) is not None]
    cells = [
        name,
        *labels_read(labels),
        spread(worst[name]),
        f"{low:.1f} to {high:.1f}",
        spread([100 * results(one)[name]["test"]["group_mean"] for one in found]),
        spread(average[name]),
        " / ".join(spread([100 * side[i] for side in sides]) for i in (0, 1)) if len(sides) == len(found) else "",
        over_best,
        over_erm,
        spread(saliency) if saliency else "",
        "" if name == "erm" else cost_text([cost(one.folder, name) for one in found]),
    ]
    return f"| {' | '.join(cells)} |"


def best_control(worst: Mapping[str, Sequence[float]], name: str, recipe: str | None) -> list[float]:
    """What the best of a result's controls has in each seed; nothing where it has none.

    The recipe's controls have as many extra rows as were kept; without pruning there are more, also of its controls.
    """
    prefix = {recipe: "control_", f"{recipe}_unpruned": "unpruned_control_"}.get(name)
    controls = [values for other, values in worst.items() if prefix is not None and other.startswith(prefix)]
    return [max(values) for values in zip(*controls, strict=True)]


def labels_read(labels: str) -> tuple[str, str]:
    """What of training and of validation: "train: class; validation: group to select" in two."""
    said = dict(part.partition(": ")[::2] for part in labels.split("; "))
    return said.pop("train", ""), said.pop("validation", "none")


def cost(folder: Path, name: str) -> tuple[float, float]:
    """CPU and GPU seconds of the steps that a result has beyond ERM: its own, not those of controls."""
    found = costs(folder)
    others = {f"fit/{other}" for other in results_in(folder) if other != name}
    own = [step for step in found if step not in SHARED | others]
    return sum(found[step]["cpu_s"] for step in own), sum(found[step]["gpu_s"] for step in own)


def cost_text(found: Sequence[tuple[float, float]]) -> str:
    cpu_s, gpu_s = (statistics.mean(values) for values in zip(*found, strict=True))
    return f"{gpu_s:,.0f} GPU s, {cpu_s:,.0f} CPU s" if gpu_s else f"{cpu_s:,.0f} CPU s"


def flipped(one: Attempt, name: str) -> tuple[float, float] | None:
    """Test accuracy before the backgrounds that are the commonest of each class in training, and before others."""
    assert one.summary is not None
    groups = one.summary["results"][name]["test"]["groups"]
    rows = read_parts(one.folder / "data", columns=["label", "attribute", "split"]).to_pylist()
    counts = Counter((row["label"], row["attribute"]) for row in rows if row["split"] == "train")
    if any(attribute is None for _, attribute in counts) or any(group["attribute"] is None for group in groups):
        return None
    usual = {place for place in counts if counts[place] == max(counts[p] for p in counts if p[0] == place[0])}
    sides = []
    for is_usual in (True, False):
        own = [group for group in groups if ((group["label"], group["attribute"]) in usual) == is_usual]
        if not own:
            return None
        sides.append(float(np.average([g["accuracy"] for g in own], weights=[g["n"] for g in own])))
    return sides[0], sides[1]


def rests_on(by_recipe: Mapping[str, Sequence[Attempt]]) -> list[str]:
    """What the numbers rest on."""
    done = [one for found in by_recipe.values() for one in finished(found)]
    if not done:
        return []
    assert done[0].summary is not None
    groups = done[0].summary["results"]["erm"]["test"]["groups"]
    smallest = min(group["n"] for group in groups)
    models = sorted({model for one in done for model in models_of(one.folder)})
    error = 100 * math.sqrt(0.25 / smallest)
    return [
        f"Each number: mean and standard deviation over {max(len(found) for found in by_recipe.values())} seed(s), of "
        "gains mean and Student's 95% interval of the differences within a seed, on "
        f"{sum(group['n'] for group in groups):,} test images of {done[0].summary['dataset']}, {smallest:,} in the "
        f"smallest group, where half right has a standard error of {error:.1f} points. Pictures are painted by: "
        f"{', '.join(models) or 'nothing'}. Costs are this machine's, of the recipe's own steps, controls left out."
    ]


def models_of(folder: Path) -> set[str]:
    """What painted the candidates of a run."""
    if not (folder / "candidates" / "manifest.json").is_file():
        return set()
    return set(read_parts(folder / "candidates", columns=["model_id"])["model_id"].to_pylist())


def finished(found: Sequence[Attempt]) -> list[Attempt]:
    return [one for one in found if one.summary is not None]


def results(one: Attempt) -> Mapping[str, Any]:
    assert one.summary is not None
    return dict(one.summary["results"])


def results_in(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("fit/*/manifest.json")}


def saliency_of(one: Attempt, name: str) -> float | None:
    measure = results(one)[name]["test"].get("measures", {}).get("saliency_aupr")
    return None if measure is None else measure["value"]


def accuracies(found: Sequence[Attempt]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Worst-group and average test accuracy in percent, by result, one value a seed."""
    worst, average = defaultdict(list), defaultdict(list)
    for one in found:
        for name, splits in results(one).items():
            worst[name].append(100 * splits["test"]["worst_group"])
            average[name].append(100 * splits["test"]["average"])
    return worst, average


def table(recipe: str, attempts: Sequence[Attempt]) -> str:
    """Markdown: mean, standard deviation and range over the seeds, then the gains within a seed."""
    found = finished(attempts)
    if not found:
        return ""
    worst, average = accuracies(found)
    lines = [
        f"### {recipe}, {len(found)} seeds",
        "",
        "| result | worst-group accuracy, % | range | average accuracy, % |",
        "|---|---|---|---|",
    ]
    for name, values in worst.items():
        low, high = min(values), max(values)
        lines.append(f"| {name} | {spread(values)} | {low:.1f} to {high:.1f} | {spread(average[name])} |")
    lines += ["", *gains(recipe, worst, average)]
    counts = [one.summary["synthesis"] for one in found if one.summary is not None and one.summary["synthesis"]]
    if counts:
        kept = statistics.mean(count["kept"] / max(1, count["generated"]) for count in counts)
        lines.append(f"- pictures: {statistics.mean(c['generated'] for c in counts):.0f} generated, {kept:.0%} kept")
    return "\n".join([*lines, ""])


def gains(recipe: str, worst: dict[str, list[float]], average: dict[str, list[float]]) -> list[str]:
    """Differences within a seed, which leave out what a seed does to all of its fits; with 95% intervals."""
    lines = []
    for name in (recipe, f"{recipe}_unpruned"):
        if name not in worst:
            continue
        best = best_control(worst, name, recipe)
        line = f"- {name}: points of worst-group accuracy"
        line += f" {interval(differences(worst[name], best))} over the seed's best control," if best else ""
        line += f" {interval(differences(worst[name], worst['erm']))} over ERM"
        lines.append(f"{line}; average accuracy {interval(differences(average[name], average['erm']))}")
    return lines


def against(base: str | None, by_recipe: Mapping[str, Sequence[Attempt]]) -> list[str]:
    """What each recipe gains over one of them, within a seed."""
    if base is None or not all(finished(found) == list(found) for found in by_recipe.values()):
        return []
    lines = [f"### Against {base}", "", "| recipe | worst-group accuracy, points | average accuracy, points |"]
    lines.append("|---|---|---|")
    base_worst, base_average = (found[base] for found in accuracies(by_recipe[base]))
    for recipe, found in by_recipe.items():
        if recipe != base:
            worst, average = (values[recipe] for values in accuracies(found))
            cells = interval(differences(worst, base_worst)), interval(differences(average, base_average))
            lines.append(f"| {recipe} | {' | '.join(cells)} |")
    return [*lines, ""]


def differences(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Within a seed."""
    return [value - other for value, other in zip(values, others, strict=True)]
