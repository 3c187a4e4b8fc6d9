"""The workers of a run's fits: started for the first one, and warm for those that follow.

Plain actors of Ray in one placement group, and a process group of torch a fit. Not Ray Train: its trainer starts a
controller and its helpers beside the workers, anew for every fit, looks after them every two seconds, and counts deaths
over its whole life. A fit here goes on from its own checkpoint, however its workers came to be.
"""

import contextlib
import datetime
import importlib
import logging
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError
from ray.util import remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from raygen import cluster
from raygen.cluster import capacity
from raygen.cluster.placement import Need
from raygen.errors import ResourceError
from raygen.fits.process_state import ProcessState
from raygen.storage import progress
from raygen.worker import Worker

logger = logging.getLogger(__name__)

# Documented there, but not among what its types export.
_stores: Any = torch.distributed

# What every worker of a fit does.
Body = Callable[[Worker, dict[str, Any]], None]

# A worker that waits for the others so long is not going to hear of them: torch's own default for NCCL is ten minutes,
# and the leading worker may save to a slow disk while the others wait.
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Size:
    """What a fit's workers are; those of another size are other workers.

    Attributes:
        num_workers: How many fit together.
        num_cpus: Logical CPUs of each.
        num_gpus: GPUs of each.
        num_threads: Torch threads of each.
    """

    num_workers: int
    num_cpus: float
    num_gpus: float
    num_threads: int

    @property
    def need(self) -> Need:
        """What they take."""
        return Need("fit.num_workers", {"CPU": self.num_cpus, "GPU": self.num_gpus}, self.num_workers)


class WarmWorkers:
    """The workers of fits that follow each other; one group at most.

    They hold their CPUs and GPUs between fits too: whoever needs the cluster for something else lets them go before.

    Args:
        patience_s: After one worker's error the others have so long to end too; then they wait for it in vain, and all
            are ended.
    """

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._group: _Group | None = None

    def __enter__(self) -> "WarmWorkers":
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def begin(self, size: Size) -> None:
        """Starts workers, unless there are some of this size, and does not wait for them."""
        if self._group is None or self._group.size != size:
            self.release()
            self._group = _Group(size)

    def run(
        self,
        body: Body,
        payload: dict[str, Any],
        *,
        folder: Path,
        size: Size,
        max_failures: int,
        say: progress.Say,
    ) -> None:
        """Runs a fit, again from its last checkpoint where its workers fail; they stay, where nothing went wrong.

        Raises:
            ResourceError: The nodes that it waits for do not come.
            StageError: A worker failed more than `max_failures` times.
            RaygenError: As the body raised it; the workers stay, if all of them ended.
        """
        failures = 0
        while True:
            try:
                self._ready(size, say).run(body, payload, folder, patience_s=self._patience_s)
                return
            except RayError as error:
                own = cluster.raised(error)
                if own is None or not (self._group and self._group.is_idle):
                    self.release()
                failures += not getattr(error, "preempted", False)
                if own is not None or failures > max_failures:
                    raise cluster.own_error(error, what="a fit") from error
                logger.info("%s: a worker failed, %d of %d times: %s", folder, failures, max_failures, error)
            except BaseException:
                self.release()
                raise

    def _ready(self, size: Size, say: progress.Say) -> "_Group":
        """Workers that are there; those that died while they had nothing to do are no failure of the next fit."""
        if self._group is not None and self._group.has_died():
            self.release()
        self.begin(size)
        assert self._group is not None
        self._group.join(say)
        return self._group

    def release(self) -> None:
        """Ends the workers and gives back what they held."""
        if self._group is not None:
            self._group.end()
            self._group = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a worker runs."""

    node: str
    gpus: tuple[str, ...]


class _FitWorker:
    """A process that fits, once and again."""

    def __init__(self) -> None:
        # What a first fit would load, a first optimizer in torch's case: now, while the run may still write its rows.
        for name in ("torch._dynamo", "raygen.fits.classifiers"):
            importlib.import_module(name)
        self._state: ProcessState | None = None
        self._rank, self._world_size, self._device = 0, 1, torch.device("cpu")
        self._store: Any = None
        self._num_fits = 0

    def place(self) -> _Place:
        """Where this worker runs."""
        return _Place(ray.get_runtime_context().get_node_id(), tuple(map(str, ray.get_gpu_ids())))

    def open_store(self, world_size: int) -> tuple[str, int]:
        """Makes the store by which the workers find each other; gives back where it is."""
        host = ray.util.get_node_ip_address()
        self._store = _stores.TCPStore(host, 0, world_size, is_master=True, wait_for_workers=False)
        return host, self._store.port

    def join(self, rank: int, world_size: int, store: tuple[str, int] | None, gpus: Sequence[str]) -> None:
        """Takes a place in the group.

        Args:
            rank: Its number.
            world_size: How many there are.
            store: Where the store is that the leading worker made; None where there is one worker.
            gpus: Of all workers on this node: each sees them all, since NCCL reaches only those that it sees.

        Raises:
            ResourceError: torch has no GPU where Ray has one.
        """
        self._rank, self._world_size = rank, world_size
        if store is not None and self._store is None:
            self._store = _stores.TCPStore(*store, world_size, is_master=False, wait_for_workers=False)
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            self._device = torch.device("cuda", gpus.index(self.place().gpus[0]))
            if self._device.index >= torch.cuda.device_count():
                raise ResourceError(
                    f"Ray gave a worker GPU {gpus[self._device.index]} of its node, but torch finds no such device "
                    "there; is torch's CPU build installed on it? Set fit.num_gpus to 0, or see `raygen doctor` there"
                )
        self._state = ProcessState()

    def run(self, fit: tuple[Body, dict[str, Any]], folder: str, num_threads: int) -> None:
        """Runs a fit's body."""
        assert self._state is not None
        self._state.restore(num_threads=num_threads, seed=self._rank)
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        if self._world_size > 1:
            # Anew for every fit: what another one left half done in it is not met with.
            self._num_fits += 1
            torch.distributed.init_process_group(
                "nccl" if self._device.type == "cuda" else "gloo",
                store=_stores.PrefixStore(f"fit {self._num_fits}", self._store),
                rank=self._rank,
                world_size=self._world_size,
                timeout=COLLECTIVE_TIMEOUT,
            )
        body, payload = fit
        try:
            body(worker_of(Path(folder), self._device.type, rank=self._rank, world_size=self._world_size), payload)
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()


def worker_of(folder: Path, device: str, *, rank: int = 0, world_size: int = 1) -> Worker:
    """A worker that leaves its newest line in the fit's folder."""

    def tell(line: str) -> None:
        logger.info("%s", line)
        progress.tell(folder, line)

    return Worker(rank, world_size, device, folder, tell=tell)


class _Group:
    """Workers of one size, from their start to their end."""

    def __init__(self, size: Size) -> None:
        self.size, self._needs = size, [size.need]
        self._room = capacity.reserve(self._needs)
        actor: Any = ray.remote(_FitWorker)
        self._actors = [
            actor.options(
                num_cpus=size.num_cpus,
                num_gpus=size.num_gpus,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._room, placement_group_bundle_index=number),
            ).remote()
            for number in range(size.num_workers)
        ]
        self._has_joined, self.is_idle = False, True
        # Whoever forgets to end a group must not leave its room taken for as long as the program runs.
        self.end = weakref.finalize(self, _end, self._actors, self._room)
        self.end.atexit = False  # Ray ends a program's actors by itself, and may be gone by then

    def join(self, say: progress.Say) -> None:
        """Waits until the workers are there and know each other."""
        if self._has_joined:
            return
        capacity.wait_until_reserved(self._room, self._needs, what="a fit needs", say=say)
        with progress.said(capacity.lasting_wait(), say):  # a node may go before its workers are there
            places: list[_Place] = ray.get([actor.place.remote() for actor in self._actors])
            # Neighbours have ranks next to each other, in the order of their GPUs: NCCL's rings are built by rank.
            nodes = [place.node for place in places]
            order = sorted(range(len(places)), key=lambda i: (nodes.index(nodes[i]), _in_order(places[i].gpus)))
            self._actors[:] = [self._actors[i] for i in order]
            num, store = len(order), None
            if num > 1:
                store = ray.get(self._actors[0].open_store.remote(num))
            joining = []
            for rank, i in enumerate(order):
                gpus = {gpu for place in places if place.node == nodes[i] for gpu in place.gpus}
                joining.append(self._actors[rank].join.remote(rank, num, store, _in_order(gpus)))
            ray.get(joining)
        self._has_joined = True

    def has_died(self) -> bool:
        """Whether a worker is gone that had joined."""
        if not self._has_joined:
            return False
        try:
            ray.get([actor.place.remote() for actor in self._actors])
        except RayActorError:
            return True
        return False

    def run(self, body: Body, payload: dict[str, Any], folder: Path, *, patience_s: float) -> None:
        """Runs a fit's body on all workers.

        Raises:
            RayError: As the first worker that failed raised it, or died; `is_idle` says whether the others ended too.
        """
        self.is_idle = False
        fit = ray.put((body, payload))  # once for all of them: it names every extra picture
        waiting = [actor.run.remote(fit, str(folder), self.size.num_threads) for actor in self._actors]
        try:
            while waiting:
                done, waiting = ray.wait(waiting)
                ray.get(done)
        except RayError:
            if waiting:
                _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=patience_s)
            self.is_idle = not waiting
            raise
        self.is_idle = True


def _in_order(gpus: Iterable[str]) -> list[str]:
    """Ids of GPUs: numbers by their value."""
    return sorted(gpus, key=lambda gpu: (len(gpu), gpu))


def _end(actors: Sequence[Any], room: Any) -> None:
    if not ray.is_initialized():
        return
    for actor in actors:
        with contextlib.suppress(RayError):
            ray.kill(actor)
    remove_placement_group(room)
