"""Decoded pictures on disk: every process of a node maps the same file, so they are decoded once and held once.

    <folder>/train-224px-<hash>/pictures.npy    (N, S, S, 3) uint8
    <folder>/train-224px-<hash>/store.json      what they are of, and what could not be decoded and why

A store has the hash of what decides its pixels in its name. It is made in a hidden folder beside its place, and renamed
when all is on the disk: a folder without a dot is whole. Whoever comes first makes it, holding the operating system's
lock, which goes with its process; the others wait. What a killed one left is removed by the next that looks for room.
"""

# N pictures, S side of the square picture

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from filelock import FileLock, Timeout

from raygen import __version__
from raygen.config import fingerprint
from raygen.errors import ResourceError, RunFolderError, unreadable
from raygen.storage.writing import TEMPORARY_SUFFIX, remove, write_json

PICTURES, HEADER = "pictures.npy", "store.json"
# 1: rows of (S, S, 3) uint8, zeros where a picture could not be decoded.
FORMAT = 1
# Below a run's or sweep's folder, while it is not finished, where no other folder is given.
FOLDER = ".pictures"
# Share of a disk's free space that a store may take: a run has more to write.
ROOM = 0.9
GB = 1_000_000_000


class StoreKey:
    """What a store is of.

    Args:
        label: What people call it: a split, "generated", a control.
        source: What decides its pictures: plain data.
        size_px: S.
        resizing: Plain data of how they became squares; empty where they were squashed bilinearly.

    Attributes:
        size_px: S.
        data: All that decides its pixels; the versions of what decodes them among it.
        name: Of its folder.
    """

    def __init__(
        self, label: str, source: Mapping[str, Any], *, size_px: int, resizing: Mapping[str, Any] | None = None
    ) -> None:
        made_by = {"raygen": __version__, "pillow": PIL.__version__}
        self.size_px = size_px
        self.data: dict[str, Any] = {"format": FORMAT, "source": dict(source), "size_px": size_px, "made_by": made_by}
        if resizing:  # named only where there is one, so that stores from before it are found
            self.data["resizing"] = dict(resizing)
        self.name = f"{label}-{size_px}px-{fingerprint(self.data)}"


class StoreFolder:
    """A folder of stores.

    Args:
        folder: Made when absent.
        max_bytes: What all stores in it may take together.

    Raises:
        RunFolderError: It cannot be made or used.
    """

    def __init__(self, folder: Path, *, max_bytes: float) -> None:
        self.folder, self._max_bytes = folder, max_bytes
        with self._usable():
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: StoreKey) -> dict[str, Any] | None:
        """The header of a store that is there, with `failed` by number of the picture; None where none is.

        Raises:
            RunFolderError: What is in its place is damaged or of something else.
        """
        folder = self.folder / key.name
        path = folder / HEADER
        if not folder.exists():
            return None
        way_out = f"Delete {folder}; its pictures are then decoded again."
        try:
            header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = header["key"]
            header["failed"] = {int(row): str(reason) for row, reason in header["failed"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(unreadable(path, error, way_out)) from error
        if found != key.data:
            raise RunFolderError(f"{folder} is not what its name says: it holds pictures of {found}. {way_out}")
        return header

    def open(self, key: StoreKey, *, num: int) -> np.ndarray:
        """The pictures of a store that is there, mapped: (N, S, S, 3) uint8, not to be written to.

        Raises:
            RunFolderError: The file is gone, damaged, or of other pictures.
        """
        return self.array(key, PICTURES, dtype=np.uint8, shape=(num, key.size_px, key.size_px, 3))

    def array(self, key: StoreKey, name: str, *, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
        """An array of a store that is there, mapped, not to be written to.

        Args:
            key: The store's.
            name: Of its file.
            dtype: What its numbers must be.
            shape: What it must be.

        Raises:
            RunFolderError: The file is gone, damaged, or of something else.
        """
        path = self.folder / key.name / name
        way_out = f"Delete {path.parent}; its pictures are then decoded again."
        try:
            # Not np.load, which takes archives and pickles too, and says of each in its own way that it is none.
            found = np.lib.format.open_memmap(path, mode="r")
        except (OSError, ValueError) as error:
            raise RunFolderError(unreadable(path, error, way_out)) from error
        if found.dtype != dtype or found.shape != shape:
            expected = f"{np.dtype(dtype)} of shape {shape}"
            raise RunFolderError(f"{path} holds {found.dtype} of shape {found.shape}, not {expected}. {way_out}")
        return found.view(np.ndarray)

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Holds the making of a store; waits while another process does.

        Raises:
            RunFolderError: The folder cannot be written to, or its file system has no locks.
        """
        lock = self._lock(name)
        try:
            with self._usable():
                lock.acquire()
        except NotImplementedError as error:
            raise RunFolderError(
                f"the file system of {self.folder} has no locks, so that fits beside each other could spoil their "
                "pictures there; set fit.store_folder to a folder elsewhere"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def new(self, key: StoreKey, header: dict[str, Any], *, num: int = 0) -> Iterator[Path]:
        """A hidden folder to make a store in, which becomes the store; to be called while it is one's turn.

        Args:
            key: What it is of.
            header: What `find` gives, beside the key; read at the end.
            num: Pictures that PICTURES, which is there already, has room for; 0: there is no such file.

        Raises:
            ResourceError: The budget or the disk has no room for it.
        """
        folder = self.folder / f".{key.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}"
        try:
            for leftover in self.folder.glob(f".{key.name}.*{TEMPORARY_SUFFIX}"):
                remove(leftover)  # it is our turn, so whoever made that is dead
            with self.turn("room"):  # what two make at once counts for both
                self._reserve(folder, num, key.size_px)
            yield folder
            if num:
                with (folder / PICTURES).open("rb+") as file, written(folder):
                    os.fsync(file.fileno())
            write_json(folder / HEADER, {"key": key.data, **header})
            folder.replace(self.folder / key.name)
        finally:
            remove(folder)

    def _reserve(self, folder: Path, num: int, size_px: int) -> None:
        needed, taken = num * size_px**2 * 3, self._taken()
        if num and taken + needed > self._max_bytes:
            beside = f" beside the {taken / GB:,.1f} GB of other stores there" if taken else ""
            raise ResourceError(
                f"{num:,} decoded pictures take {needed / GB:,.1f} GB in {self.folder}{beside}, and fit.store_gb is "
                f"{self._max_bytes / GB:g}"
            )
        free = shutil.disk_usage(self.folder).free
        if num and needed > ROOM * free:
            raise ResourceError(
                f"{num:,} decoded pictures take {needed / GB:,.1f} GB, and the disk of {self.folder} has "
                f"{free / GB:,.1f} GB free, a tenth of which stays so"
            )
        with written(folder):
            folder.mkdir()
            if num:  # without blocks: writing says whether there are any, mapping would kill the process
                np.lib.format.open_memmap(
                    folder / PICTURES, mode="w+", dtype=np.uint8, shape=(num, size_px, size_px, 3)
                )

    def _taken(self) -> int:
        """Bytes of all stores and of those that are being made; what a killed process left is removed."""
        for folder in self.folder.glob(f".*{TEMPORARY_SUFFIX}"):
            lock = self._lock(folder.name[1:].rpartition(".")[0].rpartition(".")[0])
            with contextlib.suppress(Timeout):
                lock.acquire(timeout=0)  # by another object than its maker's, if that is in this process
                remove(folder)
                lock.release()
        sizes = []
        for path in self.folder.glob(f"*/{PICTURES}"):
            with contextlib.suppress(FileNotFoundError):  # just removed, or renamed and counted under its new name
                sizes.append(path.stat().st_size)
        return sum(sizes)

    @contextlib.contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"{self.folder}, where decoded pictures are to be kept, cannot be used ({error.strerror}); set "
                "fit.store_folder to a folder that can be written to, on a disk that has some room"
            ) from error

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / f".{name}.lock", fallback_to_soft=False)


def remove_stores(folder: Path) -> None:
    """Removes the stores of a run or sweep that is finished."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Turns whatever the operating system says to writing a store into one error: it does without then.

    Raises:
        ResourceError: The disk does not take it.
    """
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{path} cannot be written ({error.strerror})") from error
