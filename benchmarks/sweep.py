"""A sweep of 32 trials on the scenes next to 32 full runs, and a trial's fit next to a plain one.

Three parts, each skipped when its result is there: one full run of the default config, timed; a sweep of the default
space, timed; then fits of one config, plain and as trials, in turn. Prints the tables of docs/tuning.md and
docs/results.md.

    python benchmarks/sweep.py                                        # runs/sweep_benchmark; on an idle machine
    python benchmarks/sweep.py --trials 4 --set dataset.scale=0.05 --out /tmp/sweep_benchmark    # a try
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import torch
from _runs import spread

from raygen import algorithms, cluster
from raygen.algorithms.training_set import TrainingSet
from raygen.config import load_yaml
from raygen.datasets.rows import RowIndex
from raygen.fits import classifiers
from raygen.fits.extra_pictures import ExtraRows, extra_pictures
from raygen.run.config import RunConfig
from raygen.storage.progress import quiet
from raygen.storage.run_folder import RunFolder
from raygen.worker import Worker
from tune.candidate_sets import Base, CandidateSet, generate, plan_candidate_sets
from tune.records import read_records
from tune.refit import chosen_pictures
from tune.search import check
from tune.sharing import share
from tune.spaces import expand, loop_of
from tune.sweep_config import make_sweep
from tune.trial import Task
from tune.trials import run_trials

# Fits that are compared: long enough for a steady speed.
SPEED_EPOCHS = 5


def main() -> None:
    """Runs what is missing, then prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sweep_benchmark"))
    parser.add_argument("--recipe", default="dbb")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3, help="fits of each kind that are compared")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="override a field of run and sweep"
    )
    arguments = parser.parse_args()
    arguments.out = arguments.out.resolve()  # Tune takes no relative paths
    arguments.out.mkdir(parents=True, exist_ok=True)
    recipe = [arguments.recipe, "--dataset", "scenes"]
    of_run = [override for override in arguments.overrides if not override.startswith("tune.")]
    run_s = timed(["run", *recipe, *sets(of_run)], arguments.out / "run")
    trials = ["--trials", str(arguments.trials)]
    sweep_s = timed(["tune", *recipe, *trials, *sets(arguments.overrides)], arguments.out / "sweep")
    lines = cost_table(arguments.out, run_s, sweep_s, num_trials=arguments.trials)
    lines += ["", *accuracy_table(arguments.out / "sweep")]
    lines += ["", *speed_table(arguments.out / "sweep", repeats=arguments.repeats)]
    text = "\n".join([*lines, ""])
    (arguments.out / "sweep.md").write_text(text, encoding="utf-8")
    print(text)


def sets(overrides: list[str]) -> list[str]:
    """Arguments for overrides."""
    return [argument for override in overrides for argument in ("--set", override)]


def timed(arguments: list[str], folder: Path) -> float:
    """Seconds of a raygen command from start to end, Ray's start included; kept beside its folder."""
    note = folder.with_suffix(".seconds")
    if not note.is_file():
        shutil.rmtree(folder, ignore_errors=True)  # half of it done before would be half of the time
        command = [str(Path(sys.executable).with_name("raygen")), *arguments, "--out", str(folder)]
        print("$", " ".join(command), flush=True)
        start = time.monotonic()
        subprocess.run(command, check=True)
        note.write_text(f"{time.monotonic() - start:.1f}")
    return float(note.read_text())


def cost_table(out: Path, run_s: float, sweep_s: float, *, num_trials: int) -> list[str]:
    """What the sweep took, part by part, next to as many full runs."""
    parts = json.loads((out / "sweep" / "summary.json").read_text(encoding="utf-8"))["seconds"]
    controls_s = sum(s for name, s in RunFolder(out / "run").seconds().items() if name.startswith("fit control"))
    rows = [(name, parts[name]) for name in ("preparation", "generation", "decoding", "trials", "refit")]
    rest = sweep_s - sum(seconds for _, seconds in rows)
    lines = [f"### Cost of {num_trials} trials", "", "| part | seconds |", "|---|---|"]
    lines += [f"| {name} | {seconds:.0f} |" for name, seconds in [*rows, ("start, ranking, page", rest)]]
    lines += [f"| **the sweep, wall clock** | **{sweep_s:.0f}** |", f"| one full run | {run_s:.0f} |"]
    lines.append(f"| {num_trials} full runs | {num_trials * run_s:.0f} |")
    lines.append(f"| **the sweep / {num_trials} full runs** | **{sweep_s / (num_trials * run_s):.3f}** |")
    without = run_s - controls_s
    lines.append(
        f"| the same against runs without controls ({without:.0f} s each) | {sweep_s / (num_trials * without):.3f} |"
    )
    return lines


def accuracy_table(sweep: Path) -> list[str]:
    """Validation of the best trial and of the default config, test of the refit."""
    summary = json.loads((sweep / "summary.json").read_text(encoding="utf-8"))
    statuses = [record.status for record in read_records(sweep / "trials")]
    lines = ["### What it found", "", "| config | validation, worst group | average |", "|---|---|---|"]
    for name in ("best", "default"):
        if row := summary[name]:
            shown = f"{100 * row['worst_group']:.1f} ± {100 * row['standard_error']:.1f}"
            lines.append(f"| {name} | {shown} | {100 * row['average']:.1f} |")
    worst = [100 * splits["test"]["worst_group"] for splits in summary["test"].values()]
    average = [100 * splits["test"]["average"] for splits in summary["test"].values()]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in sorted(set(statuses)))
    point = ", ".join(f"{name} {value}" for name, value in summary["best"]["params"].items())
    importance = ", ".join(f"{name} {share:.0%}" for name, share in summary["importance"].items())
    return [
        *lines,
        "",
        f"- best: {point}; {summary['num_alike'] - 1} other complete trials within one standard error",
        f"- test of the best over {len(worst)} seeds: worst group {spread(worst)} "
        f"({', '.join(f'{value:.1f}' for value in worst)}), average {spread(average)}",
        f"- trials: {counts}",
        f"- importance: {importance}",
    ]


def speed_table(sweep: Path, *, repeats: int) -> list[str]:
    """Speed of a trial's fit / of the same fit alone in a process, without Tune and with its own decoded pictures."""
    cluster.connect()
    config = make_sweep(load_yaml(sweep / "config.yaml"), [f"algorithm.epochs={SPEED_EPOCHS}"], where="benchmark")
    base, planned = plan_candidate_sets(check(config), sweep, lambda line: None)
    (candidate_set,) = generate(planned)
    task = share(config, base, [candidate_set], sweep, say=quiet, warn=quiet)
    lines = [
        "### Speed of a trial's fit",
        "",
        "| fits at once | plain, s | trial, s | trial's speed / plain |",
        "|---|---|---|---|",
    ]
    most = int(ray.cluster_resources()["CPU"] / config.run.fit.num_cpus)
    for num in sorted({1, min(2, most)}):
        plain, trial = [], []
        for number in range(repeats):
            plain += time_plain(config.run, base, candidate_set, sweep.parent / "speed" / "plain", num=num)
            trial += time_trials(task, sweep.parent / "speed" / f"{num}_{number}", num=num)
        plain_s, trial_s = statistics.median(plain), statistics.median(trial)
        lines.append(f"| {num} | {plain_s:.1f} | {trial_s:.1f} | {plain_s / trial_s:.2f} |")
    shutil.rmtree(sweep.parent / "speed")
    return lines


def time_plain(config: RunConfig, base: Base, candidate_set: CandidateSet, folder: Path, *, num: int) -> list[float]:
    """Seconds of plain fits of the run's own config that run at once; decoding is not counted."""
    extra = chosen_pictures(config, base, candidate_set, folder)
    # max_calls: a fresh process for each, as the trials have; torch's first steps in a process take a second longer.
    task = ray.remote(num_cpus=config.fit.num_cpus, num_gpus=config.fit.num_gpus, max_calls=1)(_plain)
    return list(ray.get([task.remote(config, base, extra, folder / str(i)) for i in range(num)]))


def _plain(config: RunConfig, base: Base, extra: ExtraRows, folder: Path) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.set_num_threads(config.fit.num_threads)
    index, size_px = RowIndex(base["data"].folder), config.classifier.frame.whole_px
    train, val = (TrainingSet(index, split, size_px=size_px) for split in ("train", "val"))
    train = train.with_extra(extra_pictures(extra, index, seed=config.seed, size_px=size_px))
    classifier = classifiers.first_classifier(
        config.algorithm,
        config.classifier,
        num_classes=index.num_classes,
        seed=config.seed,
        init=str(base["erm"].folder),
    )
    worker = Worker(rank=0, world_size=1, device=config.fit.torch_device, folder=folder)
    start = time.monotonic()
    algorithms.of(config.algorithm).fit(config.algorithm, classifier, train, val, seed=config.seed, worker=worker)
    return time.monotonic() - start


def time_trials(task: Task, folder: Path, *, num: int) -> list[float]:
    """Seconds of the fits of as many trials that run at once: all but the run's own config."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "trials").mkdir(parents=True)
    config = task.sweep.run
    # Points must differ, their fits not: learning rates that are equal to six digits.
    rates = [loop_of(config).learning_rate * (1 + 1e-6 * i) for i in range(num)]
    space: dict[str, Any] = {**dict.fromkeys(task.sweep.search.space), "algorithm.learning_rate": rates}
    search = {"sampler": "grid", "asha": None, "trials": num, "space": space}
    sweep = make_sweep({**config.model_dump(mode="json"), "tune": search}, [], where="benchmark")
    alike = replace(task, sweep=sweep, trials=folder / "trials")
    run_trials(alike, domains=expand(sweep.space, num_classes=2), first=None, say=lambda line: None)
    return [record.progress.seconds for record in read_records(folder / "trials")]


if __name__ == "__main__":
    main()
