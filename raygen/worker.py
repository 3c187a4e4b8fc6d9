"""What a fit knows of where it runs: one of several workers, on a device, with a folder for checkpoints."""

# N validation images

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from raygen.storage.progress import Say, quiet

# (entry of the history, correct_N: whether each validation image is right, (N,) bool)
OnEpoch = Callable[[Mapping[str, float], np.ndarray], Any]

# In a fit's folder, while it is not done: what it goes on from.
CHECKPOINT = "checkpoint.pt"
# One that cannot be gone on from, put aside.
OLD_CHECKPOINT = "checkpoint.old.pt"

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Numerics:
    """How the steps of a fit are computed.

    Attributes:
        precision: Of what torch's autocast chooses for it; losses, weights and evaluation are float32 always.
        compile: Whether the network is compiled.
        sync_batch_norm: Whether several workers share the statistics of batch normalisation.
    """

    precision: Precision = "float32"
    compile: bool = False
    sync_batch_norm: bool = False


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker of a fit.

    Attributes:
        rank: 0 for the worker that saves and reports.
        world_size: How many workers fit together.
        device: "cpu" or "cuda".
        folder: Where checkpoints go and are found again after a failure; shared by all workers.
        on_epoch: Called on the leading worker after every epoch, before its checkpoint is written.
        tell: Called on the leading worker with a line on how far the fit is.
        numerics: How it computes.
        beside: Folder of another classifier that the algorithm reads (`FirstFit.beside`).
    """

    rank: int
    world_size: int
    device: str
    folder: Path
    on_epoch: OnEpoch | None = None
    tell: Say = quiet
    numerics: Numerics = Numerics()
    beside: Path | None = None

    @property
    def leads(self) -> bool:
        """Whether this worker saves and reports."""
        return self.rank == 0
