"""One trial: a point's pictures are picked from the candidate set and fitted with, and every epoch is reported.

Runs in an actor of Ray Tune. It reads decoded pictures from the sweep's stores, never runs Ray Data and asks for
nothing beside its actor, so trials cannot wait for each other.
"""

# N images, M candidates of a set, R random halvings of validation

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from filelock import FileLock, Timeout
from ray import tune as ray_tune

from raygen import algorithms
from raygen.algorithms.pictures import Pictures
from raygen.algorithms.training_set import ExtraPictures, TrainingSet
from raygen.config import fingerprint
from raygen.datasets.table import DatasetInfo
from raygen.fits import classifiers
from raygen.run.config import RunConfig
from raygen.worker import CHECKPOINT, Worker
from tune.candidate_sets import candidate_set_name
from tune.records import DONE, Progress, read_outcome, read_progress, write_progress
from tune.scoring import score
from tune.selection import Selection, select_candidates
from tune.spaces import Params, config_at, exact, loop_of
from tune.sweep_config import SweepConfig

# How often a trial that waits for one of the same point looks whether that one is done.
POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class SharedRows:
    """The dataset as trials see it: decoded once, in stores on disk."""

    train: TrainingSet
    val: TrainingSet
    dataset: DatasetInfo
    halves_RN: np.ndarray


@dataclass(frozen=True, slots=True)
class SharedSet:
    """A candidate set as trials see it.

    Attributes:
        scores: SCORE rows.
        candidates: CANDIDATE rows without pictures, (M,) sorted by key.
        pictures: Their pictures, M of them; black where one failed.
        attribute_M: Their sources' attributes, (M,) int, -1 where one has none.
    """

    scores: pa.Table
    candidates: pa.Table
    pictures: Pictures
    attribute_M: np.ndarray


@dataclass(frozen=True)
class Task:
    """What all trials of a sweep have in common.

    Attributes:
        sweep: The sweep.
        trials: Folder of the trials' records.
        erm: Folder of the ERM classifier.
        digests: Of the dataset, the ERM classifier and each candidate set: what else decides a trial's result.
        rows: `SharedRows` in the object store.
        candidate_sets: `SharedSet`s in the object store, by name.
        weights: The file that `classifier.weights` names, in full: trials have another working directory.
    """

    sweep: SweepConfig
    trials: Path
    erm: Path
    digests: Mapping[str, str]
    rows: Any
    candidate_sets: Mapping[str, Any]
    weights: str | None = None

    def config_of(self, params: Params) -> RunConfig:
        """The run config that a point stands for."""
        return config_at(self.sweep.run, exact(params, space=self.sweep.space), space=self.sweep.space)

    def name_of(self, params: Params) -> str:
        """The trial's name: a hash of its config and of what it reads."""
        config = self.config_of(params)
        digests = [self.digests["data"], self.digests["erm"], self.digests[candidate_set_name(config)]]
        return fingerprint({"config": config.deciding(), "digests": digests})

    def begin(self, params: Params) -> Progress:
        """A trial's notes before it has done anything."""
        config = self.config_of(params)
        return Progress(
            params=exact(params, space=self.sweep.space),
            begun=time.time(),
            pool=candidate_set_name(config),
            epochs_planned=loop_of(config).epochs,
        )


Objective = Callable[..., Any]


def run_trial(params: dict[str, Any], *, task: Task) -> None:
    """Fits a point, or reports again what is known of it.

    A trial that was interrupted or crashed goes on from its last epoch. Samplers may draw a point twice: the second
    trial waits for the first, and then has nothing to do.
    """
    config, folder = task.config_of(params), task.trials / task.name_of(params)
    folder.mkdir(parents=True, exist_ok=True)
    with _turn(folder):
        rows: SharedRows = ray.get(task.rows)
        progress, outcome = read_progress(folder), read_outcome(folder)
        if progress is None:
            (folder / CHECKPOINT).unlink(missing_ok=True)  # without its record it cannot be gone on from
            progress = task.begin(params)
            write_progress(folder, progress)
        for epoch in range(1, len(progress.epochs) + 1):
            _report(progress, epoch, config, rows, task.sweep)
        if progress.epochs and (progress.is_complete or (outcome is not None and outcome.status in DONE)):
            return
        candidate_set: SharedSet = ray.get(task.candidate_sets[progress.pool])
        selection = select_candidates(
            config, scores=candidate_set.scores, candidates=candidate_set.candidates, dataset=rows.dataset
        )
        progress.planned, progress.kept = len(selection.rows), len(selection.kept)
        write_progress(folder, progress)
        if progress.kept:
            _fit(config, folder, progress, selection, rows=rows, candidate_set=candidate_set, task=task)
        else:  # the worst there is, so that the sampler learns to stay away
            ray_tune.report({"score": -1.0, "epoch": loop_of(config).epochs})


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Holds a trial's folder against a trial of the same point; one that is done needs no holding.

    Not just a lock: Tune keeps the actor of a trial that was stopped, whose thread then waits in its last report, the
    lock in its hand.
    """
    lock = FileLock(folder / ".lock")  # the system drops it with its process
    while True:
        outcome = read_outcome(folder)
        if outcome is not None and outcome.status in DONE:
            break
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=POLL_S)
            break
    try:
        yield
    finally:
        lock.release()


def _fit(
    config: RunConfig,
    folder: Path,
    progress: Progress,
    selection: Selection,
    *,
    rows: SharedRows,
    candidate_set: SharedSet,
    task: Task,
) -> None:
    """The fit that `raygen run` of this config makes: same pictures in the same order, same seed, same threads."""
    torch.set_num_threads(config.fit.num_threads)
    label_M = candidate_set.candidates["target_label"].to_numpy()
    kept = selection.kept
    extra = ExtraPictures(candidate_set.pictures, kept, label_M[kept], candidate_set.attribute_M[kept])
    train = rows.train.with_extra(extra)
    classifier = classifiers.first_classifier(
        config.algorithm,
        config.classifier,
        num_classes=len(rows.dataset.class_names),
        seed=config.seed,
        init=str(task.erm),
        weights=task.weights,
    )
    begun, before = time.monotonic(), progress.seconds

    def note(entry: Mapping[str, float], correct_N: np.ndarray) -> None:
        progress.add(entry, correct_N)
        progress.seconds = before + time.monotonic() - begun
        write_progress(folder, progress)  # before the report: Tune may end the trial there
        _report(progress, len(progress.epochs), config, rows, task.sweep)

    fit = config.fit
    worker = Worker(rank=0, world_size=1, device=fit.torch_device, folder=folder, on_epoch=note, numerics=fit.numerics)
    algorithms.of(config.algorithm).fit(config.algorithm, classifier, train, rows.val, seed=config.seed, worker=worker)


def _report(progress: Progress, num_epochs: int, config: RunConfig, rows: SharedRows, sweep: SweepConfig) -> None:
    correct_EN = progress.correct_EN(len(rows.val))[:num_epochs]
    found = score(correct_EN, groups(rows.val), select=loop_of(config).select, halves_RN=rows.halves_RN)
    ray_tune.report(
        {
            "score": found.number(sweep.search.metric),
            "worst_group": found.worst_group,
            "average": found.average,
            "loss": progress.epochs[num_epochs - 1]["loss"],
            "epoch": num_epochs,
        }
    )


def groups(val: TrainingSet) -> np.ndarray:
    """Group of each validation image, of the class where there are no attributes, (N,) int."""
    return val.label_N if val.group_N is None else val.group_N
