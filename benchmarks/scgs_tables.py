"""Table II of SCGS on the scenes: which region of a misclassified image is kept, and whether that matters.

Its rows are no mask (img2img), Grad-CAM and Grad-CAM++, each over seeds with its best control. Grad-CAM++ is the
recipe's own and taken from runs of `effect.py` where they are there. The runs of a seed share the dataset, the ERM
classifier and its scores (`--reuse`). Interrupted, it goes on where it stopped.

    python benchmarks/scgs_tables.py                    # runs/scgs_tables, three seeds, about an hour on two cores
    python benchmarks/scgs_tables.py --set synthesis.sample_fraction=0.2 --out runs/scgs_tables_paper  # its sources
"""

import argparse
from pathlib import Path
from typing import Any

from _runs import percent, run, spread

# Row -> (what is set, worst group on MetaShift, Waterbirds and CelebA in the paper, arXiv 2412.19457, table II)
ROWS = {
    "img2img": (["synthesis.cam=none"], "68.8, 73.5, 64.5"),
    "Grad-CAM": (["synthesis.cam=gradcam"], "71.0, 75.5, 65.1"),
    "Grad-CAM++": ([], "75.3, 77.9, 69.6"),
}
# Runs of `effect.py`, whose steps are taken where they are the same.
EFFECT = Path("runs/effect")


def main() -> None:
    """Runs what is missing, then prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/scgs_tables"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override a field of every run")
    arguments = parser.parse_args()
    lines = [
        f"### Table II: what is kept, {arguments.seeds} seed(s)",
        "",
        "| kept by | worst-group accuracy, % | average accuracy, % | its best control, % "
        "| paper: worst group on MetaShift, Waterbirds, CelebA |",
        "|---|---|---|---|---|",
    ]
    for name, (settings, paper) in ROWS.items():
        found = [study(name, [*settings, *arguments.overrides], seed, arguments.out) for seed in range(arguments.seeds)]
        controls = [percent(found, other) for other in found[0]["results"] if other.startswith("control_")]
        best = [max(values) for values in zip(*controls, strict=True)]
        cells = [name, spread(percent(found, "scgs")), spread(percent(found, "scgs", "average"))]
        cells += [spread(best) if best else "", paper]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join([*lines, ""])
    (arguments.out / "scgs_tables.md").write_text(text, encoding="utf-8")
    print(text)


def study(name: str, settings: list[str], seed: int, out: Path) -> dict[str, Any]:
    """The summary of one run."""
    folder = out / f"seed_{seed}" / name.lower()
    reuse = [EFFECT / f"scgs_{seed}", *sorted(folder.parent.glob("*"))]
    return run(["scgs", "--dataset", "scenes"], folder, settings=[*settings, f"seed={seed}"], reuse=reuse)


if __name__ == "__main__":
    main()
