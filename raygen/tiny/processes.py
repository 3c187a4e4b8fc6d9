"""One training process per core: start them, keep their gradients equal, and stop them in time.

With one process nothing is exchanged. On a CPU, two one-thread processes waste less than one process with two threads.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """One of `num_processes` training processes; rank 0 writes files and logs."""

    rank: int
    num_processes: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the processes; a missing one counts as zero."""
        if self.num_processes == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        flat = self.add_up(flat) / self.num_processes
        for p, part in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
            if p.grad is not None:
                p.grad.copy_(part.view_as(p))

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes, in place."""
        if self.num_processes > 1:
            dist.all_reduce(tensor)
        return tensor

    def agree(self, value: float) -> float:
        """Rank 0's value, on every process."""
        if self.num_processes == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared.item())


class Clock:
    """Share of a time budget that is used up, counted over restarts.

    Counts processor time per thread: on an idle machine that is the time on the wall; on a busy machine, or when the
    processes are stopped for a while, training takes longer on the wall instead of ending half-done.
    """

    def __init__(self, budget_s: float, *, spent_s: float) -> None:
        self._budget_s, self._start_s = budget_s, self._now_s() - spent_s

    @staticmethod
    def _now_s() -> float:
        return time.process_time() / torch.get_num_threads()

    @property
    def spent_s(self) -> float:
        """Seconds used so far."""
        return self._now_s() - self._start_s

    @property
    def fraction(self) -> float:
        """Share of the budget used so far; 1 or more when it is used up."""
        return self.spent_s / self._budget_s


@dataclass(frozen=True, slots=True)
class Start:
    """How processes are started: the folder they work in, the number of processes, and "cpu" or "cuda"."""

    work: Path
    num_processes: int
    device: str


def run_processes(body: Callable[..., None], start: Start, **arguments: Any) -> None:
    """Runs body(process, work, **arguments) in new processes and waits for all of them."""
    rendezvous = start.work / f"rendezvous-{body.__name__}"
    rendezvous.unlink(missing_ok=True)
    mp.spawn(  # type: ignore[attr-defined]
        _run_one, args=(body, start, rendezvous, arguments), nprocs=start.num_processes
    )
    rendezvous.unlink(missing_ok=True)


def _run_one(rank: int, body: Callable[..., None], start: Start, rendezvous: Path, arguments: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if start.device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // start.num_processes))
    if start.num_processes > 1:
        address = rendezvous.resolve().as_uri()
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=start.num_processes)
    body(Process(rank, start.num_processes, torch.device(start.device)), start.work, **arguments)
    if start.num_processes > 1:
        dist.destroy_process_group()


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors and plain numbers so that a reader sees the old or the new file, never a half."""
    temporary = path.with_suffix(".tmp")
    torch.save(dict(state), temporary)
    os.replace(temporary, path)


def load_state(path: Path) -> dict[str, Any]:
    """A state written by `save_state`."""
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def warm_up_then_decay(fraction: float, *, warm_up: float, hold: float) -> float:
    """Factor of the learning rate: linear rise until `warm_up`, 1 until `hold`, then linear to 0 at 1."""
    if fraction < warm_up:
        return max(fraction / warm_up, 1e-3)
    return 1.0 if fraction < hold else max((1 - fraction) / (1 - hold), 0.0)
