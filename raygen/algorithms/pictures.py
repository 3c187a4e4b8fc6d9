"""Pictures at the classifier's size: decoded once into a store, or again for every batch where there is no room for it.

The bytes are the same either way, and do not depend on how many processes decode. What cannot be decoded is known
before the first batch, also where nothing is stored: it must not end a fit in the middle of an epoch.
"""

# N pictures of a source, B pictures of a batch, S side of the square picture

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from raygen.algorithms.decoding import Decode, Loading, Source, decode_all
from raygen.classifier.framing import SQUASHING, Resizing
from raygen.errors import DataError, ResourceError, RowError
from raygen.storage.picture_store import PICTURES, StoreFolder, StoreKey, written
from raygen.storage.progress import Say, quiet

# Where the pictures of a source's column are in their files, in place of the pictures themselves.
RANGES = "ranges-{}.npy"


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

    def __init__(
        self,
        source: Source,
        loading: Loading,
        key: StoreKey,
        failed: Mapping[int, str],
        resizing: Resizing = SQUASHING,
    ) -> None:
        self._resizing = resizing
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
                    _store(self._source, self._key, store, self._loading, quiet, self._resizing)
        return store.open(self._key, num=len(self))


class Streamed:
    """Pictures that are decoded whenever they are read."""

    streams = True

    def __init__(self, source: Source, size_px: int, failed: Mapping[int, str], resizing: Resizing = SQUASHING) -> None:
        self._source, self._size_px, self.failed, self._resizing = source, size_px, failed, resizing

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
                images_BHWC[i] = self._resizing(picture, self._size_px)
            elif (row := int(rows[i])) not in self.failed:
                raise DataError(
                    f"picture {self._source.name(row)} could be decoded when the fit began, and cannot be now "
                    f"({picture}); put the dataset back as it was and run the same command again"
                )
        return images_BHWC


def open_pictures(
    source: Source,
    *,
    size_px: int,
    loading: Loading | None,
    resizing: Resizing = SQUASHING,
    say: Say = quiet,
    warn: Say = quiet,
) -> Pictures:
    """A source's pictures at one size, all of which have been decoded once.

    The first process that asks for them decodes them into a store; others wait for it. Where the budget or the disk has
    no room for one, a line says so, and they are decoded again whenever they are read.

    Args:
        source: What to decode.
        size_px: S.
        loading: Where they are kept; None: in memory.
        resizing: How they become squares.
        say: Called with how far decoding is, about once a second.
        warn: Called with a line where there is no room for a store.

    Raises:
        RunFolderError: The folder cannot be used, or what stands in a store's place is damaged.
        StageError: A loader process died.
    """
    if loading is None or not len(source):
        return _in_memory(source, size_px, resizing)
    key = StoreKey(source.label, source.key, size_px=size_px, resizing=resizing.plain())
    store = StoreFolder(Path(loading.folder), max_bytes=loading.max_bytes)
    header = store.find(key)
    if header is None:
        with store.turn(key.name):
            header = store.find(key)
            if header is None:
                try:
                    header = _store(source, key, store, loading, say, resizing)
                except ResourceError as error:
                    warn(f"{error}: these pictures ({source.label}) are decoded again for every batch")
            if header is None:  # not in the handler, where what was raised would hold what it came through
                return _streamed(source, size_px, store, loading, say, resizing)
    return Stored(source, loading, key, header["failed"], resizing)


def find_pictures(
    source: Source, *, size_px: int, loading: Loading | None, resizing: Resizing = SQUASHING
) -> Stored | None:
    """A source's pictures at one size, if they are in a store already."""
    if loading is None:
        return None
    key = StoreKey(source.label, source.key, size_px=size_px, resizing=resizing.plain())
    header = StoreFolder(Path(loading.folder), max_bytes=loading.max_bytes).find(key)
    return None if header is None else Stored(source, loading, key, header["failed"], resizing)


def _in_memory(source: Source, size_px: int, resizing: Resizing) -> InMemory:
    images_NHWC = np.zeros((len(source), size_px, size_px, 3), dtype=np.uint8)
    failed: dict[int, str] = {}
    source.prepare()
    for rows in source.chunks():
        for row, picture in zip(rows.tolist(), source.pictures(rows.tolist()), strict=True):
            if isinstance(picture, RowError):
                failed[row] = str(picture)
            else:
                images_NHWC[row] = resizing(picture, size_px)
    return InMemory(images_NHWC, failed)


def _store(
    source: Source, key: StoreKey, store: StoreFolder, loading: Loading, say: Say, resizing: Resizing
) -> dict[str, Any]:
    """Makes a store; gives back its header.

    Raises:
        ResourceError: There is no room for it.
    """
    header: dict[str, Any] = {}
    with store.new(key, header, num=len(source)) as folder:
        decode = Decode(source, key.size_px, target=folder / PICTURES, resizing=resizing)
        header["failed"] = decode_all(decode, loading, say)[0]
    return header


def _streamed(
    source: Source, size_px: int, store: StoreFolder, loading: Loading, say: Say, resizing: Resizing
) -> Streamed:
    """Decodes all once to see which can be, and notes that and where they are for the fits after this one."""
    key = StoreKey(f"{source.label}-places", source.key, size_px=size_px, resizing=resizing.plain())
    with store.turn(key.name):
        header = store.find(key)
        if header is not None:
            source.prepare()
            failed, shape = header["failed"], (len(source), 2)
            ranges = [
                store.array(key, RANGES.format(i), dtype=np.int64, shape=shape).copy()
                for i in range(len(source.columns))
            ]
        else:
            failed, ranges = decode_all(Decode(source, size_px), loading, say)
            # Where the disk has not even room for that, the fits after this one look again.
            with contextlib.suppress(ResourceError), store.new(key, {"failed": failed}) as folder, written(folder):
                for i, ranges_N2 in enumerate(ranges):
                    np.save(folder / RANGES.format(i), ranges_N2)
    for column, ranges_N2 in zip(source.columns, ranges, strict=True):
        column.ranges_N2 = ranges_N2
    return Streamed(source, size_px, failed, resizing)
