"""Files are wholly there or not at all, and a disk that cannot take them says what to do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raygen.errors import RunFolderError
from raygen.storage.run_folder import RunFolder
from raygen.storage.writing import atomic, disk_errors, write_bytes


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"old")

    def fail() -> None:
        with atomic(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half of the ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": b"old"}


def test_a_reader_never_sees_a_file_that_is_being_written(tmp_path: Path) -> None:
    with atomic(tmp_path / "part-000001.parquet") as temporary:
        temporary.write_bytes(b"half")
        assert list(tmp_path.glob("part-*.parquet")) == []
    assert (tmp_path / "part-000001.parquet").read_bytes() == b"half"


def test_a_full_disk_names_the_file_and_the_way_out(tmp_path: Path) -> None:
    # A limit on the size of files, in a process of its own, stands for a disk without space: no root is needed.
    code = (
        "import resource, signal, sys, pathlib\n"
        "from raygen.storage.writing import write_bytes\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "write_bytes(pathlib.Path(sys.argv[1]) / 'small.bin', bytes(999))\n"
        "write_bytes(pathlib.Path(sys.argv[1]) / 'large.bin', bytes(2000))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert f"ResourceError: no space left for {tmp_path / 'large.bin'}" in done.stderr
    assert "run the same command again" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small.bin"], "what is complete stays, what is half goes"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "fixed"
    folder.mkdir()
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    command = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]  # root may write anywhere else
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("root on a kernel that does not let it mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_run_folder_on_a_read_only_disk_is_refused(read_only: Path) -> None:
    with (
        pytest.raises(RunFolderError, match=r"cannot be written .*read-only"),
        RunFolder(read_only / "run").claimed({}, identity={}, fresh=False),
    ):
        raise AssertionError("it was claimed")


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), disk_errors(tmp_path / "x"):
        (tmp_path / "no" / "such").read_bytes()
