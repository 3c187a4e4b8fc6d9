"""Runs a fit on its workers, warm ones of a run (`raygen.fits.worker_group`) or this process, and says how far it is.

A fit is a function of a module, called with a `Worker` and plain data. `engine="local"` calls it in this process.
"""

import contextlib
import shutil
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator

from raygen import cluster
from raygen.algorithms.decoding import Loading
from raygen.cluster import capacity
from raygen.config import Decides, Identity, PositiveInt, Strict
from raygen.fits.worker_group import Body, Size, WarmWorkers, worker_of
from raygen.storage import picture_store, progress
from raygen.storage.writing import TEMPORARY_SUFFIX
from raygen.worker import CHECKPOINT, OLD_CHECKPOINT, Numerics, Precision

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
        precision: Of a classifier's steps, by torch's autocast; losses, loss weights and every evaluation are float32,
            and so is what scorer and pruner say. float16 scales its gradients, and needs GPUs.
        compile: Whether a classifier's steps go through torch.compile, one version for each size of batch; for GPUs.
        sync_batch_norm: Whether batch normalisation sees the whole batch where several workers share it, not each
            worker's part; for GPUs.
        store_folder: Where decoded pictures are kept, each split and each set of extra pictures once for all fits that
            read them: a folder that runs share, best on a fast disk of each node, which stays. null: below the run's
            or sweep's own folder, until that is finished.
        store_gb: What all of them may take there, in GB (10^9 bytes). Pictures for which there is no room are decoded
            again for every batch. 64: CelebA at 224 px with 120,000 extra pictures takes 46.
        loader_processes: Processes that decode, for each set that a worker reads; 0: the worker itself. null: as many
            as num_cpus; at most 256. They are started only where there is much to decode.
    """

    num_workers: PositiveInt = 1
    num_cpus: Annotated[float, Decides.NOTHING] = Field(2, gt=0)
    num_threads: PositiveInt = 2
    num_gpus: Annotated[float, Decides.NOTHING] = Field(0, ge=0, le=1)
    max_failures: Annotated[int, Decides.NOTHING] = Field(2, ge=0)
    precision: Annotated[Precision, Identity.ABSENT_BY_DEFAULT] = "float32"
    compile: Annotated[bool, Identity.ABSENT_BY_DEFAULT] = False
    sync_batch_norm: Annotated[bool, Identity.ABSENT_BY_DEFAULT] = False
    store_folder: Annotated[Path | None, Decides.NOTHING] = None
    store_gb: Annotated[float, Decides.NOTHING] = Field(64, ge=0)
    loader_processes: Annotated[int | None, Decides.NOTHING] = Field(None, ge=0, le=256)

    @model_validator(mode="after")
    def _has_the_device_that_it_needs(self) -> "FitConfig":
        wanted = {
            "precision is float16, which torch's CPU kernels are slow or missing in; take bfloat16": self.precision
            == "float16",
            "compile is true, which on a CPU makes fits slower, not faster; leave it false": self.compile,
            "sync_batch_norm is true, which torch has for GPUs only; leave it false": self.sync_batch_norm,
        }
        for what, is_wanted in wanted.items():
            if is_wanted and not self.num_gpus:
                raise ValueError(f"{what}, or fit on GPUs (num_gpus is 0)")
        return self

    def deciding(self, *without: Decides) -> dict[str, Any]:
        """As ever, and the device, which decides bits however it was chosen."""
        return {**super().deciding(*without), "device": self.torch_device}

    @property
    def numerics(self) -> Numerics:
        """How a classifier's steps are computed."""
        return Numerics(self.precision, self.compile, self.sync_batch_norm)

    @property
    def torch_device(self) -> str:
        """Where the classifier is fitted."""
        return "cuda" if self.num_gpus > 0 else "cpu"

    def loading(self, folder: Path) -> Loading:
        """Where the pictures of a run's or sweep's fits are kept, and who decodes them.

        Args:
            folder: The run's or sweep's folder.
        """
        place = folder / picture_store.FOLDER if self.store_folder is None else self.store_folder.expanduser()
        processes = max(1, int(self.num_cpus)) if self.loader_processes is None else self.loader_processes
        return Loading(str(place.absolute()), self.store_gb * picture_store.GB, processes)


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
    for leftover in (folder / CHECKPOINT, folder / OLD_CHECKPOINT, *folder.glob(f".*{TEMPORARY_SUFFIX}")):
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
