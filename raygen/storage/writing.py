"""Files that are wholly there or not at all, and what a disk says when it cannot take them."""

import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raygen.errors import ResourceError, RunFolderError

# Marks files that are being written; what a killed process left can be told by it.
TEMPORARY_SUFFIX = ".tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
# A file where a folder should be (or the other way round), a link to nowhere, links in a circle, too long a name.
_NO_SUCH_PLACE = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


@contextlib.contextmanager
def atomic(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside `path` to write to; afterwards it is synced and renamed.

    A reader sees the whole file or none, and after a failure nothing is left.

    Args:
        path: The file.
        sync: Whether it must survive a loss of power, not just the death of its writer.

    Raises:
        ResourceError: The disk is full.
        RunFolderError: The disk or the folder cannot be written to.
    """
    # Random: two workers on two machines may have the same process id.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with disk_errors(path):
            yield temporary
            if sync:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's errors of a full or read-only disk, or an impossible path, into what to do.

    Args:
        path: What is being written.

    Raises:
        ResourceError: The disk is full.
        RunFolderError: The disk or the folder cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceError(
                f"no space left for {path} ({_free(path)} free on its disk). What is complete stays: free some space "
                "and run the same command again."
            ) from error
        if error.errno in _READ_ONLY:
            raise RunFolderError(
                f"{path} cannot be written ({error.strerror}): the folder or its disk is read-only for this user. "
                "Make it writable, or give another --out."
            ) from error
        if error.errno in _NO_SUCH_PLACE:
            raise RunFolderError(
                f"{path} cannot be made ({error.strerror}): a file or a broken link is in its place or above it, or "
                "the name is too long. Give another --out."
            ) from error
        raise


def remove(path: Path) -> None:
    """Removes a file, a folder with all that is in it, or a link to one of these, but not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Writes bytes, atomically; raises as `atomic` does."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes text, atomically; raises as `atomic` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON, atomically; raises as `atomic` does."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _free(path: Path) -> str:
    existing = next(parent for parent in [path, *path.absolute().parents] if parent.exists())
    return f"{shutil.disk_usage(existing).free / 1e6:.1f} MB"
