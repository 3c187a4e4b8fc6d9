"""Runs a fit on its workers, warm ones of a run (`raygen.fits.worker_group`) or this process, and says how far it is.

A fit is a function of a module, called with a `Worker` and plain data. `engine="local"` calls it in this process.
"""

import contextlib
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from raygen import cluster
from raygen.cluster import capacity
from raygen.config import Decides, PositiveInt, Strict
from raygen.fits.worker_group import Body, Size, WarmWorkers, worker_of
from raygen.storage import progress
from raygen.storage.writing import TEMPORARY_SUFFIX
from raygen.worker import CHECKPOINT

__all__ = ["Body", "FitConfig", "begin", "check_workers", "run", "tidy"]

# Below a fit's folder, left by an earlier version that was killed in it.
SCRATCH_FOLDER = "ray_train"


class FitConfig(Strict, decides=Decides.RESULTS):
    """Workers of a fit.

    Attributes:
        num_workers: How many fit together, each on a share of every batch.
        num_cpus: Logical CPUs that Ray sets aside for each.
        num_threads: Torch threads of each; they decide the last bits of a fit.
        num_gpus: GPUs of each: 0 or 1.
        max_failures: How often a fit goes on from its last epoch after a worker died.
    """

    num_workers: PositiveInt = 1
    num_cpus: Annotated[float, Decides.NOTHING] = Field(2, gt=0)
    num_threads: PositiveInt = 2
    num_gpus: Annotated[float, Decides.NOTHING] = Field(0, ge=0, le=1)
    max_failures: Annotated[int, Decides.NOTHING] = Field(2, ge=0)

    def deciding(self, *without: Decides) -> dict[str, Any]:
        """As ever, and the device, which decides bits however it was chosen."""
        return {**super().deciding(*without), "device": self.torch_device}

    @property
    def torch_device(self) -> str:
        """Where the classifier is fitted."""
        return "cuda" if self.num_gpus > 0 else "cpu"


def run(
    body: Body,
    payload: dict[str, Any],
    *,
    folder: Path,
    resources: FitConfig,
    engine: str,
    say: progress.Say = progress.quiet,
    every_s: float = progress.EVERY_S,
    workers: WarmWorkers | None = None,
) -> None:
    """Runs a fit on its workers until it is done; what it gives back, it writes into the folder.

    Args:
        body: A function of a module: called on every worker with its `Worker` and the payload.
        payload: Plain data.
        folder: Existing folder that all workers reach; checkpoints and results.
        resources: Workers.
        engine: "ray" or "local".
        say: Called with how far a long fit is.
        every_s: How often.
        workers: Those of the fits before, which are kept for the next one; by default some for this fit alone.

    Raises:
        ResourceError: The cluster has not the CPUs or GPUs.
        StageError: A worker failed more than `max_failures` times.
        RaygenError: As the body raised it.
    """
    folder = folder.resolve()
    try:
        with progress.said(partial(progress.told, folder), say, every_s=every_s):
            if engine == "local":
                torch.set_num_threads(resources.num_threads)
                body(worker_of(folder, resources.torch_device), payload)
                return
            with contextlib.ExitStack() as ends:
                there = workers if workers is not None else ends.enter_context(WarmWorkers())
                begin(there, resources)
                there.run(
                    body, payload, folder=folder, size=_size(resources), max_failures=resources.max_failures, say=say
                )
    finally:
        with contextlib.suppress(OSError):  # a note; what the body raised matters more
            (folder / progress.FILE).unlink(missing_ok=True)


def begin(workers: WarmWorkers, resources: FitConfig) -> None:
    """Starts the workers of fits that are to come, and does not wait for them.

    Raises:
        ResourceError: The cluster has not the CPUs or GPUs.
    """
    cluster.connect()
    check_workers(resources)
    workers.begin(_size(resources))


def tidy(folder: Path) -> None:
    """Removes from a finished fit's folder what only an interrupted one goes on from, or has left."""
    for leftover in (folder / CHECKPOINT, *folder.glob(f".*{TEMPORARY_SUFFIX}")):
        leftover.unlink(missing_ok=True)
    shutil.rmtree(folder / SCRATCH_FOLDER, ignore_errors=True)


def check_workers(resources: FitConfig) -> None:
    """Checks that a fit's workers fit the cluster's nodes.

    Raises:
        ResourceError: They do not; the fit would wait for ever.
    """
    capacity.require(
        [_size(resources).need],
        what="a fit needs",
        advice="Lower fit.num_workers, fit.num_cpus or fit.num_gpus, or add nodes.",
    )


def _size(resources: FitConfig) -> Size:
    return Size(resources.num_workers, resources.num_cpus, resources.num_gpus, resources.num_threads)
