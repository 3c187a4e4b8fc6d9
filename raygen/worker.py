"""What a fit knows of where it runs: one of several workers, on a device, with a folder for checkpoints."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker of a fit.

    Attributes:
        rank: 0 for the worker that saves and reports.
        world_size: How many workers fit together.
        device: "cpu" or "cuda".
        folder: Where checkpoints go and are found again after a failure; shared by all workers.
    """

    rank: int
    world_size: int
    device: str
    folder: Path

    @property
    def leads(self) -> bool:
        """Whether this worker saves and reports."""
        return self.rank == 0
