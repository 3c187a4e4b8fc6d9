"""Pictures for tests of fits: a few beside a dataset's own, and sources that are slow or noted."""

import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from raygen.algorithms.decoding import Loading
from raygen.algorithms.pictures import InMemory, open_pictures
from raygen.algorithms.training_set import ExtraPictures
from raygen.datasets.row_pictures import RowPictures
from raygen.datasets.rows import RowIndex
from raygen.errors import RowError


def extra_of(images_NHWC: np.ndarray, labels: Sequence[int], attributes: Sequence[int] | None = None) -> ExtraPictures:
    """Pictures of the classifier's size with their classes and, where they have any, their attributes."""
    attribute_M = np.full(len(labels), -1) if attributes is None else np.array(attributes)
    return ExtraPictures(InMemory(images_NHWC), np.arange(len(labels)), np.array(labels), attribute_M)


def tensor_without_room(num_bytes: int) -> torch.Tensor:
    """What a loader process gives that may share less than that."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes - 1, resource.RLIM_INFINITY))
    return torch.zeros(num_bytes, dtype=torch.uint8)


class NotedPictures(RowPictures):
    """Pictures that leave a file for each time that their decoding begins, and take their time."""

    def __init__(self, data: Path, notes: Path, *, seconds: float) -> None:
        index = RowIndex(data)
        super().__init__(index, index.split("train")["image_id"].to_pylist(), label="train")
        self._notes, self._seconds = notes, seconds

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray | RowError]:
        if rows[0] == 0:
            (self._notes / str(time.monotonic_ns())).touch()
        time.sleep(self._seconds)
        yield from super().pictures(rows)


def store(data: Path, notes: Path, seconds: float, loading: Loading) -> None:
    """What another process does."""
    open_pictures(NotedPictures(data, notes, seconds=seconds), size_px=16, loading=loading)
