"""How far a fit is: its history, the selected weights, and a checkpoint of both after every epoch."""

import copy
import io
import pickle
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from raygen.errors import RunFolderError, unreadable
from raygen.storage.writing import write_bytes
from raygen.worker import CHECKPOINT, OLD_CHECKPOINT, Worker

# Of what a checkpoint holds and of what a fit draws: one of another number is not gone on from, since the epochs
# before and after it would not be of one fit. 2: augmentation is drawn for each image by itself.
FORMAT = 2


class Progress:
    """History, the selected weights, and a checkpoint of both after every epoch.

    Used as a context: on its end the last checkpoint is written.

    Args:
        classifier: What is fitted.
        parts: What else a checkpoint keeps, by name: what has `state_dict` and `load_state_dict`.
        worker: Where this runs; the leading worker writes.

    Attributes:
        history: One entry per epoch.
        selected: The chosen epoch's weights.
    """

    def __init__(self, classifier: torch.nn.Module, parts: dict[str, Any], worker: Worker) -> None:
        self._classifier, self._parts = classifier, parts
        self._worker, self._path = worker, worker.folder / CHECKPOINT
        self.history: list[dict[str, float]] = []
        self.selected: dict[str, torch.Tensor] = {}
        self._best = (-1.0, -1.0)
        # One thread, so that checkpoints are written in their order.
        self._writer, self._writing = ThreadPoolExecutor(1, "checkpoint"), Future[None]()
        self._writing.set_result(None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._writer.shutdown()
        if kind is None:
            self.wait()

    def resume(self) -> int:
        """Takes up the checkpoint if there is one; gives back the next epoch.

        Raises:
            RunFolderError: It is damaged.
        """
        if not self._path.is_file():
            return 0
        try:
            state = torch.load(self._path, weights_only=True, map_location=self._worker.device)
        except torch.OutOfMemoryError:
            raise
        except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as error:
            # What torch says of files is long, and of what it alone could do about them.
            shown = error if isinstance(error, OSError) else ValueError("torch cannot read it")
            raise RunFolderError(unreadable(self._path, shown, "Delete it; the fit then begins anew.")) from error
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            return self._put_aside()
        for name, part in {"classifier": self._classifier, **self._parts}.items():
            part.load_state_dict(state[name])
        self.history, self.selected, self._best = state["history"], state["selected"], tuple(state["best"])
        return len(self.history)

    def add(self, entry: dict[str, float], *, select: str) -> None:
        """Notes an epoch, selects, and begins to save: the next epoch's steps need not wait for the disk.

        Args:
            entry: With val_worst_group and val_average.
            select: "best" or "last".
        """
        self.history.append(entry)
        score = (entry["val_worst_group"], entry["val_average"])
        if is_selected := select == "last" or score > self._best:
            self._best = score
            self.selected = _copied(self._classifier.state_dict())
        if self._worker.leads:
            state = {
                "format": FORMAT,
                **{name: _copied(part.state_dict()) for name, part in self._parts.items()},
                "classifier": self.selected if is_selected else _copied(self._classifier.state_dict()),
                "history": list(self.history),
                "selected": self.selected,
                "best": list(self._best),
            }
            self._writing = self._writer.submit(self._write, state)

    def wait(self) -> None:
        """Until the last checkpoint is on the disk.

        Raises:
            ResourceError: The disk is full.
            RunFolderError: It cannot be written to.
        """
        self._writing.result()

    def _write(self, state: dict[str, Any]) -> None:
        # By way of memory, so that a full disk is an OSError with its number: torch's own writer hides it.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_bytes(self._path, buffer.getbuffer())

    def _put_aside(self) -> int:
        if self._worker.world_size > 1:
            torch.distributed.barrier()  # all have read it
        if self._worker.leads:
            self._path.replace(self._worker.folder / OLD_CHECKPOINT)
            self._worker.tell(
                f"the checkpoint is of another version of raygen, which drew other pictures: put aside as "
                f"{OLD_CHECKPOINT}, and the fit begins anew"
            )
        return 0


def _copied(state: Any) -> Any:
    """Plain data with tensors of its own: what is saved must not change while it is written."""
    if isinstance(state, torch.Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {name: _copied(value) for name, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else copy.copy(state)
