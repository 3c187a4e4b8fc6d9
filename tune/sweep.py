"""A sweep from top to bottom: one generation, many fits, a choice on validation, one look at test.

`sweep` is the place to start reading.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from raygen.config import dump_yaml, load_yaml
from raygen.errors import RunFolderError
from raygen.report.sweep import write_sweep_page
from raygen.report.words import describe_point
from raygen.run import preflight
from raygen.run.config import RunConfig
from raygen.run.opened import Opened
from raygen.storage.picture_store import remove_stores
from raygen.storage.progress import Say, labelled, newest
from raygen.storage.run_folder import RunFolder
from raygen.storage.versions import versions
from raygen.storage.writing import write_json, write_text
from tune.candidate_sets import Base, CandidateSet, candidate_set_configs, generate, plan_candidate_sets
from tune.ranking import chosen, importances, num_alike, rank, warning_of_small_validation, write_ranking
from tune.records import Record, read_records
from tune.refit import refit, same_as_trial
from tune.sharing import share
from tune.spaces import check_amount, check_space, expand, point_of
from tune.sweep_config import SweepConfig
from tune.trial import Objective, SharedRows, Task, groups, run_trial
from tune.trials import check_resources, check_sampler, run_trials


def sweep(
    config: SweepConfig, out: Path, *, fresh: bool, command: str, say: Say, objective: Objective = run_trial
) -> dict[str, Any]:
    """The whole sweep; what its folder holds already is not done again. Gives back what `summary.json` holds.

    Args:
        config: What to search.
        out: The sweep's folder.
        fresh: Delete what the folder holds first.
        command: The command line, for the page.
        say: Called with a line before each step and after each trial, and from another thread in long steps.
        objective: What runs a trial.

    Raises:
        UserError: Anything that can be known to be wrong, before any work.
        StageError: No trial could be completed.
        KeyboardInterrupt: Interrupted; what is done stays done.
    """
    if not fresh and (out / "config.yaml").is_file():
        config = config.as_begun(load_yaml(out / "config.yaml"))
    opened = Opened(config.run)
    if "inpainter.model" not in config.space:
        preflight.check_painter(opened, out, fresh=fresh)
    candidate_sets = check(config, opened)
    folder = RunFolder(out)
    with folder.claimed(config.dump(), identity=config.identity(), fresh=fresh) as other_versions:
        folder.log("command", argv=command)
        preflight.warn_of_versions(other_versions, say)
        preflight.say_of_dataset(opened, say)
        with folder.timed("preparation"):
            base, planned = plan_candidate_sets(candidate_sets, out, say)
        with folder.timed("generation"):
            made = generate(planned)
        with folder.timed("decoding"), newest(labelled("decoding", say)) as tell:
            task = share(config, base, made, out, say=tell, warn=say)
        rows: SharedRows = ray.get(task.rows)
        noun = "class" if rows.val.group_N is None else "group"
        if warning := warning_of_small_validation(groups(rows.val), noun=noun):
            say(f"warning: {warning}")
        domains = expand(config.space, num_classes=len(rows.dataset.class_names))
        first = point_of(config.run, space=config.space, num_classes=len(rows.dataset.class_names))
        with folder.timed("trials"):
            run_trials(task, domains=domains, first=first, say=say, objective=objective, noun=noun)
        summary = _finish(task, base, made, rows, folder, first=first, say=say)
        remove_stores(out)
        return summary


def check(config: SweepConfig, opened: Opened | None = None) -> dict[str, Opened]:
    """Checks everything that can be known before any work; gives back what each candidate set is made from, by name.

    Args:
        config: The sweep.
        opened: Its run config, where that is open already.

    Raises:
        ConfigError: A parameter or domain that cannot be, too many candidate sets, a class that is too small for the
            largest amount, a grid that is too large.
        DataError: The dataset's folder as a whole cannot be used.
        ModelError: The inpainting model cannot be used.
        ResourceError: The cluster has not what candidate sets or a trial need, or other work holds it.
    """
    opened = opened or Opened(config.run)
    counts = opened.dataset.class_counts("train")
    check_space(config.run, config.space, num_classes=len(counts))
    check_sampler(config, expand(config.space, num_classes=len(counts)))
    configs = candidate_set_configs(
        config.run, config.space, num_classes=len(counts), max_pools=config.search.max_pools
    )
    candidate_sets = {name: Opened(candidate_set, opened.dataset) for name, candidate_set in configs.items()}
    for candidate_set in candidate_sets.values():
        check_amount(candidate_set.config, counts)
        preflight.check(candidate_set)
    check_resources(config.run, at_most=config.search.max_concurrent)
    return candidate_sets


def saved_sweep(out: Path) -> dict[str, Any]:
    """The config of the sweep that a folder belongs to, as plain data.

    Raises:
        RunFolderError: The folder holds no sweep.
    """
    path = out / "config.yaml"
    data = load_yaml(path) if path.is_file() else {}
    if "tune" not in data:
        raise RunFolderError(f"{out} holds no sweep to go on with; start one with `raygen tune RECIPE --out {out}`")
    return data


def _finish(
    task: Task,
    base: Base,
    candidate_sets: Sequence[CandidateSet],
    rows: SharedRows,
    folder: RunFolder,
    *,
    first: Mapping[str, Any] | None,
    say: Say,
) -> dict[str, Any]:
    """Chooses on validation, refits for test, and writes what the sweep found."""
    out, records = folder.path, read_records(task.trials)
    ranked = rank(task, records, rows)
    best = chosen(ranked)
    write_ranking(ranked, out / "sweep.parquet")
    noun = "class" if rows.val.group_N is None else "group"
    _write_best(task.config_of(best["params"]), best, len(ranked), out / "best.yaml", noun=noun)
    (record,) = [record for record in records if record.name == best["name"]]
    (candidate_set,) = [candidate_set for candidate_set in candidate_sets if candidate_set.name == best["pool"]]
    with folder.timed("refit"):
        test = _test(task, base, candidate_set, record, out / "refit" / best["name"], say)
    summary = {
        **_found(task, ranked, rows, first=first),
        "test": test,
        "num_test_readings": len(list((out / "refit").glob("*/evaluation/manifest.json"))),
        "pools": {candidate_set.name: {"generated": candidate_set.num_generated} for candidate_set in candidate_sets},
        "seconds": _seconds(folder),
        "versions": versions(),
    }
    write_json(out / "summary.json", summary)
    say(f"page: {write_sweep_page(out)}")
    return summary


def _test(
    task: Task, base: Base, candidate_set: CandidateSet, record: Record, folder: Path, say: Say
) -> dict[str, dict[str, Any]]:
    """Accuracies of the chosen trial's refit, by seed and split."""
    params, num = record.progress.params, task.sweep.search.num_refits
    config = task.config_of(params)
    say(f"best trial: {describe_point(params)}; fitting it with {num} seeds for test")
    test = refit(config, base, candidate_set, folder, whole=task.trials.parent, num=num, say=say)
    if not same_as_trial(folder, config, record.progress):
        say("warning: the refit with the run's seed went another way than the trial: this device does not repeat fits")
    return test


def _found(
    task: Task, ranked: Sequence[Mapping[str, Any]], rows: SharedRows, *, first: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What validation says."""
    run, search = task.sweep.run, task.sweep.search
    default = [row for row in ranked if first is not None and row["params"] == dict(first)]
    domains = expand(task.sweep.space, num_classes=len(rows.dataset.class_names))
    sizes_G = np.unique(groups(rows.val), return_counts=True)[1]
    return {
        "recipe": run.recipe,
        "dataset": rows.dataset.name,
        "seed": run.seed,
        "metric": search.metric,
        "validation": {"images": len(rows.val), "smallest_group": int(sizes_G.min())},
        "num_trials": len(ranked),
        "num_alike": num_alike(ranked),
        "best": ranked[0],
        "default": default[0] if default else None,
        "importance": importances(ranked, domains, metric=search.metric, seed=search.seed),
    }


def _write_best(config: RunConfig, best: Mapping[str, Any], num_trials: int, path: Path, *, noun: str) -> None:
    head = (
        f"# The best of {num_trials} trials on validation: worst-{noun} accuracy {100 * best['worst_group']:.1f} ± "
        f"{100 * best['standard_error']:.1f}, average {100 * best['average']:.1f}.\n"
        f"# raygen run --config {path.name} --out runs/best\n"
    )
    text = dump_yaml(config.model_dump(mode="json"))
    write_text(path, head + text)


def _seconds(folder: RunFolder) -> dict[str, float]:
    """Seconds of each part over all sessions; a session that was killed logged nothing of the part it was in."""
    seconds: dict[str, float] = {}
    for event in folder.events():
        if event["event"] == "step":
            seconds[event["step"]] = round(seconds.get(event["step"], 0.0) + event["seconds"], 3)
    return seconds
