"""How a program of raygen begins and ends: its streams, its signals, its last line and its exit code.

No letter, closed pipe or closed descriptor ends it, and no signal leaves a traceback.
"""

import codecs
import contextlib
import errno
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NoReturn

import typer

from raygen.errors import ConfigError, RaygenError, UserError
from raygen.program import interrupts

# What raygen's own tables and lines write beyond ASCII.
_PLAIN = {"…": "...", "–": "-", "−": "-", "±": "+-", "×": "x", "’": "'", "ρ": "rho"}
_ERRORS = "raygen.plain"
# What the system says of a path that a user gave or whose permissions are theirs. Most have messages of their own; this
# is for those of files that nobody thought of.
_USERS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_WHAT_HAPPENED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


def run(app: typer.Typer, name: str, *, resumable: Collection[str]) -> NoReturn:
    """Runs a command line and exits; errors of raygen become one message and an exit code.

    Args:
        app: The command line.
        name: Before each message.
        resumable: Verbs of which the same command goes on where one that was interrupted stopped.
    """
    prepare_streams()
    verb = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    goes_on = not resumable or verb in resumable

    def last_words(number: int) -> str:
        again = "the same command without --fresh" if "--fresh" in sys.argv else "the same command"
        rest = f"; {again} goes on where this one stopped" if goes_on else ""
        return f"{name}: {_WHAT_HAPPENED[signal.Signals(number)]}{rest}"

    interrupts.listen(last_words)
    try:
        try:
            if goes_on:
                _check_words()
            app()
        except RaygenError as error:
            typer.echo(f"{name}: {error}", err=True)
            sys.exit(error.exit_code)
    except SystemExit as ended:
        # 130 is how typer answers every KeyboardInterrupt; the others are of a verb that listens by itself.
        if isinstance(ended.code, int) and ended.code - 128 in interrupts.SIGNALS:
            interrupts.end(ended.code - 128)
        raise
    except BrokenPipeError:  # nobody reads the message
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sys.exit(1)
    except OSError as error:
        if (
            error.filename is not None
            and error.errno in _USERS
            and not logging.getLogger("raygen").isEnabledFor(logging.INFO)
        ):
            typer.echo(f"{name}: {os.fsdecode(error.filename)}: {error.strerror} (-v says where)", err=True)
            sys.exit(UserError.exit_code)
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in its buffer
        typer.echo(f"{name}: standard output cannot be written: {error.strerror}", err=True)
        sys.exit(1)
    sys.exit(0)


def _check_words() -> None:
    """Checks that what was asked for, and the folder it is asked in, can be written into a run's log and config.

    Raises:
        ConfigError: A name is not UTF-8.
    """
    words = sys.argv[1:]
    with contextlib.suppress(OSError):  # where the current folder is gone
        words.append(os.getcwd())
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(word).decode("utf-8", "backslashreplace")
            raise ConfigError(
                f"'{shown}' is not UTF-8, as config and report of a run are. Rename it; if it is named in UTF-8, this "
                f"shell's locale ({sys.getfilesystemencoding()}) is at fault: set PYTHONUTF8=1"
            ) from error


def given_path(text: str) -> Path:
    """A path of the command line: `~` is the home also behind an equals sign, and no text is no folder.

    Raises:
        BadParameter: An empty text, which would be the current folder, or a home that nobody knows.
    """
    if not text:
        raise typer.BadParameter("is empty; give a path")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:  # no such user, or no home of this one
        raise typer.BadParameter(f"{text}: {error}") from error


def path_option(flag: str, help: str) -> Any:
    """An option of the command line that is a path."""
    return typer.Option(flag, parser=given_path, metavar="PATH", help=help)


def announcing(say: Callable[[str], Any]) -> Callable[[str], Any]:
    """A `say` that tells before its first line how to go on: a driver that is killed has no last line."""
    command = shlex.join(["raygen", *(word for word in sys.argv[1:] if word != "--fresh")])
    first = [f"if this ends early, the same command goes on where it stopped: {command}"]

    def say_it(line: str) -> None:
        if first:
            say(first.pop())
        say(line)

    return say_it


def prepare_streams() -> None:
    """Makes this process's standard streams take any text.

    What their encoding has not is written in plain letters or as its escape, half a name that is not UTF-8 too. A
    stream that the caller closed is opened to nowhere: the next file to be opened would take its place.
    """
    for descriptor, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.dup2(os.open(os.devnull, mode), descriptor)
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False)
    codecs.register_error(_ERRORS, _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    letters = error.object[error.start : error.end]
    plain = [_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in letters]
    return "".join(plain), error.end
