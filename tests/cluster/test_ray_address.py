"""What is wrong with Ray's environment is said in seconds, by name, and alike by a run and by `raygen doctor`."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raygen import doctor
from raygen.cluster import ray_address
from raygen.errors import ConfigError, UserError

# An HTTP/2 server's first frame: no settings (RFC 9113, section 3.4).
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("", None),
        ("local", None),
        ("auto", "auto"),
        ("10.0.0.1:6379", "10.0.0.1:6379"),
        ("head.example:6379", "head.example:6379"),
        ("[::1]:6379", "[::1]:6379"),
    ],
)
def test_an_address_is_taken_as_it_is(value: str, address: str | None) -> None:
    assert ray_address.named_address({"RAY_ADDRESS": value}) == address
    assert ray_address.named_address({}) is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("ray://10.0.0.1:10001", "RAY_ADDRESS=ray://10.0.0.1:10001: .* Ray Client.*ray job submit"),
        ("http://127.0.0.1:8265", "RAY_ADDRESS=http://127.0.0.1:8265 is a dashboard's address"),
        ("https://ray.example", "a dashboard's address"),
        ("10.0.0.1", "'10.0.0.1' is not a host and a port"),
        (":6379", "not a host and a port"),
        ("10.0.0.1:x", "not a host and a port"),
        ("10.0.0.1:0", "not a host and a port"),
        ("10.0.0.1:65536", "not a host and a port"),
        ("::1:6379", "not a host and a port"),
        (" 10.0.0.1:6379", "' 10.0.0.1:6379' is not a host and a port"),
    ],
)
def test_an_address_that_cannot_be_is_refused_by_name(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ray_address.named_address({"RAY_ADDRESS": value})
    row = doctor.check_ray({**os.environ, "RAY_ADDRESS": value})
    assert row.ok is False
    assert value in row.advice


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def _answer(server: socket.socket, answer: bytes) -> None:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(100)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()


def test_a_head_that_answers_is_well(listening: socket.socket) -> None:
    _answer(listening, SETTINGS)
    ray_address.check_answers(f"127.0.0.1:{listening.getsockname()[1]}", {})


def test_what_does_not_answer_is_named_in_seconds(listening: socket.socket) -> None:
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    _answer(listening, b"HTTP/1.0 400 Bad Request\r\n\r\n")
    with pytest.raises(ConfigError, match=rf"RAY_ADDRESS={address}: what answers there is not the head"):
        ray_address.check_answers(address, {"RAY_ADDRESS": address})
    with pytest.raises(ConfigError, match=rf"RAY_ADDRESS=auto \({address}\): no Ray cluster answers there \(timed out"):
        ray_address.check_answers(address, {"RAY_ADDRESS": "auto"}, timeout_s=0.2)  # it takes connections, no more
    listening.close()
    with pytest.raises(ConfigError, match=r"no Ray cluster answers there \(.*refused"):
        ray_address.check_answers(address, {"RAY_ADDRESS": address})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TMPDIR": "/tmp/" + 80 * "x"}, "TMPDIR=/tmp/x*: its path is too long .* 153 bytes .* 107"),
        # Bytes, not letters: as many letters of two bytes.
        ({"RAY_TMPDIR": "/tmp/" + 40 * "é"}, "RAY_TMPDIR=/tmp/é*: its path is too long .* 153 bytes"),
        ({"RAY_TMPDIR": "/etc/passwd"}, "RAY_TMPDIR=/etc/passwd: Ray cannot keep its files there .*Not a directory"),
        ({"TMPDIR": "/proc"}, "TMPDIR=/proc: Ray cannot keep its files there"),
        ({"RAY_TMPDIR": "scratch"}, "RAY_TMPDIR=scratch is no full path"),
        ({"TMPDIR": ""}, "TMPDIR= is no full path"),
        ({"HOME": "/proc/nohome"}, "HOME=/proc/nohome: Ray cannot keep its token in /proc/nohome/.ray/auth_token"),
        ({"RAY_AUTH_TOKEN_PATH": "/no/token"}, "RAY_AUTH_TOKEN_PATH=/no/token names no file"),
    ],
)
def test_what_ray_cannot_start_with_is_named(
    environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        ray_address.check_start(os.environ)
    assert doctor.check_ray(os.environ).ok is False
    assert doctor.report()  # whatever a variable names, no row ends it


@pytest.mark.parametrize("host", ["a..b", "x" * 300])
def test_what_is_no_name_of_a_host_is_an_error(host: str) -> None:
    with pytest.raises(ConfigError, match=f"RAY_ADDRESS={host}:6379: no Ray cluster answers there"):
        ray_address.check_answers(f"{host}:6379", {"RAY_ADDRESS": f"{host}:6379"})


@pytest.mark.parametrize("mode", ["", "disabled", "tokens"])
def test_a_mode_that_ray_does_not_know_asks_for_no_token(mode: str) -> None:
    row = doctor.check_ray_token({"RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN": "x"})
    assert row.ok is False
    assert f"RAY_AUTH_MODE={mode}: whoever reaches" in row.advice


def test_a_full_folder_is_named() -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own folders have longer paths than Ray takes
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount a small disk: needs root, and a kernel that lets it mount tmpfs")
    try:
        with pytest.raises(UserError, match=rf"RAY_TMPDIR={folder}: Ray cannot keep its files there \(.* 0 MiB free"):
            ray_address.check_start({"RAY_TMPDIR": str(folder)})
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def test_what_is_not_there_yet_will_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray makes a temporary folder that is absent, and needs no home where a token is given or not asked for."""
    for name in ("RAY_TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp/absent-folder-of-a-test")
    monkeypatch.setenv("HOME", "/proc/nohome")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-of-a-test")
    ray_address.check_start(os.environ)
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray_address.check_start(os.environ)
    assert not Path("/tmp/absent-folder-of-a-test").exists()


def test_a_run_and_the_doctor_say_the_same_of_a_cluster_that_is_gone(listening: socket.socket, tmp_path: Path) -> None:
    """One line, exit code 2, and within seconds: Ray alone would try for a quarter of an hour."""
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    listening.close()
    environ = {**os.environ, "RAY_ADDRESS": address}
    code = "from raygen.cli import main; main()"
    command = [sys.executable, "-c", code, "run", "erm", "--dataset", "scenes", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"raygen: RAY_ADDRESS={address} ")
    assert len(done.stderr.splitlines()) == 1
    row = doctor.check_ray(environ)
    assert row.ok is False
    assert done.stderr == f"raygen: {row.advice}\n"
    assert not (tmp_path / "run").exists()
