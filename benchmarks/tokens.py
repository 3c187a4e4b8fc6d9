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
from pathlib import Path
from typing import Any

from _runs import percent, run, spread
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
    parser.add_argument("--out", type=Path, default=Path("runs/tokens"))
    parser.add_argument("--images", nargs="+", type=int, default=[10, 20, 30, 40], help="images a class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, help="compare these sources of the images instead")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--fits", action="store_true", help="of the sources: fit with all pictures too")
    parser.add_argument("--oracles", type=Path, help="of the sources: folder of the shape oracle; default: in OUT")
    parser.add_argument("--reuse", type=Path, nargs="*", default=[], help="of the sources: runs to take steps from")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override a field of every run")
    arguments = parser.parse_args()
    if arguments.sources:
        compare(arguments, LEARNING)
        return
    summaries: dict[int, list[dict[str, Any]]] = {num: [] for num in (0, *arguments.images)}
    for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
        folder = arguments.out / f"seed_{seed}"
        summaries[0].append(study(0, seed, folder, arguments.overrides))
        # Quantiles, the default, would prune the same share of any pictures.
        overrides = [*arguments.overrides, *same_thresholds(folder / "images_0")]
        for num in arguments.images:
            summaries[num].append(study(num, seed, folder, overrides))
    text = table(summaries)
    (arguments.out / "tokens.md").write_text(text, encoding="utf-8")
    print(text)


def same_thresholds(finished: Path) -> list[str]:
    """Overrides that prune by the logits P of a finished run; Psi, of training images, is the same anyway."""
    file = finished / "fit" / "thresholds.json"
    limits = PruneThresholds.model_validate_json(file.read_text(encoding="utf-8")).attribution_above
    values = ",".join(str(limits[label]) for label in sorted(limits))
    return ["synthesis.attribution_test=absolute", f"synthesis.attribution_threshold=[{values}]"] if limits else []


def study(num_images: int, seed: int, seed_folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The summary of one run."""
    settings = [*OVERRIDES, *(LEARNING if num_images else [])]
    # What is overridden for learning means nothing to a run without tokens, and would switch them on.
    settings += [o for o in overrides if num_images or not o.startswith("textual_inversion.")]
    settings += [f"textual_inversion.num_images={num_images}"] if num_images else []
    settings += [f"seed={seed}"]
    reuse = [EFFECT / f"dbb_{seed}", *sorted(seed_folder.glob("*"))]
    return run(["dbb", "--dataset", "scenes"], seed_folder / f"images_{num_images}", settings=settings, reuse=reuse)


def table(summaries: dict[int, list[dict[str, Any]]]) -> str:
    """Markdown: one line for each number of images; mean and standard deviation over the seeds."""
    num_seeds = len(next(iter(summaries.values())))
    lines = [
        f"### Tokens, {num_seeds} seed(s)",
        "",
        "| images a class | pruned | of | worst-group accuracy, % | average accuracy, % | learning, s "
        "| paper (Waterbirds): pruned, worst-group accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for num, found in summaries.items():
        counts = [summary["synthesis"] for summary in found]
        pruned, paper_accuracy = PAPER.get(num, ("–", "–"))
        cells = [
            str(num),
            spread([sum(count["pruned"].values()) for count in counts]),
            f"{statistics.mean(count['generated'] for count in counts):.0f}",
            spread(percent(found, "dbb")),
            spread(percent(found, "dbb", "average")),
            f"{statistics.mean(summary['seconds'].get('tokens', 0) for summary in found):.0f}",
            f"{pruned}, {paper_accuracy}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
