"""The trials, on Ray Tune: what is tried next, how many at once, what is stopped early, and what is noted of each."""

import logging
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune as ray_tune
from ray.tune import Callback, FailureConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from raygen import cluster
from raygen.cluster import capacity
from raygen.cluster.placement import Need
from raygen.errors import ConfigError, ResourceError
from raygen.report.words import describe_point
from raygen.run.config import RunConfig
from raygen.seeding import row_seed
from raygen.storage.progress import Say
from raygen.worker import CHECKPOINT
from tune.domains import Domain
from tune.records import (
    DONE,
    Outcome,
    Record,
    Status,
    read_outcome,
    read_progress,
    read_records,
    write_outcome,
    write_progress,
)
from tune.spaces import largest, loop_of
from tune.sweep_config import SweepConfig
from tune.trial import Objective, Task, run_trial

# Below the sweep's folder: Ray Tune's own files, with the events that TensorBoard reads. Made anew by every session,
# from the records of the trials that are done.
LOG_FOLDER = "tensorboard"
# Once more after the first crash.
MAX_FAILURES = 1


def concurrency(run: RunConfig, *, at_most: int | None) -> int:
    """Trials that run at once: what the cluster holds, and no more than asked for.

    Raises:
        ResourceError: It does not hold one.
    """
    cluster.connect()
    fit = run.fit
    num = capacity.num_side_by_side({"CPU": fit.num_cpus, "GPU": fit.num_gpus})
    if num < 1:
        raise ResourceError(
            f"a trial takes {fit.num_cpus:g} CPUs and {fit.num_gpus:g} GPUs of one node, and no node of the cluster "
            "has them. Lower fit.num_cpus or fit.num_gpus, or add nodes."
        )
    return min(num, at_most or num)


def check_resources(run: RunConfig, *, at_most: int | None) -> None:
    """Checks that a trial can run, and run now.

    Raises:
        ResourceError: No node of the cluster has what it takes, or other work holds it.
    """
    concurrency(run, at_most=at_most)
    capacity.require_free({"CPU": run.fit.num_cpus, "GPU": run.fit.num_gpus}, what="a trial takes")


def run_trials(
    task: Task,
    *,
    domains: Mapping[str, Domain],
    first: Mapping[str, Any] | None,
    say: Say,
    objective: Objective = run_trial,
    noun: str = "group",
) -> None:
    """Runs the sweep's trials; those that are done are only reported again.

    Args:
        task: What all of them have in common.
        domains: Domain by expanded parameter.
        first: The point of the run's own config, tried first where the sampler can; None where it is not in the space.
        say: Called with a line for every trial.
        objective: What runs a trial.
        noun: What the worst accuracy is of: "class" where no attribute is known.

    Raises:
        KeyboardInterrupt: Interrupted; what is done stays done.
    """
    search = task.sweep.search
    known = read_records(task.trials)
    total = math.prod(len(d.points() or ()) for d in domains.values()) if search.sampler == "grid" else search.trials
    num = min(concurrency(task.sweep.run, at_most=search.max_concurrent), total)
    say(f"trials: {total}, {num} at once, {sum(record.status in DONE for record in known)} done before")
    notes = _Notes(task, total, say, noun=noun)
    _prepare_logs(task.trials.parent / LOG_FOLDER)
    fit = task.sweep.run.fit
    one = Need("fit", {"CPU": fit.num_cpus, "GPU": fit.num_gpus})
    capacity.wait_until_free([one], what="a trial needs", say=say)
    taken = {"cpu": fit.num_cpus, **({"gpu": fit.num_gpus} if fit.num_gpus else {})}
    is_grid = search.sampler == "grid"
    grid = {name: ray_tune.grid_search(domain.points()) for name, domain in domains.items()} if is_grid else {}
    tuner = Tuner(
        ray_tune.with_resources(ray_tune.with_parameters(objective, task=task), taken),
        param_space=grid,
        tune_config=TuneConfig(
            metric="score",
            mode="max",
            search_alg=sampler_of(task.sweep, domains, first=first, known=known, at_most=num),
            scheduler=_scheduler(task.sweep),
            num_samples=1 if is_grid else total,
            max_concurrent_trials=num,
            reuse_actors=True,  # a trial of seconds should not wait for torch to be imported
            trial_name_creator=lambda trial: task.name_of(trial.config),
            trial_dirname_creator=lambda trial: f"{task.name_of(trial.config)}-{trial.trial_id}",
        ),
        run_config=ray_tune.RunConfig(
            name=LOG_FOLDER,
            storage_path=str(task.trials.parent),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[notes],
            verbose=0,
        ),
    )
    tuner.fit()
    if notes.num_ended < total:  # Tune catches Ctrl-C and gives back what it has
        say(f"interrupted after {notes.num_ended} of {total} trials; the same command goes on where this one stopped")
        raise KeyboardInterrupt


def check_sampler(sweep: SweepConfig, domains: Mapping[str, Domain]) -> None:
    """Checks that the sampler can search the space.

    Raises:
        ConfigError: A grid of endless or too many points; more epochs before the first stop than there are.
    """
    search, epochs = sweep.search, _most_epochs(sweep)
    if search.asha is not None and search.asha.grace_epochs > epochs:
        raise ConfigError(
            f"tune.asha.grace_epochs is {search.asha.grace_epochs}, but a fit has {epochs} epochs (algorithm.epochs)"
        )
    if search.sampler != "grid":
        return
    sizes = {name: domain.points() for name, domain in domains.items()}
    endless = [name for name, points in sizes.items() if points is None]
    if endless:
        raise ConfigError(f"tune.sampler is grid, but tune.space.{endless[0]} has no end of values; give it a step")
    count = math.prod(len(points or ()) for points in sizes.values())
    if count > search.trials:
        shown = ", ".join(f"{name} {len(points or ())}" for name, points in sizes.items())
        raise ConfigError(
            f"tune.sampler is grid, which has {count} points ({shown}), but tune.trials is {search.trials}"
        )


def distribution(domain: Domain) -> BaseDistribution:
    """A domain as Optuna has it."""
    if domain.values is not None:
        return CategoricalDistribution(domain.values)
    assert domain.low is not None
    assert domain.high is not None
    if domain.is_whole:
        return IntDistribution(int(domain.low), int(domain.high), step=int(domain.step or 1), log=domain.log)
    return FloatDistribution(domain.low, domain.high, step=domain.step, log=domain.log)


def _prepare_logs(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # crashes are said in one line, by _Notes
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer one prints a table of settings however quiet it is
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def sampler_of(
    sweep: SweepConfig,
    domains: Mapping[str, Domain],
    *,
    first: Mapping[str, Any] | None,
    known: list[Record],
    at_most: int,
) -> Any:
    """What proposes the points of the trials to Ray Tune.

    Args:
        sweep: How it searches.
        domains: Domain by expanded parameter.
        first: The point to try first; None for none.
        known: Trials that are done.
        at_most: Trials at once.
    """
    search = sweep.search
    if search.sampler == "grid":
        return BasicVariantGenerator(max_concurrent=at_most)  # TuneConfig's own limit does not reach it
    points = [] if first is None else [dict(first)]
    seed = search.seed
    sampler: optuna.samplers.BaseSampler
    if search.sampler == "random":
        # The same seed draws the same points again, so that those that are done are met again by themselves.
        sampler = optuna.samplers.RandomSampler(seed=seed % 2**32)
    else:
        # What Optuna asks for depends on what it was told: it is told all that is known, and then draws on with a seed
        # that no earlier session had, or it would repeat its first points.
        points += [dict(r.progress.params) for r in known if r.progress.params != first]
        sampler = optuna.samplers.TPESampler(seed=row_seed(seed, f"sampler/{len(known)}") % 2**32)
    space = {name: distribution(domain) for name, domain in domains.items()}
    return OptunaSearch(space, metric="score", mode="max", sampler=sampler, points_to_evaluate=points)


def _scheduler(sweep: SweepConfig) -> ASHAScheduler | None:
    asha = sweep.search.asha
    if asha is None:
        return None
    return ASHAScheduler(
        time_attr="epoch",
        max_t=_most_epochs(sweep),
        grace_period=asha.grace_epochs,
        reduction_factor=asha.reduction_factor,
    )


def _most_epochs(sweep: SweepConfig) -> int:
    domain = sweep.space.get("algorithm.epochs")
    return loop_of(sweep.run).epochs if domain is None else int(largest(domain))


class _Notes(Callback):
    """Writes the outcome of every trial, and says it."""

    def __init__(self, task: Task, total: int, say: Say, *, noun: str) -> None:
        self._task, self._total, self._say, self._noun = task, total, say, noun
        self._crashes: Counter[str] = Counter()
        self.num_ended = 0

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes a first crash."""
        name = self._task.name_of(trial.config)
        self._crashes[name] += 1
        self._say(f"trial {describe_point(trial.config)}: crashed and is tried once more: {_reason(trial)}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes a trial that had all its epochs, or was stopped."""
        folder = self._task.trials / self._task.name_of(trial.config)
        progress, outcome = read_progress(folder), read_outcome(folder)
        self.num_ended += 1
        if progress is None:  # ended by Ctrl-C before it began
            self.num_ended -= 1
            return
        status: Status = "stopped"
        if progress.is_complete:
            status = "complete" if progress.kept else "nothing kept"
        # One that ran beside a trial of the same point may have gone on where that one was stopped.
        is_known = outcome is not None and outcome.status in {status, "complete"}
        if outcome is None or not is_known:
            outcome = Outcome(status, self._crashes[folder.name], None)
            write_outcome(folder, outcome)
            (folder / CHECKPOINT).unlink(missing_ok=True)
        how = {"stopped": f", stopped after epoch {len(progress.epochs)}"}.get(outcome.status, "")
        what = "no picture kept: pruned, or failed"
        if progress.kept:
            what = f"worst {self._noun} {_last(trial, 'worst_group')}, average {_last(trial, 'average')}{how}"
        self._line(progress.params, what + (", done before" if is_known else ""))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes a trial that crashed again."""
        name, reason = self._task.name_of(trial.config), _reason(trial)
        self.num_ended += 1
        folder = self._task.trials / name
        folder.mkdir(exist_ok=True)
        if read_progress(folder) is None:
            write_progress(folder, self._task.begin(trial.config))
        write_outcome(folder, Outcome("failed", self._crashes[name] + 1, reason))
        self._line(trial.config, f"crashed again, left out: {reason}")

    def _line(self, params: Mapping[str, Any], text: str) -> None:
        self._say(f"trial {self.num_ended}/{self._total}: {describe_point(params)}: {text}")


def _last(trial: Any, metric: str) -> str:
    return f"{100 * trial.last_result[metric]:.1f}"


def _reason(trial: Any) -> str:
    """The last line of a trial's traceback that names an error."""
    path = Path(trial.error_file or "")  # on this machine; what Tune's get_error reads comes there only later
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else "no reason given"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Exit)\b", line)]
    return (named or lines)[-1]
