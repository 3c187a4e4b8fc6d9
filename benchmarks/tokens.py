"""Table 5 of DBB on the scenes: what tokens learned on 10 to 40 images a class change, against plain prompts (0).

One `raygen run dbb` for each number of images and seed. The runs of a seed share the dataset, the ERM classifier and
its scores (`--reuse`; also with runs of `effect.py`), and they prune by the same numbers, those that the run with plain
prompts takes from its pictures: only tokens, pictures and fits differ. An interrupted study goes on where it stopped.

    python benchmarks/tokens.py                                   # runs/tokens, three seeds
    python benchmarks/tokens.py --seeds 1 --images 30
    python benchmarks/tokens.py --set textual_inversion.region=whole --out runs/tokens_whole
    python benchmarks/tokens.py --sources none high_loss val_groups minority  # which images to learn from
    python benchmarks/tokens.py --seeds 1 --images 2 --set dataset.scale=0.05 --set synthesis.k=6 \\
        --set textual_inversion.num_steps=3 --out runs/tokens_small  # only to see that it works
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from typing import Any

from _records import add_arguments, kept, records_of, seeds_of
from _runs import run, spread
from _token_sources import SOURCES, compare

from raygen.pruners import PruneThresholds

OVERRIDES = [
    "synthesis.k=500",  # those of `raygen demo`
    "synthesis.attribution_threshold=0.25",  # the paper's table counts what is pruned
    "controls=[]",
]
# The word is the paper's for birds. The tiny model's embeddings are some 25 times larger than Stable Diffusion's, for
# which the default rate and number of steps are made.
LEARNING = [
    "textual_inversion.words=bird",
    "textual_inversion.region=object",
    "textual_inversion.num_steps=200",
    "textual_inversion.batch_size=8",
    "textual_inversion.learning_rate=0.05",
]
# Runs of `effect.py`, whose steps are taken where they are the same.
EFFECT = Path("runs/effect")
# Waterbirds: images -> (pruned, worst-group accuracy), arXiv 2503.17226, table 5.
PAPER = {0: (1018, 88.9), 10: (818, 90.5), 20: (804, 89.9), 30: (737, 93.0), 40: (782, 90.3)}


def main() -> None:
    """Runs what is missing, then prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, out="tokens", first=0, seeds=3)
    parser.add_argument("--images", nargs="+", type=int, default=[10, 20, 30, 40], help="images a class")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, help="compare these sources of the images instead")
    parser.add_argument("--fits", action="store_true", help="of the sources: fit with all pictures too")
    parser.add_argument("--oracles", type=Path, help="of the sources: folder of the shape oracle; default: in OUT")
    parser.add_argument("--reuse", type=Path, nargs="*", default=[], help="of the sources: runs to take steps from")
    arguments = parser.parse_args()
    if arguments.sources:
        compare(arguments, LEARNING)
        return
    found: dict[int, list[dict[str, Any]]] = {num: [] for num in (0, *arguments.images)}
    for seed in seeds_of(arguments):
        for num, records in found.items():
            path = records_of(arguments) / f"images_{num}_{seed}.json"
            make = partial(study, num, seed, arguments.out / f"seed_{seed}", arguments.overrides)
            if one := kept(path, arguments.overrides, make, recorded=arguments.recorded):
                records.append(one)
    text = table({num: records for num, records in found.items() if records})
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "tokens.md").write_text(text, encoding="utf-8")
    print(text)


def same_thresholds(finished: Path) -> list[str]:
    """Overrides that prune by the logits P of a finished run; Psi, of training images, is the same anyway."""
    file = finished / "fit" / "thresholds.json"
    limits = PruneThresholds.model_validate_json(file.read_text(encoding="utf-8")).attribution_above
    values = ",".join(str(limits[label]) for label in sorted(limits))
    return ["synthesis.attribution_test=absolute", f"synthesis.attribution_threshold=[{values}]"] if limits else []


def study(num_images: int, seed: int, seed_folder: Path, overrides: list[str]) -> dict[str, Any]:
    """What is kept of one run; the one with plain prompts is made first, whose thresholds the others take."""
    settings = [*OVERRIDES, *(LEARNING if num_images else [])]
    # What is overridden for learning means nothing to a run without tokens, and would switch them on.
    settings += [o for o in overrides if num_images or not o.startswith("textual_inversion.")]
    if num_images:
        plain = seed_folder / "images_0"
        if not (plain / "summary.json").is_file():
            study(0, seed, seed_folder, overrides)
        # Quantiles, the default, would prune the same share of any pictures.
        settings += [*same_thresholds(plain), f"textual_inversion.num_images={num_images}"]
    settings += [f"seed={seed}"]
    reuse = [EFFECT / f"dbb_{seed}", *sorted(seed_folder.glob("*"))]
    folder = seed_folder / f"images_{num_images}"
    summary = run(["dbb", "--dataset", "scenes"], folder, settings=settings, reuse=reuse)
    test, counts = summary["results"]["dbb"]["test"], summary["synthesis"]
    return {
        "generated": counts["generated"],
        "pruned": sum(counts["pruned"].values()),
        "learning_s": summary["seconds"].get("tokens", 0),
        **{name: test[name] for name in ("worst_group", "group_mean", "average")},
    }


def table(found: dict[int, list[dict[str, Any]]]) -> str:
    """Markdown: one line for each number of images; mean and standard deviation over the seeds."""
    lines = [
        "| images a class | seeds | pruned | of | worst-group accuracy, % | average accuracy, % | learning, s "
        "| paper (Waterbirds): pruned, worst-group accuracy |",
        "|---" * 8 + "|",
    ]
    for num, records in found.items():
        pruned, paper_accuracy = PAPER.get(num, ("–", "–"))
        cells = [
            str(num),
            str(len(records)),
            spread([one["pruned"] for one in records]),
            f"{statistics.mean(one['generated'] for one in records):.0f}",
            spread([100 * one["worst_group"] for one in records]),
            spread([100 * one["average"] for one in records]),
            f"{statistics.mean(one['learning_s'] for one in records):.0f}",
            f"{pruned}, {paper_accuracy}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
