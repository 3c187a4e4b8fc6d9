"""Files behind URLs: all files below a folder with one listing, and the bytes of one.

`s3://` and `gs://` are pyarrow's own file systems, `https://` gives single files, and everything else is what fsspec
knows and has a package for (`hf://`, `az://`, `abfs://`). Each of them tries again by itself where it is throttled or a
connection breaks, and finds its credentials in its usual places: the environment, profiles, roles of the machine. Never
in a URL, which is written into run folders and messages.
"""

import errno
import os
import re
from abc import ABC, abstractmethod
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import fsspec
import httpx2
import pyarrow as pa
from fsspec.implementations.arrow import ArrowFSWrapper
from huggingface_hub.utils import http_backoff  # type: ignore[attr-defined]  # re-exported without saying so
from pyarrow import fs as arrow_fs

from raygen.errors import DataError

# Tries of one request. AWS's "standard" mode waits up to 20 s between them: about a minute of throttling is sat out.
MAX_ATTEMPTS = 10
# As long again for Google's, whose library counts seconds.
RETRY_S = 60
REQUEST_S = 60
FILES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # below the folder, "/" between its parts
        pa.field("bytes", pa.int64()),
        pa.field("version", pa.string()),  # etag, or time of the last change: another one, another content
    ]
)
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.DOTALL)
# Names of a URL's parameters that sign it or hold a key, in small letters: AWS's, Google's and Azure's links that
# expire, and options of file systems.
_SECRET = re.compile(r"key|secret|token|passw|credential|signature|^sig$|^x-(amz|goog)-")
# By which a store's refusal is told, whatever words its library has for it.
_REFUSED = re.compile(
    r"access.?denied|forbidden|unauthorized|credential|\b40[13]\b|invalid.?access.?key|signature", re.I
)
_VERSIONS = ("ETag", "etag", "blob_id", "md5", "content_md5", "LastModified", "last_modified", "mtime", "updated")
_WHERE = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE and ~/.aws, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, `gcloud auth application-default login`, or the machine's role",
    "hf": "HF_TOKEN, or `hf auth login`",
    "https": "nowhere: such files are read without; give an s3://, gs:// or hf:// address where they are not public",
}


def is_url(address: str | os.PathLike[str]) -> bool:
    """Whether an address is a URL, and not a path of this machine."""
    return isinstance(address, str) and _URL.match(address) is not None


def check_no_secret(url: str) -> None:
    """Checks that a URL holds no credentials.

    Raises:
        DataError: It does.
    """
    scheme, rest = _parts(url)
    host, query = rest.partition("/")[0], urlsplit(url).query
    secret = next((name for name, _ in parse_qsl(query, keep_blank_values=True) if _SECRET.search(name.lower())), None)
    if "@" in host or secret is not None:
        what = f"the parameter '{secret}'" if secret is not None else "a name or key before '@'"
        plain = f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
        raise DataError(
            f"{plain} was given with {what}, which would be written into run folders and messages. Give the address "
            f"alone; credentials are taken from {_where(scheme)}"
        )


class Store(ABC):
    """A file system behind URLs; paths are its own, as `store_of` gives them."""

    @abstractmethod
    def files(self, folder: str) -> pa.Table:
        """All files below a folder, FILES, sorted by path.

        Raises:
            OSError: The folder cannot be listed.
        """

    @abstractmethod
    def read(self, path: str, max_bytes: int) -> bytes:
        """Bytes of a file.

        Raises:
            OSError: It is gone, has more than `max_bytes`, or cannot be read.
        """

    @abstractmethod
    def open(self, path: str) -> Any:
        """A file of which any part can be read; pyarrow takes it.

        Raises:
            OSError: It cannot be opened.
        """


def store_of(url: str) -> tuple[Store, str]:
    """The file system of a URL, and the path of what it names there.

    Raises:
        DataError: The URL holds credentials, or is of a kind that no installed package reads.
    """
    check_no_secret(url)
    scheme, rest = _parts(url)
    if scheme in ("http", "https"):
        return _HttpsStore(), url
    if scheme in ("s3", "gs"):
        return _ArrowStore(_arrow_filesystem(scheme, rest.partition("/")[0])), rest.rstrip("/")
    # As for pyarrow's file systems.
    return _fsspec_store(scheme, os.getpid()), rest.rstrip("/")


def read_url(url: str, max_bytes: int) -> bytes:
    """Bytes of the file of a URL; see `Store.read`."""
    store, path = store_of(url)
    return store.read(path, max_bytes)


def open_url(url: str) -> Any:
    """The file of a URL, opened; see `Store.open`."""
    store, path = store_of(url)
    return store.open(path)


def why_not_reached(url: str, error: OSError) -> str:
    """What to say of a store that refused, or could not be reached."""
    said = error.strerror or str(error)
    if not _REFUSED.search(said):
        return f"{url} cannot be read: {said}"
    return (
        f"{url} cannot be read: {said}. No credentials were found, or they do not allow it; they are taken from "
        f"{_where(_parts(url)[0])}"
    )


def filesystem_of(url: str) -> tuple[Any, str]:
    """The file system of a URL in fsspec's form, for who writes, and the path of what it names there.

    Raises:
        DataError: The URL holds credentials, or is of a kind that no installed package reaches.
    """
    check_no_secret(url)
    scheme, rest = _parts(url)
    if scheme in ("s3", "gs"):
        return ArrowFSWrapper(_arrow_filesystem(scheme, rest.partition("/")[0])), rest.rstrip("/")
    try:
        found, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{scheme}:// addresses cannot be reached here: {error}") from error
    return found, str(path).rstrip("/")


def where_credentials_are(url: str) -> str:
    """Where those of a URL's store are looked for, in words."""
    return _where(_parts(url)[0])


def _arrow_filesystem(scheme: str, bucket: str) -> arrow_fs.FileSystem:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    # A process of its own has a file system of its own: connections do not survive a fork.
    return _new_filesystem(scheme, bucket, endpoint, region, os.getpid())


@lru_cache(maxsize=32)
def _new_filesystem(
    scheme: str, bucket: str, endpoint: str | None, region: str | None, _process: int
) -> arrow_fs.FileSystem:
    if scheme == "gs":
        return arrow_fs.GcsFileSystem(retry_time_limit=timedelta(seconds=RETRY_S))
    if region is None and endpoint is None:
        try:
            region = arrow_fs.resolve_s3_region(bucket)
        except OSError:  # no such bucket, or no way there: the listing says which
            region = None
    return arrow_fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        request_timeout=REQUEST_S,
        retry_strategy=arrow_fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
    )


@lru_cache(maxsize=32)
def _fsspec_store(scheme: str, _process: int) -> Store:
    try:
        return _FsspecStore(fsspec.filesystem(scheme))
    except (ImportError, ValueError) as error:
        raise DataError(f"{scheme}:// addresses cannot be read here: {error}") from error


class _ArrowStore(Store):
    def __init__(self, filesystem: arrow_fs.FileSystem) -> None:
        self._fs = filesystem

    def files(self, folder: str) -> pa.Table:
        try:
            found = self._fs.get_file_info(arrow_fs.FileSelector(folder, recursive=True))
        except OSError as error:
            raise _told(error) from error
        files = [info for info in found if info.type == arrow_fs.FileType.File]
        above = len(folder) + 1
        return _table(
            [info.path[above:] for info in files],
            [info.size for info in files],
            [str(info.mtime_ns) for info in files],
        )

    def read(self, path: str, max_bytes: int) -> bytes:
        try:
            with self._fs.open_input_stream(path) as stream:
                data: bytes = stream.read(max_bytes + 1)
        except OSError as error:
            raise _told(error) from error
        return _checked(data, max_bytes)

    def open(self, path: str) -> Any:
        try:
            return self._fs.open_input_file(path)
        except OSError as error:
            raise _told(error) from error


class _FsspecStore(Store):
    def __init__(self, filesystem: Any) -> None:
        self._fs = filesystem

    def files(self, folder: str) -> pa.Table:
        try:
            self._fs.invalidate_cache()
            found = self._fs.find(folder, detail=True)
            root = str(self._fs._strip_protocol(folder)).rstrip("/")
        except Exception as error:  # each store's package has its own kinds
            raise _told(error) from error
        if not found:
            raise FileNotFoundError(errno.ENOENT, "does not exist, or holds no file")
        return _table(
            [name[len(root) + 1 :] for name in found],
            [info.get("size") for info in found.values()],
            [next((str(info[key]) for key in _VERSIONS if info.get(key)), "") for info in found.values()],
        )

    def read(self, path: str, max_bytes: int) -> bytes:
        try:
            with self._fs.open(path, "rb") as file:
                data: bytes = file.read(max_bytes + 1)
        except Exception as error:  # likewise
            raise _told(error) from error
        return _checked(data, max_bytes)

    def open(self, path: str) -> Any:
        try:
            return self._fs.open(path, "rb")
        except Exception as error:  # likewise
            raise _told(error) from error


class _HttpsStore(Store):
    def files(self, folder: str) -> pa.Table:
        raise OSError(
            errno.ENOTSUP, "https:// has no folders that could be listed; give a table with its files' addresses"
        )

    def read(self, path: str, max_bytes: int) -> bytes:
        try:
            answer = http_backoff("GET", path, max_retries=MAX_ATTEMPTS - 1, timeout=REQUEST_S, follow_redirects=True)
            if answer.status_code in (404, 410):
                raise FileNotFoundError(errno.ENOENT, "does not exist")
            answer.raise_for_status()
        except httpx2.HTTPError as error:
            raise _told(error) from error
        return _checked(answer.content, max_bytes)

    def open(self, path: str) -> Any:
        raise OSError(errno.ENOTSUP, "https:// files are read as a whole only; download them first")


def _checked(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"has more than {max_bytes:,} bytes, the most that are read")
    return data


def _table(paths: list[str], sizes: list[int | None], versions: list[str]) -> pa.Table:
    return pa.table([paths, sizes, versions], schema=FILES).sort_by("path")


def _told(error: Exception) -> OSError:
    """The error with words that fit into a line, as those of the operating system have."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "does not exist")
    return OSError(errno.EIO, " ".join(f"{type(error).__name__ if not str(error) else error}".split()))


def _parts(url: str) -> tuple[str, str]:
    found = _URL.match(url)
    assert found is not None, url
    return found[1], found[2]


def _where(scheme: str) -> str:
    scheme = "https" if scheme == "http" else scheme
    return _WHERE.get(scheme, "where its package looks for them")
