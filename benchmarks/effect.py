"""Worst-group accuracy of the recipes, their controls and plain ERM on the scenes, over seeds.

Every seed draws another dataset, other weights and other pictures: one `raygen run` each, with all the controls, and
for `dbb` also without pruning. Runs of one seed share what is the same in them (`--reuse`): rows, ERM, candidates. An
interrupted study goes on where it stopped.

    make results                                             # all recipes, three seeds, into docs/results.md
    python benchmarks/effect.py --recipes dbb --seeds 5
    python benchmarks/effect.py --recipes scgs --set synthesis.tau=0.5 --out runs/effect_tau
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from _runs import run, spread

IMAGES_PER_CLASS = 500  # those of `raygen demo`
OVERRIDES = {
    "erm_reweighted": [],
    "jtt": [],
    "group_dro": [],
    "dfr": [],
    "scgs": [],
    "scgs+jtt": [],
    "dbb": [f"synthesis.k={IMAGES_PER_CLASS}", "unpruned=true"],
}
# Where the tables go in a document.
BEGIN, END = "<!-- made by `make results`: begin -->", "<!-- made by `make results`: end -->"


def main() -> None:
    """Runs what is missing, then prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/effect"))
    parser.add_argument("--recipes", nargs="+", choices=OVERRIDES, default=list(OVERRIDES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override a field of every run")
    parser.add_argument("--into", type=Path, help="a document to write the tables into, between their two marks")
    arguments = parser.parse_args()
    if arguments.into and not all(mark in arguments.into.read_text(encoding="utf-8") for mark in (BEGIN, END)):
        parser.error(f"{arguments.into} has no lines '{BEGIN}' and '{END}'")
    by_recipe = defaultdict(list)
    for seed in range(arguments.seeds):
        for recipe in arguments.recipes:
            by_recipe[recipe].append(study(recipe, seed, arguments.out, arguments.overrides))
    tables = [overview(by_recipe), *(table(recipe, found) for recipe, found in by_recipe.items())]
    text = "\n".join(tables)
    (arguments.out / "effect.md").write_text(text, encoding="utf-8")
    if arguments.into:
        # Read only now: it may have been edited in the hours since.
        before, _, rest = arguments.into.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        arguments.into.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")
    print(text)


def study(recipe: str, seed: int, out: Path, overrides: list[str]) -> dict[str, Any]:
    """The summary of one run; runs of one seed share what is the same in them."""
    settings = [*OVERRIDES[recipe], *overrides, f"seed={seed}"]
    folder = out / f"{recipe}_{seed}"
    return run([recipe, "--dataset", "scenes"], folder, settings=settings, reuse=sorted(out.glob(f"*_{seed}")))


def overview(by_recipe: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: one row a recipe."""
    lines = [
        "| recipe | worst-group accuracy, % | range | average accuracy, % | over ERM | over its best control |",
        "|---|---|---|---|---|---|",
    ]
    first = next(iter(by_recipe.values()))
    worst, average = accuracies(first)
    lines.append(row("erm", worst, average))
    for recipe, summaries in by_recipe.items():
        worst, average = accuracies(summaries)
        lines += [row(name, worst, average) for name in (recipe, f"{recipe}_unpruned") if name in worst]
    return "\n".join([*lines, ""])


def row(name: str, worst: dict[str, list[float]], average: dict[str, list[float]]) -> str:
    low, high = min(worst[name]), max(worst[name])
    controls = [values for other, values in worst.items() if other.startswith("control_")]
    over_erm = spread([a - b for a, b in zip(worst[name], worst["erm"], strict=True)]) if name != "erm" else ""
    best = [max(values) for values in zip(*controls, strict=True)]
    # The controls have as many extra rows as were kept; without pruning there are more.
    has_controls = best and name != "erm" and not name.endswith("_unpruned")
    over_best = spread([a - b for a, b in zip(worst[name], best, strict=True)]) if has_controls else ""
    cells = [name, spread(worst[name]), f"{low:.1f} to {high:.1f}", spread(average[name]), over_erm, over_best]
    return f"| {' | '.join(cells)} |"


def accuracies(summaries: list[dict[str, Any]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Worst-group and average test accuracy in percent, by result, one value a seed."""
    worst, average = defaultdict(list), defaultdict(list)
    for summary in summaries:
        for name, splits in summary["results"].items():
            worst[name].append(100 * splits["test"]["worst_group"])
            average[name].append(100 * splits["test"]["average"])
    return worst, average


def table(recipe: str, summaries: list[dict[str, Any]]) -> str:
    """Markdown: mean, standard deviation and range over the seeds, then the gains with their pairs."""
    worst, average = accuracies(summaries)
    lines = [
        f"### {recipe}, {len(summaries)} seeds",
        "",
        "| result | worst-group accuracy, % | range | average accuracy, % |",
        "|---|---|---|---|",
    ]
    for name, values in worst.items():
        low, high = min(values), max(values)
        lines.append(f"| {name} | {spread(values)} | {low:.1f} to {high:.1f} | {spread(average[name])} |")
    lines += ["", *gains(recipe, worst, average)]
    if summaries[0]["synthesis"]:
        counts = [summary["synthesis"] for summary in summaries]
        kept = statistics.mean(count["kept"] / max(1, count["generated"]) for count in counts)
        lines.append(f"- pictures: {statistics.mean(c['generated'] for c in counts):.0f} generated, {kept:.0%} kept")
    return "\n".join([*lines, ""])


def gains(recipe: str, worst: dict[str, list[float]], average: dict[str, list[float]]) -> list[str]:
    """Differences within a seed, averaged: they leave out what a seed does to all of its fits."""
    lines = []
    for name in (recipe, f"{recipe}_unpruned"):
        if name not in worst:
            continue
        controls = [values for other, values in worst.items() if other.startswith("control_")]
        over_erm = [a - b for a, b in zip(worst[name], worst["erm"], strict=True)]
        average_gain = [a - b for a, b in zip(average[name], average["erm"], strict=True)]
        line = f"- {name}: {spread(over_erm)} points of worst-group accuracy over ERM"
        if controls and name == recipe:  # without pruning there are more extra rows than the controls have
            best = [max(values) for values in zip(*controls, strict=True)]
            over_best = [a - b for a, b in zip(worst[name], best, strict=True)]
            line += f", {spread(over_best)} over the seed's best control"
        lines.append(f"{line}; average accuracy {spread(average_gain)}")
    return lines


if __name__ == "__main__":
    main()
