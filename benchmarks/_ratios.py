"""What the benchmarks of speed share: turns of two ways to do one thing, their ratio with its spread, and its record.

A ratio is the median over the turns of ours to the plain alternative's in the same turn: a machine that slows down for
a while slows both. Each script prints its ratios, and with `--into` merges them into a file of results.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

# Processes are looked at so often: what one uses between its last look and its end is not counted.
LOOK_EVERY_S = 0.1


@dataclass
class Usage:
    """What a piece of work took.

    Attributes:
        seconds: Wall time.
        cpu_seconds: User and system time of this process and of all below it, ended ones too.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0


@contextlib.contextmanager
def used(root: int | None = None) -> Iterator[Usage]:
    """Fills a `Usage` with what is used inside; of a process that was there before, what it adds.

    Args:
        root: Process whose tree counts; by default this one's.
    """
    tree = psutil.Process(root or os.getpid())
    seconds: dict[tuple[int, float], float] = {}
    ends = threading.Event()

    def look() -> None:
        for process in _members(tree):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = process.cpu_times()
                seconds[process.pid, process.create_time()] = times.user + times.system

    def watch() -> None:
        while not ends.wait(LOOK_EVERY_S):
            look()

    look()
    before, start, usage = dict(seconds), time.monotonic(), Usage()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield usage
    finally:
        usage.seconds = time.monotonic() - start
        ends.set()
        watcher.join()
        look()
        usage.cpu_seconds = sum(value - before.get(key, 0.0) for key, value in seconds.items())


def run(command: Sequence[str], **options: object) -> Usage:
    """What a command takes, with all processes below it.

    Raises:
        CalledProcessError: It failed.
    """
    start = time.monotonic()
    process = subprocess.Popen(list(command), **options)  # type: ignore[call-overload]
    with used(process.pid) as usage:
        code = process.wait()
    usage.seconds = time.monotonic() - start
    if code:
        raise subprocess.CalledProcessError(code, list(command))
    return usage


def in_turn(ways: Mapping[str, Callable[[], float]], *, turns: int) -> dict[str, list[float]]:
    """What each way gives, turn after turn; every other turn begins at the other end.

    Args:
        ways: What to call, by name; each gives a number, such as its seconds.
        turns: How often.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns):
        for name in [*ways] if turn % 2 == 0 else [*reversed([*ways])]:
            found[name].append(ways[name]())
    return found


@dataclass(frozen=True)
class Ratio:
    """A claim of speed or size, measured.

    Attributes:
        claim: What is compared with what: "ours / the plain alternative". One claim has one name in all files.
        ratios: One a turn.
        at_least: Target.
        at_most: Target.
        numbers: What else was measured, by name with its unit: "ours, images/s".
    """

    claim: str
    ratios: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The ratio."""
        return statistics.median(self.ratios)

    @property
    def is_met(self) -> bool:
        """Whether the target is reached; without one, always."""
        return (self.at_least is None or self.median >= self.at_least) and (
            self.at_most is None or self.median <= self.at_most
        )

    def line(self) -> str:
        """For people."""
        wanted = "" if self.at_least is None else f", at least {self.at_least:g}"
        wanted += "" if self.at_most is None else f", at most {self.at_most:g}"
        spread = f"{min(self.ratios):.3g} to {max(self.ratios):.3g} in {len(self.ratios)} turns"
        others = "".join(f"\n    {name}: {value:.4g}" for name, value in self.numbers.items())
        return f"{'ok  ' if self.is_met else 'MISS'} {self.claim}: {self.median:.3f} ({spread}{wanted}){others}"

    def plain(self) -> dict[str, object]:
        """For a file."""
        found: dict[str, object] = {"ratio": round(self.median, 4)}
        found |= {"low": round(min(self.ratios), 4), "high": round(max(self.ratios), 4), "turns": len(self.ratios)}
        found |= {"at_least": self.at_least} if self.at_least is not None else {}
        found |= {"at_most": self.at_most} if self.at_most is not None else {}
        return {**found, "numbers": {name: float(f"{value:.4g}") for name, value in self.numbers.items()}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--short` for the set that `make bench` runs, and `--into` for its file."""
    parser.add_argument("--short", action="store_true", help="fewer turns and smaller sizes: a part of `make bench`")
    parser.add_argument("--into", type=Path, help="a JSON file of results, into which these are merged")


def report(ratio: Ratio, *, into: Path | None) -> None:
    """Prints a ratio and merges it into a file."""
    print(ratio.line(), flush=True)
    if into is None:
        return
    results = json.loads(into.read_text(encoding="utf-8")) if into.is_file() else {}
    results.setdefault("results", {})[ratio.claim] = ratio.plain()
    results["machine"] = machine()
    results["results"] = dict(sorted(results["results"].items()))
    into.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def machine() -> dict[str, object]:
    """What the numbers were measured on."""
    import torch

    name = platform.processor()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {"processor": name, "cores": os.cpu_count(), "gpus": gpus, "torch": torch.__version__}


def _members(tree: psutil.Process) -> list[psutil.Process]:
    try:
        return [tree, *tree.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
