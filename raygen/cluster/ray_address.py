"""What Ray needs of the environment, looked at before Ray is asked: RAY_ADDRESS, its folder and its token.

Ray answers what is wrong there with a traceback, or tries for a quarter of an hour. Nothing here starts or joins Ray:
`raygen.cluster.connect` does, and `raygen doctor` looks at the same.
"""

import contextlib
import errno
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from raygen.errors import ConfigError, ResourceError

logger = logging.getLogger(__name__)

# A head on the other side of the world answers within a second.
ANSWER_S = 5.0
WATCH_EVERY_S = 10.0
# Silences in a row that are told: one may be a head that is busy.
MISSED = 2
# Linux; macOS has three bytes less.
MAX_SOCKET_BYTES = 104 - 1 if sys.platform == "darwin" else 108 - 1
# Ray 2.60 below its folder, with the longest process id.
SOCKET = "ray/session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store"
# Ray's first log files; with less, it stops in the middle of its start.
LEAST_BYTES = 1 << 20
# How every conversation in HTTP/2 begins, which gRPC speaks: a fixed text, and an empty frame of settings (type 4).
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP2_SETTINGS = 4
WAYS_TO_JOIN = (
    "On a node of the cluster, set RAY_ADDRESS to auto or to the head's host and port, such as 10.0.0.1:6379; from "
    "elsewhere, submit the command: `ray job submit -- raygen …`"
)


def named_address(environ: Mapping[str, str]) -> str | None:
    """The cluster that RAY_ADDRESS names: "auto" or "host:port"; None to start Ray on this machine.

    Raises:
        ConfigError: It is neither.
    """
    address = environ.get("RAY_ADDRESS", "")
    if address in {"", "local"}:
        return None
    if address == "auto":
        return address
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"RAY_ADDRESS={address} is a dashboard's address, which only `ray job submit` takes. {WAYS_TO_JOIN}. Unset "
            "RAY_ADDRESS to work on this machine alone."
        )
    if "://" in address:
        raise ConfigError(
            f"RAY_ADDRESS={address}: raygen does not work through Ray Client, whose program is outside the cluster and "
            f"sees neither its nodes nor their files. {WAYS_TO_JOIN}."
        )
    host, _, port = address.rpartition(":")
    is_bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not host or is_bare_ipv6 or not (port.isdecimal() and 0 < int(port) < 2**16) or address != address.strip():
        raise ConfigError(f"RAY_ADDRESS={address!r} is not a host and a port. {WAYS_TO_JOIN}.")
    return address


def check_answers(address: str, environ: Mapping[str, str], *, timeout_s: float = ANSWER_S) -> None:
    """Checks within seconds that the head of a Ray cluster answers.

    Args:
        address: "host:port", as Ray will use it.
        environ: Environment variables.
        timeout_s: How long to wait for a connection, and for an answer.

    Raises:
        ConfigError: Nothing answers there, or something else.
    """
    host, _, port = address.rpartition(":")
    named = f"RAY_ADDRESS={environ.get('RAY_ADDRESS', '')}"
    where = named if named.endswith(f"={address}") else f"{named} ({address})"
    advice = f"Is the cluster up (`ray status`), and the port right? {WAYS_TO_JOIN}. Unset it to work on this machine."
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s) as connection:
            # With TLS it waits for another greeting.
            answer = b"" if _uses_tls(environ) else _greet(connection)
    except (OSError, UnicodeError) as error:  # no such host, refused, no way there, silence, no name of a host
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ConfigError(f"{where}: no Ray cluster answers there ({reason}). {advice}") from error
    if not _uses_tls(environ) and (len(answer) <= 3 or answer[3] != HTTP2_SETTINGS):
        raise ConfigError(f"{where}: what answers there is not the head of a Ray cluster. {advice}")


def check_start(environ: Mapping[str, str]) -> None:
    """Checks that Ray can be started on this machine: its folder and its token.

    Raises:
        ConfigError: RAY_AUTH_TOKEN_PATH names no token.
        ResourceError: A folder cannot be written or is full, a path is too long, or there is no home.
    """
    variable, folder = ray_folder(environ)
    if not folder.is_absolute():  # Ray would wait a minute for what its processes look for elsewhere
        raise ResourceError(f"{variable} is no full path. Set it to one, such as /tmp, or unset it")
    num_bytes = len(os.fsencode(folder / SOCKET))
    if num_bytes > MAX_SOCKET_BYTES:
        raise ResourceError(
            f"{variable}: its path is too long for the sockets of Ray, which would have {num_bytes} bytes where the "
            f"system allows {MAX_SOCKET_BYTES}. Set RAY_TMPDIR to a folder with a short path, such as /tmp"
        )
    _check_writable(folder / "ray", f"{variable}: Ray cannot keep its files there", "Set RAY_TMPDIR to another folder")
    given = "" if environ.get("RAY_AUTH_TOKEN") else environ.get("RAY_AUTH_TOKEN_PATH", "")
    if uses_token(environ) and given and not _has_content(Path(given)):
        raise ConfigError(
            f"RAY_AUTH_TOKEN_PATH={given} names no file with a token that can be read. Correct it, or unset it: Ray "
            "then makes a token of its own in the home"
        )
    path = token_path(environ)
    if path is not None and _is_there(path) and not _has_content(path):
        raise ResourceError(f"{path}: Ray's token is there, but empty or not to be read. Remove it: Ray makes another")
    if path is not None and not _is_there(path):
        _check_writable(
            path.parent,
            f"HOME={environ.get('HOME', '')}: Ray cannot keep its token in {path}",
            "Set HOME to a folder that can be written, or RAY_AUTH_TOKEN to a secret of your own",
        )


def ray_folder(environ: Mapping[str, str]) -> tuple[str, Path]:
    """The folder below which Ray keeps sockets, logs and spilled objects, after the variable that names it."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in environ:
            return f"{name}={environ[name]}", Path(environ[name])  # an empty one too: Ray takes it for a folder
    return "the temporary folder /tmp", Path("/tmp")


def token_path(environ: Mapping[str, str]) -> Path | None:
    """The file in which Ray keeps a token of its own; None where it needs none, or it is given.

    Raises:
        ResourceError: There is no home to keep it in.
    """
    if not uses_token(environ):
        return None
    if environ.get("RAY_AUTH_TOKEN") or environ.get("RAY_AUTH_TOKEN_PATH"):
        return None
    try:
        return Path.home() / ".ray" / "auth_token"
    except RuntimeError as error:  # neither HOME nor an entry for this user
        raise ResourceError(
            "HOME is not set and this user has no home, so Ray cannot keep its token. Set HOME to a folder that can be "
            "written"
        ) from error


def uses_token(environ: Mapping[str, str]) -> bool:
    """Whether a Ray that is started here asks for a token."""
    return environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def watch(address: str) -> None:
    """Warns, from a thread of its own, when the head of the cluster no longer answers.

    Ray ends its drivers a minute later, from C++ and without another word of Python.

    Args:
        address: "host:port" of the head.
    """

    def follow() -> None:
        num_missed = 0
        while True:
            time.sleep(WATCH_EVERY_S)
            try:
                check_answers(address, os.environ)
                num_missed = 0
            except ConfigError:
                num_missed += 1
            if num_missed == MISSED:
                logger.warning(
                    "warning: the head of the Ray cluster at %s does not answer. Ray waits a minute for it and then "
                    "ends this program; what is complete stays, and the same command goes on from there, on another "
                    "cluster too",
                    address,
                )

    threading.Thread(target=follow, name="watch-head", daemon=True).start()


def _greet(connection: socket.socket) -> bytes:
    connection.sendall(HTTP2_PREFACE)
    return connection.recv(9)


def _uses_tls(environ: Mapping[str, str]) -> bool:
    return environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}


def _check_writable(folder: Path, what: str, advice: str) -> None:
    """Checks that a folder, or the first one above it that is there, takes a file."""
    there = next(path for path in [folder.absolute(), *folder.absolute().parents] if _is_there(path))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(LEAST_BYTES))
            file.flush()
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            reason = f"{there} is full"
            with contextlib.suppress(OSError):
                reason = f"{there} has {shutil.disk_usage(there).free >> 20} MiB free"
        elif there != folder.absolute():
            reason = f"{there}: {reason}"
        raise ResourceError(f"{what} ({reason}). {advice}") from error


def _has_content(path: Path) -> bool:
    try:
        return bool(path.read_bytes().strip())
    except OSError:
        return False


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:
        return False
    return True
