"""A step as it is written, and a run in progress, which does one step after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from raygen import cluster
from raygen.datasets.rows import RowIndex
from raygen.fits import running
from raygen.fits.worker_group import WarmWorkers
from raygen.pools import pipeline
from raygen.pools.units import Pass
from raygen.run.opened import Opened
from raygen.stages.spec import StageSpec
from raygen.storage.parts import Parts
from raygen.storage.progress import Say, labelled
from raygen.storage.run_folder import RunFolder, Step, read_manifest

Inputs = Step | Sequence[Step] | Mapping[str, Step] | None


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of a run; what it leaves on disk is a `raygen.storage.run_folder.Step`.

    Attributes:
        name: Of its folder below the run's, such as "fit/dbb".
        inputs: The finished steps that it reads: the digests of their output decide its own.
        settings: What else does.
        doing: What it is about to do, for the user.
        body: Makes the output in the step's folder; gives back counts for the manifest.
        label: What it is called in lines and in the log, where that is not its name.
        keeps: Which unfinished work in its folder it goes on from: none; its own, of the very same inputs and settings;
            or "parts", each of which says itself what it was made with.
        is_fit: Whether it runs on the workers of fits; any other step may need their room.
    """

    name: str
    inputs: Mapping[str, Inputs]
    settings: Mapping[str, Any]
    doing: str
    body: Callable[[Step], Mapping[str, Any]]
    label: str | None = None
    keeps: Literal["nothing", "own", "parts"] = "nothing"
    is_fit: bool = False

    @property
    def depends(self) -> dict[str, Any]:
        """What decides its output; the fingerprint is of this."""
        return {**{name: _digests(found) for name, found in self.inputs.items()}, **self.settings}


def _digests(found: Inputs) -> Any:
    if isinstance(found, Mapping):
        return {name: step.digest for name, step in found.items()}
    if isinstance(found, Sequence):
        return [step.digest for step in found]
    return None if found is None else found.digest


class Run:
    """A run in progress; as a context, it lets the workers of its fits go at its end.

    Args:
        opened: What it reads.
        folder: Where it is.
        say: Called with a line before each step, and from another thread in long ones.
        done: Finished steps of other folders, by name; its own join them.
        workers: Those of the fits of other runs, which fit for this one too; by default its own.
        whole: The folder of all that it is a part of, whose fits share their decoded pictures; by default its own.
    """

    def __init__(
        self,
        opened: Opened,
        folder: RunFolder,
        say: Say,
        done: Mapping[str, Step] | None = None,
        workers: WarmWorkers | None = None,
        *,
        whole: Path | None = None,
    ) -> None:
        self.opened, self.config, self.folder, self.say = opened, opened.config, folder, say
        self.done, self.workers = dict(done or {}), workers or WarmWorkers()
        self.loading = opened.config.fit.loading(whole or folder.path)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        self.workers.release()

    @cached_property
    def index(self) -> RowIndex:
        """The dataset's rows, once they are written."""
        return RowIndex(self.done["data"].folder)

    def do(self, wanted: RunStep) -> Step:
        """Does a step, unless its folder holds the output of the same inputs and settings."""
        step = self.folder.step(wanted.name, wanted.depends)
        label = wanted.label or wanted.name
        if step.is_complete:
            self.say(f"{label}: done before")
        else:
            if read_manifest(step.folder) is not None:
                self.say(f"{label}: made again, since what it depends on is not what it was")
            self.say(f"{label}: {wanted.doing}")
            if not wanted.is_fit:
                self.workers.release()
            with self.folder.timed(label, folder=wanted.name):
                step.begin(keep_parts=wanted.keeps == "parts" or (wanted.keeps == "own" and step.is_begun))
                step.finish(wanted.body(step))
        self.done[wanted.name] = step
        return step

    def stream(
        self,
        step: Step,
        table: pa.Table,
        *,
        columns: tuple[str, ...],
        specs: Sequence[StageSpec],
        schema: pa.Schema,
        max_failed_fraction: float | None = None,
    ) -> Mapping[str, int]:
        """A pass of the dataset's rows through stages, into parts in a step's folder; rows by status.

        Args:
            step: Where to.
            table: Rows in their final order, with `image_id`.
            columns: To fetch from the dataset.
            specs: Stages in order.
            schema: Of the parts.
            max_failed_fraction: More failed rows than this share stop it; by default the config's.
        """
        config = self.config
        limit = config.max_failed_fraction if max_failed_fraction is None else max_failed_fraction
        parts = Parts(step.folder.resolve(), schema, step.fingerprint, table.num_rows, limit)
        work = Pass(table, self.index, columns, specs, config.pools, config.unit_rows, parts)
        return pipeline.run(work, engine=config.engine, say=labelled(step.folder.name, self.say))


def rows(run: Run) -> RunStep:
    """The dataset's rows, as SOURCE Parquet in data/."""
    config, dataset = run.config, run.opened.dataset

    def write(step: Step) -> Mapping[str, Any]:
        if config.engine == "ray" and cluster.is_joined():
            running.begin(run.workers, config.fit)  # they are there by the time that ERM is to be fitted
        return dataset.write(step.folder, run_seed=config.seed)

    return RunStep(
        "data",
        inputs={},
        settings={"dataset": config.dataset.deciding(), **dataset.state(run_seed=config.seed)},
        doing=f"writing the rows of {config.dataset.name}",
        body=write,
    )
