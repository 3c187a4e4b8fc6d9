"""The tables of `effect.py`: recipes beside each other, and each with its controls."""

import math
import statistics
from collections.abc import Mapping, Sequence

from _records import Record
from _runs import interval, spread

from raygen.run.names import find_recipe

# By seed: what a run was recorded to give, or why it could not be run.
Outcomes = dict[int, Record | str]


def overview(found: Mapping[str, Outcomes]) -> str:
    """Markdown: one row a recipe."""
    lines = [
        "| recipe | labels: train | labels: validation | seeds | worst-group accuracy, % | range | mean over groups, % "
        "| average accuracy, % | original / flipped, % | over its best control | over ERM | saliency AUPR, % "
        "| cost beyond ERM |",
        "|---" * 13 + "|",
    ]
    # The seeds of one study share their ERM, whichever recipe it is taken from.
    if of_erm := {seed: one for outcomes in reversed(list(found.values())) for seed, one in runs(outcomes).items()}:
        lines.append(row("erm", [of_erm[seed] for seed in sorted(of_erm)], labels="train: class"))
    for recipe, outcomes in found.items():
        labels, done = find_recipe(recipe)[1].label_access, list(runs(outcomes).values())
        if not done:
            reason = next((one for one in outcomes.values() if isinstance(one, str)), "not run").replace("|", "/")
            lines.append(f"| {recipe} | {' | '.join(labels_read(labels))} | {reason} |" + " |" * 9)
            continue
        shown = [name for name in (recipe, f"{recipe}_unpruned") if name in done[0].results]
        lines += [row(name, done, labels=labels, recipe=recipe) for name in shown]
    return "\n".join([*lines, "", *rests_on(found), ""])


def row(name: str, done: Sequence[Record], *, labels: str, recipe: str | None = None) -> str:
    worst, average = accuracies(done)
    own = [one.results[name] for one in done]
    best = best_control(worst, name, recipe)
    saliency = [100 * result.saliency_aupr for result in own if result.saliency_aupr is not None]
    sides = [
        (100 * result.usual, 100 * result.flipped)
        for result in own
        if result.usual is not None and result.flipped is not None
    ]
    cells = [
        name,
        *labels_read(labels),
        f"{len(done)}",
        spread(worst[name]),
        f"{min(worst[name]):.1f} to {max(worst[name]):.1f}",
        spread([100 * result.group_mean for result in own]),
        spread(average[name]),
        " / ".join(spread(side) for side in zip(*sides, strict=True)) if len(sides) == len(own) else "",
        interval(differences(worst[name], best)) if best else "",
        interval(differences(worst[name], worst["erm"])) if name != "erm" else "",
        spread(saliency) if saliency else "",
        "" if name == "erm" else cost_text(done, name),
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
    """What of training and of validation: "train: class; validation: group to select" in two.

    What only the pictures are made from is of training.
    """
    fit, _, to_generate = labels.partition(" (to generate: train: ")
    of_train, _, of_validation = fit.removeprefix("train: ").partition("; validation: ")
    return of_train + (f" ({to_generate[:-1]} to generate)" if to_generate else ""), of_validation or "none"


def cost_text(done: Sequence[Record], name: str) -> str:
    cpu_s, gpu_s = (statistics.mean(getattr(one.results[name], unit) for one in done) for unit in ("cpu_s", "gpu_s"))
    return f"{gpu_s:,.0f} GPU s, {cpu_s:,.0f} CPU s" if gpu_s else f"{cpu_s:,.0f} CPU s"


def rests_on(found: Mapping[str, Outcomes]) -> list[str]:
    """What the numbers rest on."""
    done = [one for outcomes in found.values() for one in runs(outcomes).values()]
    if not done:
        return []
    groups = done[0].results["erm"].groups
    smallest = min(group.n for group in groups)
    painters = sorted({painter for one in done for painter in one.painted_by})
    error = 100 * math.sqrt(0.25 / smallest)
    return [
        "Each number: mean and standard deviation over the seeds, of gains mean and Student's 95% interval of the "
        f"differences within a seed, on {sum(group.n for group in groups):,} test images of {done[0].dataset}, "
        f"{smallest:,} in the smallest group, where half right has a standard error of {error:.1f} points. Pictures "
        f"are painted by: {', '.join(painters) or 'nothing'}. Costs are of the machine named above, of the recipe's "
        "own steps, controls left out."
    ]


def runs(outcomes: Outcomes) -> dict[int, Record]:
    """Those that came to an end."""
    return {seed: one for seed, one in sorted(outcomes.items()) if isinstance(one, Record)}


def accuracies(done: Sequence[Record]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Worst-group and average test accuracy in percent, by result, one value a run; of results that all runs have."""
    names = [name for name in done[0].results if all(name in one.results for one in done)]
    worst = {name: [100 * one.results[name].worst_group for one in done] for name in names}
    average = {name: [100 * one.results[name].average for one in done] for name in names}
    return worst, average


def table(recipe: str, outcomes: Outcomes) -> str:
    """Markdown: mean, standard deviation and range over the seeds, then the gains within a seed.

    Nothing for a recipe without controls, all of which is in the overview.
    """
    done = list(runs(outcomes).values())
    if not done or set(done[0].results) <= {"erm", recipe}:
        return ""
    worst, average = accuracies(done)
    lines = [
        f"### {recipe}, seeds {', '.join(map(str, runs(outcomes)))}",
        "",
        "| result | worst-group accuracy, % | range | mean over groups, % | average accuracy, % |",
        "|---|---|---|---|---|",
    ]
    for name, values in worst.items():
        low, high = min(values), max(values)
        mean = spread([100 * one.results[name].group_mean for one in done])
        lines.append(f"| {name} | {spread(values)} | {low:.1f} to {high:.1f} | {mean} | {spread(average[name])} |")
    lines += ["", *gains(recipe, worst, average)]
    if made := [(one.generated, one.kept or 0) for one in done if one.generated]:
        kept = statistics.mean(kept / generated for generated, kept in made)
        lines.append(
            f"- pictures: {statistics.mean(generated for generated, _ in made):.0f} generated, {kept:.0%} kept"
        )
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


def against(base: str | None, found: Mapping[str, Outcomes]) -> list[str]:
    """What each recipe gains over one of them, within the seeds that both have."""
    if base is None or not (of_base := runs(found[base])):
        return []
    lines = [f"### Against {base}", "", "| recipe | seeds | worst-group accuracy, points | average accuracy, points |"]
    lines.append("|---|---|---|---|")
    for recipe, outcomes in found.items():
        seeds = sorted(of_base.keys() & runs(outcomes).keys())
        if recipe != base and seeds:
            pairs = [(runs(outcomes)[seed].results[recipe], of_base[seed].results[base]) for seed in seeds]
            worst = interval([100 * (one.worst_group - other.worst_group) for one, other in pairs])
            average = interval([100 * (one.average - other.average) for one, other in pairs])
            lines.append(f"| {recipe} | {len(seeds)} | {worst} | {average} |")
    return [*lines, ""]


def differences(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Within a seed."""
    return [value - other for value, other in zip(values, others, strict=True)]
