"""Where files go that are to be used elsewhere: a new folder on a disk of this machine, or behind a URL.

Such a folder never looks complete before it is. On a disk it is filled under a hidden name beside its own and renamed
at the end. Behind a URL, where nothing can be renamed, `UNFINISHED` lies in it from the first file to the last. Either
way the same work goes on where it was interrupted: files are wholly there or not at all.
"""

import contextlib
import errno
import json
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from raygen.errors import DataError, RaygenError, ResourceError
from raygen.storage.remote import filesystem_of, is_url, where_credentials_are
from raygen.storage.writing import atomic, disk_errors, remove, write_json

# Says in an unfinished folder what it is to become.
UNFINISHED = "_unfinished.json"
# Stores in which an object is there when all of it is, and not before.
_WHOLE_OR_NONE = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "hf", "memory", "oss"})
# Names that a message lists.
_SHOWN = 5


class Destination(ABC):
    """A new folder of files.

    Attributes:
        address: Where it is, for messages.
        present: Names of the files that an interrupted export has left in it; "/" between the parts of a name.
    """

    address: str
    present: frozenset[str]

    @abstractmethod
    def file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A path on this machine to write a file to; afterwards it is in the folder, or after an error it is not.

        Raises:
            ResourceError: There is no room, or the folder cannot be reached or written to.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Writes a small file; raises as `file` does. May be called from several threads."""

    @abstractmethod
    def finish(self) -> None:
        """Makes the folder complete; raises as `file` does."""


def open_destination(to: str, *, key: str) -> Destination:
    """A folder to be filled, or one to go on with.

    Args:
        to: Path of a local folder, or a URL such as "s3://bucket/folder". New or empty.
        key: What it is filled with: only a folder that was begun with the same is gone on with.

    Raises:
        DataError: The folder is not empty, or was begun with something else, or the URL holds credentials.
        ResourceError: It cannot be reached or written to.
    """
    if not is_url(to):
        return LocalDestination(Path(to).expanduser(), key=key)
    parts = urlsplit(to)
    if parts.scheme in ("file", "local"):
        return LocalDestination(Path(unquote(parts.netloc + parts.path)), key=key)
    return RemoteDestination(to, key=key)


class LocalDestination(Destination):
    """A folder on a disk of this machine.

    Args:
        folder: Absent or empty.
        key: See `open_destination`.
    """

    def __init__(self, folder: Path, *, key: str) -> None:
        self._folder = folder.absolute().resolve()
        self.address = str(folder)
        with disk_errors(folder):
            if self._folder.exists() and (not self._folder.is_dir() or any(self._folder.iterdir())):
                raise DataError(_not_empty(self.address, _listed(self._folder)))
            self._begun = self._folder.with_name(f".{self._folder.name}.unfinished")
            self._files = self._begun / "files"
            if self._begun.exists() and _read_key(self._begun / UNFINISHED) != key:
                if (self._begun / UNFINISHED).is_file() or not self._begun.is_dir():
                    remove(self._begun)  # of an export that nobody went on with
                elif any(self._begun.iterdir()):
                    raise DataError(f"{self._begun} is in the way and not raygen's; take it away, or give another --to")
            self._files.mkdir(parents=True, exist_ok=True)
        write_json(self._begun / UNFINISHED, {"key": key})
        found = (path for path in self._files.rglob("*") if path.is_file() and not path.name.startswith("."))
        self.present = frozenset(path.relative_to(self._files).as_posix() for path in found)

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """See `Destination.file`."""
        path = self._files / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path) as temporary:
                yield temporary

    def write(self, name: str, data: bytes) -> None:
        """See `Destination.write`."""
        path = self._files / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic(path, sync=False) as temporary:  # of many thousands; the rename at the end is what counts
                temporary.write_bytes(data)

    def finish(self) -> None:
        """See `Destination.finish`."""
        try:
            with disk_errors(self._folder):
                self._files.replace(self._folder)  # over an empty folder, if there is one
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:  # filled by another while this was written
                raise DataError(_not_empty(self.address, _listed(self._folder))) from error
            if error.errno not in (errno.EBUSY, errno.EXDEV):
                raise
            raise DataError(f"{self.address} is a disk's own folder; give a folder in it as --to") from error
        remove(self._begun)


class RemoteDestination(Destination):
    """A folder behind a URL.

    Args:
        url: Of the folder.
        key: See `open_destination`.
    """

    def __init__(self, url: str, *, key: str) -> None:
        self.address = url
        self._protocol = urlsplit(url).scheme
        with self._reached():
            self._fs, self._root = filesystem_of(url)
            self._fs.invalidate_cache()
            found = {name.removeprefix(f"{self._root}/") for name in self._fs.find(self._root)}
            if UNFINISHED not in found and found:
                raise DataError(_not_empty(url, sorted(found)))
            if UNFINISHED not in found:
                with self._placed(UNFINISHED) as place:
                    self._fs.pipe_file(place, json.dumps({"key": key}).encode())
            elif json.loads(self._fs.cat_file(self._path(UNFINISHED))).get("key") != key:
                raise DataError(
                    f"{url} holds an unfinished export of other pictures, another format or another version. Finish "
                    "that one, delete the folder, or give another --to"
                )
        self.present = frozenset(found - {UNFINISHED})

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """See `Destination.file`."""
        with tempfile.TemporaryDirectory(prefix="raygen-") as folder:
            path = Path(folder) / "file"
            with disk_errors(path):
                yield path
            with self._reached(), self._placed(name) as place:
                self._fs.put_file(str(path), place)

    def write(self, name: str, data: bytes) -> None:
        """See `Destination.write`."""
        with self._reached(), self._placed(name) as place:
            self._fs.pipe_file(place, data)

    def finish(self) -> None:
        """See `Destination.finish`."""
        with self._reached():
            self._fs.rm_file(self._path(UNFINISHED))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _placed(self, name: str) -> Iterator[str]:
        """Where to write a file so that it comes to its place as a whole."""
        path = self._path(name)
        if self._protocol in _WHOLE_OR_NONE:  # and folders are but a part of the name
            yield path
            return
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        yield f"{path}.part"
        self._fs.mv(f"{path}.part", path)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Turns whatever a store's own package raises into what to do."""
        try:
            yield
        except RaygenError:
            raise
        except Exception as error:  # each store's package has its own kinds
            raise ResourceError(
                f"{self.address} cannot be read and written ({type(error).__name__}: {error}). Credentials are taken "
                f"from {where_credentials_are(self.address)}"
            ) from error


def _read_key(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _listed(path: Path) -> list[str]:
    return sorted(item.name for item in path.iterdir()) if path.is_dir() else []


def _not_empty(address: str, names: list[str]) -> str:
    if not names:
        return f"{address} is a file; give a new folder as --to"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{address} is not empty: it holds {', '.join(names[:_SHOWN])}{more}. Give a new or an empty folder as --to"
