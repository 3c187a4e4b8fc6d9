"""Folders of files by their addresses: paths of this machine, and URLs of object stores and web servers."""

import bisect
import errno
from collections.abc import Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BeforeValidator

from raygen.datasets.files import MAX_FILE_BYTES
from raygen.datasets.places import Child, LocalPlace, Place
from raygen.errors import ConfigError, DataError
from raygen.storage.remote import check_no_secret, is_url, store_of, why_not_reached


class RemotePlace(Place):
    """A folder behind a URL, such as "s3://bucket/folder": listed once, with one request for a thousand files.

    Args:
        url: The folder.

    Raises:
        DataError: The URL holds credentials, or is of a kind that no installed package reads.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._store, self._root = store_of(self._url)

    @property
    def name(self) -> str:
        """The URL's last part."""
        return self._url.rpartition("/")[2]

    @property
    def address(self) -> str:
        """The URL."""
        return self._url

    @cached_property
    def files(self) -> pa.Table:
        """All files of the folder, `raygen.storage.remote.FILES`, sorted by path.

        Raises:
            DataError: The folder cannot be listed.
        """
        try:
            return self._store.files(self._root).combine_chunks()
        except FileNotFoundError as error:
            raise DataError(f"{self._url} does not exist, or holds no file") from error
        except OSError as error:
            raise DataError(why_not_reached(self._url, error)) from error

    def children(self, folder: str = "") -> Sequence[Child]:
        """See `Place.children`."""
        below = f"{folder.strip('/')}/" if folder.strip("/") else ""
        first, last = self._range(below)
        if first == last:
            raise FileNotFoundError(errno.ENOENT, "does not exist")
        rest = pc.utf8_slice_codeunits(self._paths.slice(first, last - first), len(below))
        is_deeper = pc.match_substring(rest, "/")
        names = pc.list_element(pc.split_pattern(rest, "/", max_splits=1), 0)
        folders = set(pc.unique(names.filter(is_deeper)).to_pylist()) - {""}
        files = set(names.filter(pc.invert(is_deeper)).to_pylist()) - {""} - folders
        found = [Child(name, is_folder=name in folders, is_file=name in files) for name in folders | files]
        return sorted(found, key=lambda child: child.name)

    def why_no_file(self, path: str) -> str | None:
        """See `Place.why_no_file`."""
        if self._row(path) is not None:
            return None
        return "is a folder, not a file" if self.why_no_folder(path) is None else "does not exist"

    def why_no_folder(self, path: str) -> str | None:
        """See `Place.why_no_folder`."""
        first, last = self._range(f"{path.strip('/')}/")
        if first < last:
            return None
        return "is a file" if self._row(path) is not None else "does not exist"

    def reference(self, path: str) -> str:
        """The file's URL."""
        return f"{self._url}/{path}"

    def shown(self, path: str) -> str:
        """The file's URL."""
        return self.reference(path)

    def folder_key(self, folder: str) -> Hashable:
        """The folder itself: there are no links."""
        return folder

    def state(self, reference: str) -> tuple[Any, ...] | None:
        """Size, and etag or time of change, as they were when the folder was listed."""
        row = self._row(reference[len(self._url) + 1 :]) if reference.startswith(f"{self._url}/") else None
        if row is None:
            return None
        return self.files["bytes"][row].as_py(), self.files["version"][row].as_py()

    def read(self, path: str) -> bytes:
        """See `Place.read`."""
        return self._store.read(f"{self._root}/{path}", MAX_FILE_BYTES)

    @property
    def _paths(self) -> pa.StringArray:
        return self.files["path"].combine_chunks() if self.files.num_rows else pa.array([], pa.string())

    def _row(self, path: str) -> int | None:
        paths = self._sorted
        row = bisect.bisect_left(paths, path)
        return row if row < len(paths) and paths[row] == path else None

    def _range(self, below: str) -> tuple[int, int]:
        """Rows of the files whose paths begin so."""
        paths = self._sorted
        return bisect.bisect_left(paths, below), bisect.bisect_left(paths, f"{below}\U0010ffff") if below else len(
            paths
        )

    @cached_property
    def _sorted(self) -> "_Texts":
        return _Texts(self._paths)


class _Texts(Sequence[str]):
    """An array of strings as `bisect` wants it: a list of Python's would take several times the memory."""

    def __init__(self, array: pa.StringArray) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: Any) -> Any:
        return self._array[row].as_py()


class HttpsPlace(RemotePlace):
    """A folder of a web server, which lists nothing: a table says what is there, and what it names is taken as is."""

    TABLE = "metadata.csv"

    def children(self, folder: str = "") -> Sequence[Child]:
        """The table, if the folder has one."""
        if folder:
            raise OSError(errno.ENOTSUP, "https:// has no folders that could be listed")
        return [Child(self.TABLE, is_folder=False, is_file=True)] if self.has(self.TABLE) else []

    def has(self, path: str) -> bool:
        """Whether the server gives such a file; it is read for that.

        Raises:
            DataError: The server cannot be reached, or refuses.
        """
        try:
            self.read(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise DataError(why_not_reached(self.reference(path), error)) from error
        return True

    def why_no_file(self, path: str) -> str | None:
        """None: a request for each of them would take as long as reading them."""
        return None

    def why_no_folder(self, path: str) -> str | None:
        """There are none."""
        return "cannot be listed"

    def state(self, reference: str) -> tuple[Any, ...] | None:
        """Nothing is known but the address."""
        return None


def place_of(address: str | Path) -> Place:
    """The folder of an address: a path of this machine, or a URL.

    Raises:
        DataError: A URL that holds credentials, or is of a kind that no installed package reads.
    """
    if not isinstance(address, str) or not is_url(address):
        return LocalPlace(Path(address))
    if address.startswith("file://"):
        return LocalPlace(Path(unquote(address.removeprefix("file://"))))
    return HttpsPlace(address) if address.startswith(("http://", "https://")) else RemotePlace(address)


def _address(value: Any) -> Any:
    """Text of a config as a URL, or as a path of this machine with `~` as the user's home."""
    if isinstance(value, str) and is_url(value):
        try:
            check_no_secret(value)
        except DataError as error:
            # Not a ValueError, with which pydantic would have the whole URL shown.
            raise ConfigError(f"dataset.path: {error}") from error
        return value
    if not isinstance(value, str | Path):
        return value
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # no such user, or no home of this one
        raise ValueError(f"{value}: {error}") from error


# A field of a config: the path of a folder that this machine has mounted, or a URL.
Address = Annotated[Path | str, BeforeValidator(_address)]
