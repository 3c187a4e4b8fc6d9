"""What the studies in this folder share: runs that are made if they are not there, and a mean with its deviation."""

import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.stats
from _costs import watched


def run(recipe: Sequence[str], folder: Path, *, settings: Iterable[str], reuse: Iterable[Path] = ()) -> dict[str, Any]:
    """The summary of `raygen run`, whose finished steps are taken from other finished runs where they are the same.

    Args:
        recipe: What to run: its name and the dataset, or --config and a file.
        folder: The run's folder. A finished one is run too: it skips all of its steps, or refuses, if it was made with
            other settings.
        settings: Overrides.
        reuse: Run folders; unfinished ones are left out.
    """
    subprocess.run(_command(recipe, folder, settings=settings, reuse=reuse), check=True)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Attempt:
    """A run that may have been refused.

    Attributes:
        folder: Its folder.
        summary: Its summary; None where it did not come to an end.
        reason: Then why, in the words of raygen.
    """

    folder: Path
    summary: dict[str, Any] | None
    reason: str = ""


def attempt(recipe: Sequence[str], folder: Path, *, settings: Iterable[str], reuse: Iterable[Path] = ()) -> Attempt:
    """As `run`, with the costs of its steps noted; a recipe that cannot be run on the dataset has a reason.

    Raises:
        KeyboardInterrupt: Interrupted.
    """
    code, errors = watched(_command(recipe, folder, settings=settings, reuse=reuse), folder)
    if code == 0:
        return Attempt(folder, json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    lines = [line for line in errors.splitlines() if line.strip()]
    own = [line.removeprefix("raygen: ") for line in lines if line.startswith("raygen: ")]
    reason = (own or lines or [f"exit code {code}"])[-1]
    print(reason, file=sys.stderr)
    return Attempt(folder, None, reason)


def _command(recipe: Sequence[str], folder: Path, *, settings: Iterable[str], reuse: Iterable[Path]) -> list[str]:
    command = [str(Path(sys.executable).with_name("raygen")), "run", *recipe, "--out", str(folder)]
    command += [part for setting in settings for part in ("--set", setting)]
    for other in reuse:
        if other != folder and (other / "summary.json").is_file():
            command += ["--reuse", str(other)]
    print("$", " ".join(command), flush=True)
    return command


def percent(summaries: Iterable[dict[str, Any]], name: str, accuracy: str = "worst_group") -> list[float]:
    """An accuracy of a result on test in each run, in percent."""
    return [100 * float(summary["results"][name]["test"][accuracy]) for summary in summaries]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {deviation:.1f}"


def interval(differences: Sequence[float]) -> str:
    """Mean of differences within a seed, with Student's 95% interval; without one of fewer than three."""
    mean = statistics.mean(differences)
    if len(differences) < 3:
        return f"{mean:+.1f}"
    half = scipy.stats.t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
