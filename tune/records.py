"""What is kept of a trial, by the hash of its config: a trial that is done is never fitted again.

trials/<hash>/epochs.json    written by the trial after every epoch
trials/<hash>/outcome.json   written by the driver once the trial has ended
"""

# E epochs, N validation images

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from raygen.errors import RunFolderError, unreadable
from raygen.storage.writing import write_json

Kind = TypeVar("Kind")

EPOCHS_FILE, OUTCOME_FILE = "epochs.json", "outcome.json"
# "complete": all epochs; "stopped": early, by ASHA; "nothing kept": pruning left no picture to fit with; "failed": it
# crashed twice.
Status = Literal["complete", "stopped", "nothing kept", "failed"]
DONE = frozenset({"complete", "stopped", "nothing kept"})


@dataclass
class Progress:
    """A trial's own notes.

    Attributes:
        params: Its point.
        begun: Seconds since 1970, to number the trials by.
        pool: Name of its candidate set.
        epochs_planned: Epochs of the whole fit.
        planned: Candidates of its amount; None until they were picked.
        kept: Those that are fitted with; None likewise.
        epochs: History so far: one entry per epoch.
        correct: Per epoch, which validation images were right: packed bits, base64.
        seconds: Of fitting, over all attempts.
    """

    params: dict[str, Any]
    begun: float
    pool: str
    epochs_planned: int
    planned: int | None = None
    kept: int | None = None
    epochs: list[dict[str, float]] = field(default_factory=list)
    correct: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the fit has had all its epochs, or nothing to fit with."""
        return self.kept == 0 or len(self.epochs) == self.epochs_planned

    def add(self, entry: Mapping[str, float], correct_N: np.ndarray) -> None:
        """Notes an epoch; one that was noted before, and had no checkpoint yet, is replaced."""
        epoch = int(entry["epoch"])
        self.epochs[epoch:] = [dict(entry)]
        self.correct[epoch:] = [base64.b64encode(np.packbits(correct_N).tobytes()).decode()]

    def correct_EN(self, num_images: int) -> np.ndarray:
        """Which validation images were right after each epoch, (E, N) bool."""
        rows = [np.frombuffer(base64.b64decode(text), dtype=np.uint8) for text in self.correct]
        return np.array([np.unpackbits(row, count=num_images) for row in rows], dtype=bool).reshape(-1, num_images)


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its status, how often it crashed, and the last crash's reason."""

    status: Status
    crashes: int
    error: str | None


@dataclass(frozen=True)
class Record:
    """A trial: the hash of its config, its notes, and its outcome, None where it has not ended."""

    name: str
    progress: Progress
    outcome: Outcome | None

    @property
    def status(self) -> Status | Literal["unfinished"]:
        """How it stands; a driver that died may have left no outcome of a trial that is complete."""
        if self.outcome is not None:
            return self.outcome.status
        if self.progress.is_complete:
            return "complete" if self.progress.kept else "nothing kept"
        return "unfinished"


def write_progress(folder: Path, progress: Progress) -> None:
    """Writes a trial's notes."""
    write_json(folder / EPOCHS_FILE, asdict(progress))


def write_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes how a trial ended."""
    write_json(folder / OUTCOME_FILE, asdict(outcome))


def read_progress(folder: Path) -> Progress | None:
    """A trial's notes, None where it never began; raises a RunFolderError if they are damaged."""
    return _read(Progress, folder / EPOCHS_FILE)


def read_outcome(folder: Path) -> Outcome | None:
    """How a trial ended, None where it has not; raises a RunFolderError if the file is damaged."""
    return _read(Outcome, folder / OUTCOME_FILE)


def read_records(trials: Path) -> list[Record]:
    """All trials that began, in the order in which they did.

    Raises:
        RunFolderError: A file is damaged.
    """
    records = []
    for folder in sorted(path for path in trials.glob("*") if path.is_dir()):
        progress = read_progress(folder)
        if progress is not None:
            records.append(Record(folder.name, progress, read_outcome(folder)))
    return sorted(records, key=lambda record: (record.progress.begun, record.name))


def _read(kind: Callable[..., Kind], path: Path) -> Kind | None:
    if not path.is_file():
        return None
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, PermissionError) as error:
        raise RunFolderError(unreadable(path, error, f"Delete {path.parent} to fit this trial again.")) from error
