"""Tables 2, 3 and 4 of DBB on the scenes: what is pruned, how many pictures help, and which groups are selected.

Tables 2 and 4 are read from finished runs of `dbb`; table 3 takes a run for each pair of amounts, which share the
dataset, the ERM classifier and its scores (`--reuse`). Interrupted, it goes on where it stopped.

    python benchmarks/dbb_tables.py                    # of runs/effect/dbb_*, made by effect.py if there are none
    python benchmarks/dbb_tables.py --amounts 250 500 1000
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from _runs import percent, run, spread

from raygen.datasets.rows import RowIndex
from raygen.pruners import PruneThresholds, verdicts
from raygen.storage.parts import read_parts


def main() -> None:
    """Prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders of dbb; default: runs/effect/dbb_*")
    parser.add_argument("--amounts", nargs="*", type=int, default=[], help="pictures a class, for table 3")
    parser.add_argument("--out", type=Path, default=Path("runs/dbb_tables"))
    arguments = parser.parse_args()
    runs = arguments.runs or finished()
    if not runs:
        subprocess.run([sys.executable, str(Path(__file__).with_name("effect.py")), "--recipes", "dbb"], check=True)
        runs = finished()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tables = [pruned(runs), selected(runs)]
    if arguments.amounts:
        tables.append(amounts(runs[0], arguments.amounts, arguments.out))
    text = "\n".join(tables)
    (arguments.out / "dbb_tables.md").write_text(text, encoding="utf-8")
    print(text)


def finished() -> list[Path]:
    """Finished runs of effect.py."""
    return sorted(path.parent for path in Path("runs/effect").glob("dbb_[0-9]*/summary.json"))


def pruned(runs: list[Path]) -> str:
    """Table 2: pictures made from each class, how many of them are pruned, and the worst group without pruning."""
    generated: dict[str, list[int]] = {}
    cut: dict[str, list[int]] = {}
    for folder in runs:
        names = RowIndex.open(folder / "data").dataset.class_names
        candidates = read_parts(folder / "candidates")
        limits = PruneThresholds.model_validate_json((folder / "fit" / "thresholds.json").read_text(encoding="utf-8"))
        kept_N, _ = verdicts(candidates, limits)
        source_N = candidates["source_label"].to_numpy()
        for label, name in enumerate(names):
            generated.setdefault(name, []).append(int((source_N == label).sum()))
            cut.setdefault(name, []).append(int((~kept_N[source_N == label]).sum()))
    summaries = [json.loads((folder / "summary.json").read_text(encoding="utf-8")) for folder in runs]
    has_unpruned = all("dbb_unpruned" in summary["results"] for summary in summaries)  # what `unpruned` adds
    with_pruning = spread(percent(summaries, "dbb"))
    without = spread(percent(summaries, "dbb_unpruned")) if has_unpruned else ""
    lines = [
        f"### Table 2: pruning, {len(runs)} seeds",
        "",
        "| made from | pictures | pruned | worst group with pruning, % | without, % |",
        "|---|---|---|---|---|",
    ]
    for name, counts in generated.items():
        cells = [name, spread(counts), spread(cut[name]), with_pruning, without]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def selected(runs: list[Path]) -> str:
    """Table 4: how many of the selected images are of which group."""
    counts: dict[tuple[str, str], list[int]] = {}
    for folder in runs:
        index = RowIndex.open(folder / "data")
        info, train = index.dataset, index.split("train")
        attributes = dict(zip(train["image_id"].to_pylist(), train["attribute"].to_pylist(), strict=True))
        plan = pq.read_table(folder / "plan" / "plan.parquet")
        # An image may be repainted as several classes.
        pairs = {*zip(plan["source_label"].to_pylist(), plan["image_id"].to_pylist(), strict=True)}
        found = Counter((label, attributes[image_id]) for label, image_id in pairs)
        for label, name in enumerate(info.class_names):
            for attribute, other in enumerate(info.attribute_names):
                counts.setdefault((name, other), []).append(found[label, attribute])
    lines = [
        f"### Table 4: selected images, {len(runs)} seeds",
        "",
        "| class | attribute | selected |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {other} | {spread(values)} |" for (name, other), values in counts.items()]
    return "\n".join([*lines, ""])


def amounts(first: Path, sizes: list[int], out: Path) -> str:
    """Table 3: worst group by the number of pictures made from each class, pruned ones included, one seed.

    Differs: the paper's amounts are of pictures that were kept, by the class that they were made into.
    """
    lines = [
        "### Table 3: pictures made from class 0 (rows) and class 1 (columns), worst group in %, one seed",
        "",
        f"| | {' | '.join(map(str, sizes))} |",
        "|---|" + "---|" * len(sizes),
    ]
    for rows in sizes:
        cells = [f"{percent([study(first, rows, columns, out)], 'dbb')[0]:.1f}" for columns in sizes]
        lines.append(f"| {rows} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def study(first: Path, of_0: int, of_1: int, out: Path) -> dict[str, Any]:
    """The run with these amounts."""
    settings = [f"synthesis.k=[{of_0},{of_1}]", "controls=[]", "unpruned=false"]
    recipe = ["--config", str(first / "config.yaml")]
    return run(recipe, out / f"amounts_{of_0}_{of_1}", settings=settings, reuse=[first])


if __name__ == "__main__":
    main()
