"""One training process per core: start them, keep their gradients equal, and stop them by the clock.

With one worker nothing is exchanged. On a CPU, two one-thread workers waste less than one worker with two threads.
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

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Worker:
    """One of `num_workers` training processes; rank 0 writes files and logs."""

    rank: int
    num_workers: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replaces every gradient by its mean over the workers; a missing one counts as zero."""
        if self.num_workers == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= self.num_workers
        for p, part in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
            if p.grad is not None:
                p.grad.copy_(part.view_as(p))

    def agree(self, value: float) -> float:
        """Rank 0's value, on every worker."""
        if self.num_workers == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared.item())


class Clock:
    """Fraction of a time budget that is used up, counted over restarts."""

    def __init__(self, budget_s: float, *, spent_s: float) -> None:
        self._budget_s, self._start_s = budget_s, time.monotonic() - spent_s

    @property
    def spent_s(self) -> float:
        return time.monotonic() - self._start_s

    @property
    def fraction(self) -> float:
        return self.spent_s / self._budget_s


def run_workers(job: Callable[..., None], *, work: Path, num_workers: int, device: str, **arguments: Any) -> None:
    """Runs job(worker, work, **arguments) in `num_workers` new processes and waits for all of them."""
    rendezvous = work / f"rendezvous-{job.__name__}"
    rendezvous.unlink(missing_ok=True)
    mp.spawn(_run_one, args=(job, work, num_workers, device, rendezvous, arguments), nprocs=num_workers)  # type: ignore[no-untyped-call]
    rendezvous.unlink(missing_ok=True)


def _run_one(
    rank: int,
    job: Callable[..., None],
    work: Path,
    num_workers: int,
    device: str,
    rendezvous: Path,
    arguments: dict[str, Any],
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if device == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // num_workers))
    if num_workers > 1:
        dist.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=num_workers)
    job(Worker(rank, num_workers, torch.device(device)), work, **arguments)
    if num_workers > 1:
        dist.destroy_process_group()


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors and plain numbers so that a reader sees the old or the new file, never a half."""
    temporary = path.with_suffix(".tmp")
    torch.save(dict(state), temporary)
    os.replace(temporary, path)


def load_state(path: Path) -> dict[str, Any]:
    return dict(torch.load(path, map_location="cpu", weights_only=True))


def warm_up_then_decay(fraction: float, *, warm_up: float, hold: float) -> float:
    """Factor of the learning rate: linear rise until `warm_up`, 1 until `hold`, then linear to 0 at 1."""
    if fraction < warm_up:
        return max(fraction / warm_up, 1e-3)
    return 1.0 if fraction < hold else max((1 - fraction) / (1 - hold), 0.0)
