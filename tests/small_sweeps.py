"""Sweeps that take seconds: few scenes, an inpainter with random weights, and trials without a fit."""

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import cloudpickle
from ray import tune as ray_tune

from raygen.algorithms.training_set import TrainingSet
from raygen.datasets.rows import RowIndex
from tune.candidate_sets import candidate_set_configs
from tune.records import DONE, read_outcome, read_progress, write_progress
from tune.scoring import halvings, score
from tune.sweep_config import SweepConfig, make_sweep
from tune.trial import SharedRows, Task, groups, run_trial

# Workers of Ray do not find this file by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ONLY_K = (
    "tune.space.synthesis.attribution_threshold=null",
    "tune.space.synthesis.source_probability_test=null",
    "tune.space.algorithm.gamma=null",
)
SCENES = {"name": "scenes", "train_counts": [60, 6, 6, 30], "val_counts": [10] * 4, "test_counts": [12] * 4}


def small_sweep(model: Path | str = "tiny", *overrides: str, **search: Any) -> SweepConfig:
    """A dbb sweep of seconds: everything but trials and refits runs in this process."""
    data = {
        "recipe": "dbb",
        "engine": "local",
        "dataset": SCENES,
        "erm": {"epochs": 2},
        "algorithm": {"epochs": 3},
        "inpainter": {"model": str(model), "num_inference_steps": 2},
        "pools": {name: {"batch_size": 8} for name in ("scorer", "masker", "inpainter", "pruner")},
        # All CPUs of the test session: one trial at a time, so that only one process has to load torch.
        "fit": {"num_cpus": 4, "num_threads": 1},
        "unit_rows": 8,
        "controls": [],
        "tune": {"trials": 3, "sampler": "random", "asha": None, "num_refits": 2, "validation_splits": 4, **search},
    }
    return make_sweep(data, overrides, where="test")


def toy_task(sweep: SweepConfig, data: Path, trials: Path) -> Task:
    """A task for `toy_trial`: real rows, no pool."""
    trials.mkdir(parents=True, exist_ok=True)
    index = RowIndex(data)
    train, val = (TrainingSet(index, split, size_px=16) for split in ("train", "val"))
    halves_RN = halvings(groups(val), num=0, seed=0)
    names = candidate_set_configs(sweep.run, sweep.space, num_classes=2, max_pools=100)
    digests = {"data": "data", "erm": "erm", **dict.fromkeys(names, "pool")}
    rows = ray.put(SharedRows(train, val, index.dataset, halves_RN))
    return Task(sweep=sweep, trials=trials, erm=trials, digests=digests, rows=rows, candidate_sets={})


def toy_trial(params: dict[str, Any], *, task: Task) -> None:
    """A trial that fits nothing: after epoch e, a share of k * (e + 1) / epochs of each group is right.

    Notes in `fits.jsonl` beside the trials when it began and ended.
    """
    rows: SharedRows = ray.get(task.rows)
    folder = task.trials / task.name_of(params)
    folder.mkdir(exist_ok=True)
    progress, outcome = read_progress(folder), read_outcome(folder)
    is_done = progress is not None and outcome is not None and outcome.status in DONE
    if progress is None:
        progress = task.begin(params)
    progress.kept = progress.planned = 1
    group_N = groups(rows.val)
    for epoch in range(len(progress.epochs) if is_done else progress.epochs_planned):
        if not is_done:
            note(task, params, epoch)
            share = float(params["synthesis.k"]) * (epoch + 1) / progress.epochs_planned
            progress.add({"epoch": epoch, "loss": 0.0}, right(group_N, share))
            write_progress(folder, progress)
            time.sleep(0.2)
        found = score(progress.correct_EN(len(rows.val))[: epoch + 1], group_N, select="best", halves_RN=rows.halves_RN)
        ray_tune.report(
            {
                "score": found.number("worst_group"),
                "worst_group": found.worst_group,
                "average": found.average,
                "epoch": epoch + 1,
            }
        )


def fails_at_some(params: dict[str, Any], *, task: Task) -> None:
    """At k=0.2 its process dies at the first attempt; at k=0.4 it raises at every one."""
    if params["synthesis.k"] == 0.2 and not any(row["epoch"] == -1 for row in notes(task.trials.parent)):
        note(task, params, -1)
        os._exit(9)
    if params["synthesis.k"] == 0.4:
        note(task, params, -2)
        raise RuntimeError("told to fail")
    toy_trial(params, task=task)


def dies_once(params: dict[str, Any], *, task: Task) -> None:
    """A real trial; the first that gets to a checkpoint takes its process with it there."""
    died, checkpoint = task.trials.parent / "died", task.trials / task.name_of(params) / "checkpoint.pt"

    def watch() -> None:
        while not checkpoint.is_file():
            time.sleep(0.001)
        died.touch()
        os._exit(9)

    if not died.exists():
        threading.Thread(target=watch, daemon=True).start()
    run_trial(params, task=task)


def timed_trial(params: dict[str, Any], *, task: Task) -> None:
    """A real trial that notes its CPU seconds."""
    begun = time.thread_time()
    run_trial(params, task=task)
    with (task.trials.parent / "fits.jsonl").open("a") as file:
        file.write(json.dumps({"seconds": time.thread_time() - begun}) + "\n")


def right(group_N: np.ndarray, share: float) -> np.ndarray:
    """The first images of each group, (N,) bool."""
    rank_N = np.array([(group_N[:i] == group).sum() for i, group in enumerate(group_N)])
    return rank_N < np.round(share * np.bincount(group_N))[group_N]


def note(task: Task, params: Mapping[str, Any], epoch: int) -> None:
    """Notes that an epoch of a trial begins."""
    line = json.dumps({"params": dict(params), "epoch": epoch, "time": time.time()})
    with (task.trials.parent / "fits.jsonl").open("a") as file:
        file.write(line + "\n")


def notes(folder: Path) -> list[dict[str, Any]]:
    """What `toy_trial`s of a sweep's folder have noted."""
    path = folder / "fits.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
