"""What the studies in this folder share: a run that is made if it is not there, and a mean with its deviation."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def run(recipe: Sequence[str], folder: Path, *, settings: Iterable[str], reuse: Iterable[Path] = ()) -> dict[str, Any]:
    """The summary of `raygen run`, whose finished steps are taken from other finished runs where they are the same.

    Args:
        recipe: What to run: its name and the dataset, or --config and a file.
        folder: The run's folder. A finished one is run too: it skips all of its steps, or refuses, if it was made with
            other settings.
        settings: Overrides.
        reuse: Run folders; unfinished ones are left out.
    """
    command = [str(Path(sys.executable).with_name("raygen")), "run", *recipe, "--out", str(folder)]
    command += [part for setting in settings for part in ("--set", setting)]
    for other in reuse:
        if other != folder and (other / "summary.json").is_file():
            command += ["--reuse", str(other)]
    print("$", " ".join(command), flush=True)
    subprocess.run(command, check=True)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def percent(summaries: Iterable[dict[str, Any]], name: str, accuracy: str = "worst_group") -> list[float]:
    """An accuracy of a result on test in each run, in percent."""
    return [100 * float(summary["results"][name]["test"][accuracy]) for summary in summaries]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"
