"""How far a long step is, said now and then by the driver, from what the step's workers leave in its folder.

Workers may be on other machines, and their output does not reach the driver; the run's folder does.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raygen.storage.writing import atomic

Say = Callable[[str], Any]
# The newest line of a fit, in its folder while it runs. Hidden, so that it is never taken for a part of the result.
FILE = ".progress.txt"
# What a fit's workers have to say that must not be lost among newer lines, in its folder until it is said.
NOTES_FILE = ".notes.txt"
EVERY_S = 30.0


def tell(folder: Path, line: str) -> None:
    """Leaves a line in a step's folder, in place of the one before."""
    with atomic(folder / FILE, sync=False) as temporary:
        temporary.write_text(line, encoding="utf-8")


def told(folder: Path) -> str | None:
    """The newest line in a step's folder; None before the first, and where it cannot be read just now."""
    try:
        return (folder / FILE).read_text(encoding="utf-8")
    except OSError:  # not there, or replaced by another machine in this moment
        return None


def note(folder: Path, line: str) -> None:
    """Adds a line that the driver says when the step ends, once however many workers have it."""
    with (folder / NOTES_FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def noted(folder: Path) -> list[str]:
    """The lines that workers have added; they are gone from the folder then."""
    path = folder / NOTES_FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    path.unlink()
    return list(dict.fromkeys(lines))


@contextlib.contextmanager
def said(read: Callable[[], str | None], say: Say, *, every_s: float = EVERY_S) -> Iterator[None]:
    """Says what `read` gives, where it is new, every `every_s` seconds as long as the block runs.

    Args:
        read: How far the step is; None for nothing to say yet. Called in a thread.
        say: Called with the line in that thread, never after the block's end.
        every_s: A step that is done sooner says nothing.
    """
    ended = threading.Event()
    before = read()  # an interrupted step's last line is old news

    def follow() -> None:
        last = before
        while not ended.wait(every_s):
            line = read()
            if line is not None and line != last:
                try:
                    say(line)
                except BrokenPipeError:  # nobody reads it any more; the program's own next line ends it
                    return
                last = line

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def newest(say: Say, *, every_s: float = EVERY_S) -> Iterator[Say]:
    """A `Say` for many lines, of which the newest is said every `every_s` seconds as long as the block runs."""
    lines: deque[str] = deque(maxlen=1)
    with said(lambda: lines[-1] if lines else None, say, every_s=every_s):
        yield lines.append


def quiet(line: str) -> None:
    """A `Say` that says nothing."""


def labelled(name: str, say: Say) -> Say:
    """A `Say` that puts the step's name before each line."""
    return lambda line: say(f"{name}: {line}")
