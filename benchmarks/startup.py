"""From a command to the first useful work: a first and a second fit, and the first part of a synthesis pass.

Ray runs already in ours; a plain process has nothing to start but Python. Both build the same classifier and take the
same first step; the pass writes its first part with the same stages, the tiny model included, in either.

    python benchmarks/startup.py          # about six minutes on two cores
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from _ratios import Ratio, Usage, add_arguments, in_turn, report, used

from raygen import cluster, recipes
from raygen.fits import running
from raygen.fits.running import FitConfig
from raygen.fits.worker_group import WarmWorkers
from raygen.run.opened import Opened
from raygen.run.steps import Run
from raygen.storage.run_folder import RunFolder
from raygen.worker import Worker

FIT = FitConfig(num_threads=1)
FIRST_STEP = "first_step"
# A pass of few units: what it does after its first part is not measured.
COUNTS = {"train_counts": [120, 6, 6, 40], "val_counts": [8] * 4, "test_counts": [8] * 4}
CONFIG: dict[str, Any] = {
    "recipe": "dbb",
    "engine": "local",
    "dataset": {"name": "scenes", **COUNTS},
    "erm": {"epochs": 1},
    "synthesis": {"k": 32},
    "unit_rows": 16,
    "controls": [],
}


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--plain-fit", type=Path, help=argparse.SUPPRESS)  # what a plain process does
    parser.add_argument("--plain-pass", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plain_fit is not None:
        first_step(Worker(0, 1, "cpu", arguments.plain_fit), {})
        return
    if arguments.plain_pass is not None:
        paint(arguments.plain_pass, engine="local")
        return
    turns = 3 if arguments.short else 5
    cluster.connect()
    with tempfile.TemporaryDirectory() as scratch:
        fits(Path(scratch), turns=turns, into=arguments.into)
        passes(Path(scratch), turns=2 if arguments.short else 5, into=arguments.into)


def first_step(worker: Worker, payload: dict[str, Any]) -> None:
    """Builds the scenes' classifier, takes a step, and notes when that was done."""
    import torch

    from raygen.classifier import ClassifierConfig, build_classifier

    torch.set_num_threads(1)
    classifier = build_classifier(ClassifierConfig(), 2, seed=0)
    optimizer = torch.optim.SGD(classifier.parameters(), lr=0.1)
    images_NCHW = torch.rand(64, 3, classifier.config.image_size_px, classifier.config.image_size_px)
    torch.nn.functional.cross_entropy(classifier(images_NCHW), torch.zeros(64, dtype=torch.int64)).backward()
    optimizer.step()
    (worker.folder / FIRST_STEP).write_text(str(time.time()))


def fits(scratch: Path, *, turns: int, into: Path | None) -> None:
    """A first and a second fit, from the call to the end of the first step."""
    usages: dict[str, list[Usage]] = {"first": [], "second": [], "plain": []}
    workers = WarmWorkers()

    def ours(name: str) -> float:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        if name == "first":
            workers.release()
            time.sleep(2)  # what those held is given back
        start = time.time()
        with used() as usage:
            running.run(first_step, {}, folder=folder, resources=FIT, engine="ray", workers=workers)
        usages[name].append(usage)
        return float((folder / FIRST_STEP).read_text()) - start

    def plain() -> float:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        start = time.time()
        with used() as usage:
            subprocess.run([sys.executable, __file__, "--plain-fit", str(folder)], check=True)
        usages["plain"].append(usage)
        return float((folder / FIRST_STEP).read_text()) - start

    def both() -> float:
        found["first"].append(ours("first"))
        found["second"].append(ours("second"))
        return 0.0

    found: dict[str, list[float]] = {"first": [], "second": []}
    with workers:
        plain_seconds = in_turn({"ours": both, "plain": plain}, turns=turns)["plain"]
    for name, claim in (("first", "a run's first fit"), ("second", "a run's second fit")):
        report(
            Ratio(
                f"startup: {claim} to its first step / a plain process to it",
                [ours / other for ours, other in zip(found[name], plain_seconds, strict=True)],
                at_most=1.0 if name == "second" else None,
                numbers={
                    "ours, s": middle(found[name]),
                    "plain, s": middle(plain_seconds),
                    "ours, CPU s": middle([usage.cpu_seconds for usage in usages[name]]),
                    "plain, CPU s": middle([usage.cpu_seconds for usage in usages["plain"]]),
                },
            ),
            into=into,
        )


def passes(scratch: Path, *, turns: int, into: Path | None) -> None:
    """The synthesis pass, from the call to its first part."""
    folder = scratch / "run"
    folder.mkdir()
    begun(folder, engine="local", last="plan")
    num_parts = -(-pq.read_metadata(folder / "plan" / "plan.parquet").num_rows // CONFIG["unit_rows"])
    usages: dict[str, list[Usage]] = {"ray": [], "local": []}

    def until_first_part(engine: str) -> float:
        shutil.rmtree(folder / "candidates", ignore_errors=True)
        done = threading.Event()

        def paint_all() -> None:
            if engine == "ray":
                paint(folder, engine=engine)
            else:
                subprocess.run([sys.executable, __file__, "--plain-pass", str(folder)], check=True)
            done.set()

        start = time.monotonic()
        with used() as usage:
            thread = threading.Thread(target=paint_all)
            thread.start()
            while not done.is_set() and not list((folder / "candidates").glob("part-*.parquet")):
                time.sleep(0.02)
            seconds = time.monotonic() - start
        usages[engine].append(usage)
        thread.join()
        assert len(list((folder / "candidates").glob("part-*.parquet"))) == num_parts
        return seconds

    found = in_turn({engine: lambda engine=engine: until_first_part(engine) for engine in usages}, turns=turns)  # type: ignore[misc]
    report(
        Ratio(
            "startup: a synthesis pass to its first part on Ray / in a plain process",
            [ours / plain for ours, plain in zip(found["ray"], found["local"], strict=True)],
            numbers={
                "ours, s": middle(found["ray"]),
                "plain, s": middle(found["local"]),
                "ours, CPU s": middle([usage.cpu_seconds for usage in usages["ray"]]),
                "plain, CPU s": middle([usage.cpu_seconds for usage in usages["local"]]),
            },
        ),
        into=into,
    )


def paint(folder: Path, *, engine: str) -> None:
    """The pass, in a run whose plan is done."""
    begun(folder, engine=engine, last="candidates")


def begun(folder: Path, *, engine: str, last: str) -> None:
    """A run up to a step."""
    config = recipes.make_config({**CONFIG, "engine": engine}, [], where="benchmark")
    with Run(Opened(config), RunFolder(folder), lambda line: None) as run:
        for step in recipes.steps(run):
            run.do(step)
            if step.name == last:
                return


def middle(values: list[float]) -> float:
    """The median."""
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
