"""The chosen point, fitted again from the files over some seeds: the only place of a sweep where test is read."""

import functools
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
from ray.exceptions import RayTaskError

from raygen.algorithms.loop import GENERATED_SHARE
from raygen.cluster import capacity
from raygen.cluster.placement import Need
from raygen.datasets.rows import RowIndex
from raygen.errors import RaygenError
from raygen.fits.extra_pictures import ExtraRows
from raygen.fits.process_state import ProcessState
from raygen.run.config import RunConfig
from raygen.run.evaluation import evaluation
from raygen.run.fit_steps import fits
from raygen.run.opened import Opened
from raygen.run.results import results
from raygen.run.steps import Run
from raygen.storage.progress import Say, quiet
from raygen.storage.run_folder import RunFolder, Step
from raygen.storage.writing import write_json
from tune.candidate_sets import Base, CandidateSet
from tune.records import Progress
from tune.selection import select_candidates


def refit(
    config: RunConfig, base: Base, candidate_set: CandidateSet, folder: Path, *, whole: Path, num: int, say: Say
) -> dict[str, dict[str, Any]]:
    """Fits with the run's seed and those after it, side by side, and evaluates; accuracies by seed and split.

    The pictures are the same for every seed, as the DBB paper has it: what varies is order, augmentation and, for a fit
    from scratch, the first weights.

    Args:
        config: The chosen point's config.
        base: Rows and ERM.
        candidate_set: The point's candidate set.
        folder: Where the fits and predictions go; what is there already is not made again.
        whole: The sweep's folder, with whose trials they share the decoded pictures.
        num: How many seeds.
        say: Called with a line for the evaluation.

    Raises:
        RaygenError: As a fit raised it.
    """
    extra = chosen_pictures(config, base, candidate_set, folder)
    seeds = range(config.seed, config.seed + num)
    resources = {"num_cpus": config.fit.num_cpus, "num_gpus": config.fit.num_gpus}
    one = Need("fit", {"CPU": config.fit.num_cpus, "GPU": config.fit.num_gpus})
    capacity.wait_until_free([one], what="a refit needs", say=say)
    task = ray.remote(max_retries=1, **resources)(_fit_seed)
    try:
        steps = ray.get([task.remote(config, base, extra, folder.resolve(), whole.resolve(), seed) for seed in seeds])
    except RayTaskError as error:  # Ray's copy of an error carries its whole traceback as text
        raise (error.cause if isinstance(error.cause, RaygenError) else error) from error
    fitted = {f"seed_{seed}": step for seed, step in zip(seeds, steps, strict=True)}
    run = Run(Opened(config), RunFolder(folder), say, base)
    step = run.do(evaluation(run, fitted))
    predictions = pq.read_table(step.folder / "predictions.parquet")
    return results(predictions, RowIndex(base["data"].folder), names=list(fitted))


def chosen_pictures(config: RunConfig, base: Base, candidate_set: CandidateSet, folder: Path) -> ExtraRows:
    """The pictures that a point's fit adds; what it asks for and how it prunes is kept for the page."""
    scores, candidates = candidate_set.tables()
    index = RowIndex(base["data"].folder)
    selection = select_candidates(config, scores=scores, candidates=candidates, dataset=index.dataset)
    folder.mkdir(parents=True, exist_ok=True)
    planned = candidates["key"].take(selection.rows).to_pylist()
    thresholds = selection.thresholds.model_dump(mode="json")
    write_json(folder / "selection.json", {"pool": candidate_set.name, "keys": planned, "thresholds": thresholds})
    return ExtraRows(
        kind="generated",
        keys=tuple(candidates["key"].take(selection.kept).to_pylist()),
        candidates=str(candidate_set.candidates.folder.resolve()),
        digest=candidate_set.candidates.digest,
    )


def same_as_trial(folder: Path, config: RunConfig, progress: Progress) -> bool:
    """Whether the refit with the run's seed went through the same accuracies as the trial did."""
    path = folder / "fit" / f"seed_{config.seed}" / "history.json"
    # Trials of before did not note the share of the loss.
    refitted, tried = (
        [{name: value for name, value in entry.items() if name != GENERATED_SHARE} for entry in epochs]
        for epochs in (json.loads(path.read_text(encoding="utf-8"))["epochs"], progress.epochs)
    )
    return refitted == tried


def _fit_seed(config: RunConfig, base: Base, extra: ExtraRows, folder: Path, whole: Path, seed: int) -> Step:
    """One fit, in a task of its own with the resources of a trial.

    Ray has the same process do one task after the other, so that only the first of them waits for torch. A task that
    takes a GPU is the exception: its process ends with it, and so gives the GPU's memory back.
    """
    _new_process().restore(num_threads=config.fit.num_threads, seed=0)
    seeded = config.model_copy(update={"seed": seed, "engine": "local"})
    run = Run(Opened(seeded), RunFolder(folder), quiet, base, whole=whole)
    for step in fits(run, f"seed_{seed}", extra):
        run.do(step)
    return run.done[f"fit/seed_{seed}"]


@functools.cache
def _new_process() -> ProcessState:
    """This process as it was before its first fit."""
    return ProcessState()
