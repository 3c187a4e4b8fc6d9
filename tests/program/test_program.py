"""How a program ends: whatever its streams, and whatever signal asks it to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import typer

from raygen import program

# A command line of its own: what ends a program does not depend on what it does.
PROGRAM = """
import contextlib, subprocess, sys, time
import typer
from raygen import program

app = typer.Typer()

@app.command()
def write(text: str) -> None:
    print(text, flush=True)
    print(text, file=sys.stderr)

@app.command()
def run(deaf: bool = False, fresh: bool = False) -> None:
    child = subprocess.Popen(["sleep", "300"])
    while True:
        with contextlib.suppress(KeyboardInterrupt) if deaf else contextlib.nullcontext():
            typer.echo(f"child {child.pid}")
            time.sleep(300)

@app.command()
def read(path: str) -> None:
    open(path + "/below")

program.run(app, "raygen", resumable=("run",))
"""
COMMAND = [sys.executable, "-c", PROGRAM]


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("ascii", b"1 +- 2 ... 3 \\u6f22 \\udce9\n"),
        ("latin-1", b"1 \xb1 2 ... 3 \\u6f22 \\udce9\n"),
        ("utf-8", "1 ± 2 … 3 漢 \\udce9\n".encode()),
        ("utf-16-le", "1 ± 2 … 3 漢 \\udce9\n".encode("utf-16-le")),
    ],
)
def test_no_letter_ends_a_program(encoding: str, written: bytes) -> None:
    """Half a name that is not UTF-8 included: Linux hands it over as a lone surrogate."""
    environ = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1"}
    text = os.fsencode("1 ± 2 … 3 漢 \udce9")
    done = subprocess.run([*COMMAND, "write", text], env=environ, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, written, written)


def test_a_name_that_cannot_be_written_down_is_refused() -> None:
    done = subprocess.run([*COMMAND, "run", b"runs/r\xe9s"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert done.stderr.startswith(r"raygen: 'runs/r\xe9s' is not UTF-8")


def test_a_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run([*COMMAND, "read", str(tmp_path / "file")], capture_output=True, text=True, check=False)
    line = f"raygen: {tmp_path / 'file' / 'below'}: Not a directory (-v says where)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    missing = subprocess.run([*COMMAND, "read", str(tmp_path)], capture_output=True, text=True, check=False)
    assert "Traceback" in missing.stderr  # a file of ours that is not there is a fault of ours


def test_paths_of_the_command_line() -> None:
    assert program.given_path("~/runs/a") == Path.home() / "runs" / "a"
    assert program.given_path(".") == Path()
    for text in ("", "~nobody-by-this-name/x"):
        with pytest.raises(typer.BadParameter):
            program.given_path(text)


def test_a_reader_that_leaves_ends_a_program_quietly() -> None:
    with subprocess.Popen([*COMMAND, "write", "x"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_a_full_disk_under_the_output_is_said() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([*COMMAND, "write", "x"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "raygen: standard output cannot be written: No space left on device\n"


def test_a_closed_stream_is_not_taken_by_the_next_file(tmp_path: Path) -> None:
    code = (
        "from raygen import program; import os; program.prepare_streams()\n"
        f"with open({str(tmp_path / 'file')!r}, 'w') as file:\n"
        "    print('lost'); os.write(2, b'lost'); file.write(str(file.fileno()))\n"
    )
    done = subprocess.run(["sh", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', code], check=False)
    assert done.returncode == 0
    assert int((tmp_path / "file").read_text()) > 2


@contextmanager
def started(*arguments: str, ignored: int | None = None) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """The program at work, and a process that it started."""

    # As in a terminal, whatever the tests do with the signals.
    given = [(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL) for number in (1, 2, 15)]
    code = "import signal\n" + "".join(f"signal.signal({number}, {int(how)})\n" for number, how in given) + PROGRAM
    command = [sys.executable, "-c", code, "run", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline().removeprefix("child ")))
        try:
            yield process, child
        finally:
            process.kill()
            if child.is_running():
                child.kill()


@pytest.mark.parametrize(
    ("number", "code", "what"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "hung up")],
)
def test_a_signal_ends_a_program_with_one_line_and_its_code(number: signal.Signals, code: int, what: str) -> None:
    with started() as (process, child):
        for _ in range(3):  # more of them change nothing
            process.send_signal(number)
        assert (
            process.communicate(timeout=30)[1] == f"raygen: {what}; the same command goes on where this one stopped\n"
        )
        assert process.returncode == code
        deadline = time.monotonic() + 10
        while (
            child.is_running() and child.status() != psutil.STATUS_ZOMBIE
        ):  # it was killed, and dies when it is its turn
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_program_that_does_not_hear_ends_all_the_same() -> None:
    with started("--deaf", "--fresh") as (process, _):
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        error = process.communicate(timeout=30)[1]
        assert error == "raygen: terminated; the same command without --fresh goes on where this one stopped\n"
        assert process.returncode == 143
        assert time.monotonic() - begun < 10  # `docker stop` waits so long


def test_a_signal_that_the_caller_ignores_stays_ignored() -> None:
    with started(ignored=signal.SIGHUP) as (process, child):
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        assert child.is_running()
