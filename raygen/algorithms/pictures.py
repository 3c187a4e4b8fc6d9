"""Pictures at the classifier's size: decoded once into a store, or again for every batch where there is no room for it.

The bytes are the same either way, and do not depend on how many processes decode. What cannot be decoded is known
before the first batch, also where nothing is stored: it must not end a fit in the middle of an epoch.
"""

# N pictures of a source, B pictures of a batch, S side of the square picture, H height, W width

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raygen.algorithms.loader_processes import LoaderProcesses
from raygen.classifier.framing import squash
from raygen.errors import DataError, ResourceError, RowError
from raygen.storage.parquet_bytes import ParquetBytes
from raygen.storage.picture_store import PICTURES, StoreFolder, StoreKey, written
from raygen.storage.progress import Say, quiet

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


class Pictures(Protocol):
    """Pictures at one size, by number."""

    @property
    def failed(self) -> Mapping[int, str]:
        """Why those are not there that could not be decoded, by number."""
        ...

    @property
    def streams(self) -> bool:
        """Whether reading decodes, and is worth processes of its own."""
        ...

    def __len__(self) -> int:
        """N."""
        ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Pictures, (B, S, S, 3) uint8; zeros for those that could not be decoded."""
        ...


@dataclass
class InMemory:
    """Pictures that are in memory: a few, or none."""

    images_NHWC: np.ndarray
    failed: Mapping[int, str] = field(default_factory=dict)
    streams: bool = False

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Copies."""
        return np.asarray(self.images_NHWC[rows])


class Stored:
    """Pictures in a store. A copy in another process maps the same file; on another node it may make its own."""

    streams = False

    def __init__(self, source: Source, loading: Loading, key: StoreKey, failed: Mapping[int, str]) -> None:
        self._source, self._loading, self._key, self.failed = source, loading, key, failed
        self._images_NHWC: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._source)

    def __getstate__(self) -> dict[str, Any]:
        """Without the pictures."""
        return {**self.__dict__, "_images_NHWC": None}

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Copies of what is mapped."""
        if self._images_NHWC is None:
            self._images_NHWC = self._open()
        return np.asarray(self._images_NHWC[rows])

    def _open(self) -> np.ndarray:
        store = StoreFolder(Path(self._loading.folder), max_bytes=self._loading.max_bytes)
        if store.find(self._key) is None:
            with store.turn(self._key.name):
                if store.find(self._key) is None:
                    _store(self._source, self._key, store, self._loading, quiet)
        return store.open(self._key, num=len(self))


class Streamed:
    """Pictures that are decoded whenever they are read."""

    streams = True

    def __init__(self, source: Source, size_px: int, failed: Mapping[int, str]) -> None:
        self._source, self._size_px, self.failed = source, size_px, failed

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Decodes.

        Raises:
            DataError: A picture that could be decoded before the fit cannot be any more.
        """
        images_BHWC = np.zeros((len(rows), self._size_px, self._size_px, 3), dtype=np.uint8)
        for i, picture in enumerate(self._source.pictures(rows.tolist())):
            if not isinstance(picture, RowError):
                images_BHWC[i] = squash(picture, self._size_px)
            elif (row := int(rows[i])) not in self.failed:
                raise DataError(
                    f"picture {self._source.name(row)} could be decoded when the fit began, and cannot be now "
                    f"({picture}); put the dataset back as it was and run the same command again"
                )
        return images_BHWC


def open_pictures(
    source: Source, *, size_px: int, loading: Loading | None, say: Say = quiet, warn: Say = quiet
) -> Pictures:
    """A source's pictures at one size, all of which have been decoded once.

    The first process that asks for them decodes them into a store; others wait for it. Where the budget or the disk has
    no room for one, a line says so, and they are decoded again whenever they are read.

    Args:
        source: What to decode.
        size_px: S.
        loading: Where they are kept; None: in memory.
        say: Called with how far decoding is, about once a second.
        warn: Called with a line where there is no room for a store.

    Raises:
        RunFolderError: The folder cannot be used, or what stands in a store's place is damaged.
        StageError: A loader process died.
    """
    if loading is None or not len(source):
        return _in_memory(source, size_px)
    key = StoreKey(source.label, source.key, size_px=size_px)
    store = StoreFolder(Path(loading.folder), max_bytes=loading.max_bytes)
    header = store.find(key)
    if header is None:
        with store.turn(key.name):
            header = store.find(key)
            if header is None:
                try:
                    header = _store(source, key, store, loading, say)
                except ResourceError as error:
                    warn(f"{error}: these pictures ({source.label}) are decoded again for every batch")
            if header is None:  # not in the handler, where what was raised would hold what it came through
                return _streamed(source, size_px, store, loading, say)
    return Stored(source, loading, key, _failed(header))


def find_pictures(source: Source, *, size_px: int, loading: Loading | None) -> Stored | None:
    """A source's pictures at one size, if they are in a store already."""
    if loading is None:
        return None
    key = StoreKey(source.label, source.key, size_px=size_px)
    header = StoreFolder(Path(loading.folder), max_bytes=loading.max_bytes).find(key)
    return None if header is None else Stored(source, loading, key, _failed(header))


def _in_memory(source: Source, size_px: int) -> InMemory:
    images_NHWC = np.zeros((len(source), size_px, size_px, 3), dtype=np.uint8)
    failed: dict[int, str] = {}
    source.prepare()
    for rows in source.chunks():
        for row, picture in zip(rows.tolist(), source.pictures(rows.tolist()), strict=True):
            if isinstance(picture, RowError):
                failed[row] = str(picture)
            else:
                images_NHWC[row] = squash(picture, size_px)
    return InMemory(images_NHWC, failed)


def _store(source: Source, key: StoreKey, store: StoreFolder, loading: Loading, say: Say) -> dict[str, Any]:
    """Makes a store; gives back its header.

    Raises:
        ResourceError: There is no room for it.
    """
    header: dict[str, Any] = {}
    with store.new(key, header, num=len(source)) as folder:
        decode = _Decode(source, key.size_px, target=folder / PICTURES)
        header["failed"] = _decode_all(decode, loading, say)[0]
    return header


def _streamed(source: Source, size_px: int, store: StoreFolder, loading: Loading, say: Say) -> Streamed:
    """Decodes all once to see which can be, and notes that and where they are for the fits after this one."""
    key = StoreKey(f"{source.label}-places", source.key, size_px=size_px)
    header = store.find(key)
    if header is None:
        header = {}
        with store.new(key, header) as folder:
            failed, ranges = _decode_all(_Decode(source, size_px), loading, say)
            header["failed"] = failed
            for number, ranges_N2 in enumerate(ranges):
                np.save(folder / f"ranges-{number}.npy", ranges_N2)
    else:
        source.prepare()
    for number, column in enumerate(source.columns):
        column.ranges_N2 = np.load(store.folder / key.name / f"ranges-{number}.npy")
    return Streamed(source, size_px, _failed(header))


def _failed(header: Mapping[str, Any]) -> dict[int, str]:
    return {int(row): reason for row, reason in header["failed"].items()}


class _Decode:
    """Decodes a chunk: into a file of pictures, or just to see what can be decoded, and where in which file it is."""

    def __init__(self, source: Source, size_px: int, *, target: Path | None = None) -> None:
        self.source, self.target = source, target
        self._size_px = size_px
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
                self._write(row, squash(picture, self._size_px))
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


def _decode_all(decode: _Decode, loading: Loading, say: Say) -> tuple[dict[int, str], list[np.ndarray]]:
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
