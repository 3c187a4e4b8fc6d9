"""Where a row's picture is: the path of a file that this machine has mounted, or a URL."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from raygen.datasets.files import MAX_FILE_BYTES, printable, read_file, state
from raygen.storage.remote import is_url, open_url, read_url

# Requests under way at a time in one process: an object store answers one in 20 to 100 ms, and many at once as fast.
NUM_REQUESTS = 16


def read_reference(reference: str) -> bytes:
    """Bytes of a picture's file.

    Raises:
        OSError: It is gone, is no file, has more than MAX_FILE_BYTES, or cannot be read; `strerror` says which.
    """
    return read_url(reference, MAX_FILE_BYTES) if is_url(reference) else read_file(reference)


def read_references(references: Sequence[str]) -> list[bytes | OSError]:
    """Bytes of each file, or why there are none; URLs several at a time."""
    remote = [reference for reference in references if is_url(reference)]
    if len(remote) < 2:
        return [_read(reference) for reference in references]
    with ThreadPoolExecutor(min(NUM_REQUESTS, len(remote))) as pool:
        return list(pool.map(_read, references))


def reference_state(reference: str) -> tuple[int, int] | None:
    """Size and time of change in ns; None if the file is gone, and for a URL, which only a listing says more of."""
    return None if is_url(reference) else state(Path(reference))


def open_reference(reference: str) -> Any:
    """A file as `pyarrow.parquet` opens it: its path, or a remote file of which only parts are read.

    Raises:
        OSError: It cannot be opened.
    """
    return open_url(reference) if is_url(reference) else reference


def why_unread(reference: str, error: OSError) -> str:
    """What to say of a file that cannot be read."""
    return f"{printable(reference)} cannot be read: {error.strerror or error}"


def with_files(rows: Iterable[dict[str, Any]], unread: dict[str, str]) -> Iterator[dict[str, Any]]:
    """SOURCE rows with their pictures' bytes where these are in files that they name; remote files several at a time.

    Args:
        rows: With `image_png`, or `path`.
        unread: Gets the reason, by image_id, where a file cannot be read; such a row has no bytes.
    """
    waiting = iter(rows)
    while some := list(islice(waiting, NUM_REQUESTS)):
        named = [row for row in some if row["image_png"] is None and row.get("path")]
        for row, found in zip(named, read_references([row["path"] for row in named]), strict=True):
            if isinstance(found, OSError):
                unread[row["image_id"]] = why_unread(row["path"], found)
            else:
                row["image_png"] = found
        yield from some


def _read(reference: str) -> bytes | OSError:
    try:
        return read_reference(reference)
    except OSError as error:
        return error
