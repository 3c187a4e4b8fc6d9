"""An S3 of moto's on this machine, with what real ones do and moto's does not: refusals and throttling."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from moto.moto_server.werkzeug_app import create_backend_app
from pyarrow import fs
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "pictures"
_ERROR = "<Error><Code>{}</Code><Message>{}</Message></Error>"


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, *args: Any) -> None:
        pass


class S3Server:
    """The server.

    Attributes:
        url: Where it listens.
        num_throttled: So many of the next requests for objects are answered with 503 SlowDown.
        requests: Method and path of each request since the list was emptied.
    """

    def __init__(self) -> None:
        self._app = create_backend_app("s3")
        self.num_throttled, self.requests = 0, list[tuple[str, str]]()
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def use(self, patch: pytest.MonkeyPatch, *, credentials: bool = True) -> None:
        """Sets the environment as for this server."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", self.url)
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", "/nonexistent")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        if credentials:
            patch.setenv("AWS_ACCESS_KEY_ID", "tester")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    def filesystem(self) -> fs.S3FileSystem:
        """A client of its own, for what is to be in the buckets."""
        return fs.S3FileSystem(
            access_key="tester",
            secret_key="secret",
            endpoint_override=self.url,
            region="us-east-1",
            allow_bucket_creation=True,
        )

    def upload(self, folder: Path, *, bucket: str = BUCKET) -> str:
        """Brings a folder into a bucket under its own name; gives back its URL."""
        there = self.filesystem()
        there.create_dir(bucket)
        fs.copy_files(
            str(folder), f"{bucket}/{folder.name}", source_filesystem=fs.LocalFileSystem(), destination_filesystem=there
        )
        return f"s3://{bucket}/{folder.name}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        with self._lock:
            self.requests.append((method, path))
            is_object = method == "GET" and path.count("/") > 1
            throttled, self.num_throttled = is_object and self.num_throttled > 0, self.num_throttled - is_object
        if throttled:
            return _refuse(start, "503 Slow Down", "SlowDown", "Please reduce your request rate.")
        if "HTTP_AUTHORIZATION" not in environ:
            return _refuse(start, "403 Forbidden", "AccessDenied", "Access Denied")
        answer: Iterable[bytes] = self._app(environ, start)
        return answer


def _refuse(start: Any, status: str, code: str, message: str) -> list[bytes]:
    body = _ERROR.format(code, message).encode()
    start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
