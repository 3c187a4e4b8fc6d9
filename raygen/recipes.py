"""The whole job from top to bottom: `run` is the place to start reading, and `steps` is what it does."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from raygen.run.added_pictures import added_pictures, later_controls
from raygen.run.config import RunConfig, make_config
from raygen.run.evaluation import evaluation
from raygen.run.fit_steps import erm, fits, original_first
from raygen.run.measures import measures
from raygen.run.object_steps import object_masks
from raygen.run.opened import Opened
from raygen.run.picture_steps import candidates, learning, mask_search, plan
from raygen.run.preflight import check, check_painter, say_of_dataset, warn_of_versions
from raygen.run.score_steps import scoring
from raygen.run.steps import Run, RunStep, rows
from raygen.storage.picture_store import remove_stores
from raygen.storage.progress import Say
from raygen.storage.run_folder import RunFolder

__all__ = ["RunConfig", "make_config", "run"]


def run(config: RunConfig, out: Path, *, fresh: bool, command: str, say: Say, reuse: Sequence[Path] = ()) -> None:
    """The whole job; steps that are complete are skipped.

    Args:
        config: What to do.
        out: The run's folder.
        fresh: Delete what the folder holds first.
        command: The command line, for the report.
        say: Called with a line before each step, and from another thread in long ones.
        reuse: Folders of other runs, whose finished steps of the same config and inputs are taken from there.

    Raises:
        RaygenError: See the steps; what was complete stays complete.
    """
    opened = Opened(config)
    check_painter(opened, out, fresh=fresh)
    check(opened)
    folder = RunFolder(out, reuse)
    with folder.claimed(config.model_dump(mode="json"), identity=config.deciding(), fresh=fresh) as other_versions:
        folder.log("command", argv=command)
        warn_of_versions(other_versions, say)
        say_of_dataset(opened, say)
        with Run(opened, folder, say) as begun:
            for step in itertools.chain(steps(begun), controls(begun), measuring(begun)):
                begun.do(step)
        remove_stores(out)


def steps(begun: Run) -> Iterator[RunStep]:
    """Every step that decides results, in order; each is written when those before it are done, which it reads."""
    yield rows(begun)
    yield erm(begun)
    yield from object_masks(begun)
    if begun.config.synthesis is not None and begun.config.synthesis.plans():
        yield from original_first(begun)
        yield from scoring(begun)
        yield from learning(begun)
        yield plan(begun)
        yield from mask_search(begun)
        yield candidates(begun)
    added = added_pictures(begun)
    for name, extra in added.items():
        yield from fits(begun, name, extra)
    yield evaluation(begun, {"erm": begun.done["erm"], **{name: begun.done[f"fit/{name}"] for name in added}})


def controls(begun: Run) -> Iterator[RunStep]:
    """The controls that came later than others: a folder from before them goes on, and gets them too."""
    later = later_controls(begun)
    for name, extra in later.items():
        yield from fits(begun, name, extra)
    if later:
        yield evaluation(begun, {name: begun.done[f"fit/{name}"] for name in later}, later=True)


def measuring(begun: Run) -> Iterator[RunStep]:
    """What is looked at once all results are there: nothing depends on it."""
    fitted = {name: step for name, step in begun.done.items() if name == "erm" or name.startswith("fit/")}
    if (step := measures(begun, {name.removeprefix("fit/"): step for name, step in fitted.items()})) is not None:
        yield step
