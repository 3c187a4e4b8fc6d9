"""Decodes all pictures of a source once, into a file or just to see which can be; in processes where it takes long."""

# N pictures of a source, H height, W width

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raygen.algorithms.loader_processes import LoaderProcesses
from raygen.classifier.framing import SQUASHING, Resizing
from raygen.errors import RowError
from raygen.storage.parquet_bytes import ParquetBytes
from raygen.storage.picture_store import written
from raygen.storage.progress import Say

# How often a line says how far decoding is.
SAY_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Loading:
    """Where a fit's pictures are kept, and who decodes them; plain data. None of it changes a bit.

    Attributes:
        folder: Folder of stores.
        max_bytes: What all stores there may take together.
        processes: Loader processes; 0: the fit's own process decodes.
        worth_s: A store is begun in the fit's own process. Loader processes join where more seconds than these are
            left: they take some to start, and for a small dataset are not worth it.
    """

    folder: str
    max_bytes: float
    processes: int
    worth_s: float = 5.0


class Source(Protocol):
    """Pictures that can be decoded, by number; sent to loader processes, so it holds no open file and is small."""

    @property
    def label(self) -> str:
        """What people call them."""
        ...

    @property
    def key(self) -> Mapping[str, Any]:
        """What decides them: plain data."""
        ...

    @property
    def columns(self) -> Sequence[ParquetBytes]:
        """What they are read from."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def name(self, row: int) -> str:
        """What a picture is called in messages."""
        ...

    def chunks(self) -> Sequence[np.ndarray]:
        """All numbers, those that are best read together together."""
        ...

    def prepare(self) -> None:
        """Does what only decoding needs and takes time; called once, before the first picture."""
        ...

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray | RowError]:
        """Each picture, (H, W, 3) uint8 RGB, or why there is none; in the order asked for."""
        ...


class Decode:
    """Decodes a chunk: into a file of pictures, or just to see what can be decoded, and where in which file it is."""

    def __init__(
        self, source: Source, size_px: int, *, target: Path | None = None, resizing: Resizing = SQUASHING
    ) -> None:
        self.source, self.target = source, target
        self._size_px, self._resizing = size_px, resizing
        self._descriptor: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def __call__(self, rows: np.ndarray) -> tuple[int, dict[int, str], list[np.ndarray]]:
        """How many there were, why some could not be decoded, and where those of each column are."""
        failed = {}
        for row, picture in zip(rows.tolist(), self.source.pictures(rows.tolist()), strict=True):
            if isinstance(picture, RowError):
                failed[row] = str(picture)
            elif self.target is not None:
                self._write(row, self._resizing(picture, self._size_px))
        ranges = [] if self.target is not None else [column.find(rows.tolist()) for column in self.source.columns]
        return len(rows), failed, ranges

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, row: int, image_HWC: np.ndarray) -> None:
        assert self.target is not None
        # Written, not mapped: a full disk is an error then, and the end of the process otherwise.
        with written(self.target):
            if self._descriptor is None:
                self._descriptor = os.open(self.target, os.O_WRONLY | os.O_CLOEXEC)
            data = np.ascontiguousarray(image_HWC).data.cast("B")
            at = os.fstat(self._descriptor).st_size - (len(self.source) - row) * len(data)
            while data:
                done = os.pwrite(self._descriptor, data, at)
                data, at = data[done:], at + done


def decode_all(decode: Decode, loading: Loading, say: Say) -> tuple[dict[int, str], list[np.ndarray]]:
    """Decodes a whole source; why some of its pictures cannot be, and where those of each column are, (N, 2) each."""
    source = decode.source
    source.prepare()
    chunks, num = deque(source.chunks()), len(source)
    ranges = [np.zeros((num, 2), dtype=np.int64) for _ in (() if decode.target is not None else source.columns)]
    failed: dict[int, str] = {}
    done, begun = 0, time.monotonic()
    said = begun

    def take(rows: np.ndarray, result: tuple[int, dict[int, str], list[np.ndarray]]) -> None:
        nonlocal done, said
        done += result[0]
        failed.update(result[1])
        for ranges_N2, found in zip(ranges, result[2], strict=True):
            ranges_N2[rows] = found
        now = time.monotonic()
        if now > said + SAY_EVERY_S:
            said = now
            say(f"{source.label}: {done:,} of {num:,} pictures decoded, {done / (now - begun):,.0f}/s")

    try:
        while chunks:
            seconds = time.monotonic() - begun
            left_s = seconds / max(done, 1) * (num - done)
            if loading.processes and done and seconds > loading.worth_s / 5 and left_s > loading.worth_s:
                break
            rows = chunks.popleft()
            take(rows, decode(rows))
    finally:
        decode.close()
    if chunks:
        loaders = LoaderProcesses(decode, num=min(loading.processes, len(chunks)))
        for rows, result in zip(chunks, loaders.map(list(chunks)), strict=True):
            take(rows, result)
    return failed, ranges
