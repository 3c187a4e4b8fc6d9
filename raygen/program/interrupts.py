"""Signals that ask a program to end: one exception for all of them, one way out.

Ctrl-C, Slurm's time limit, `docker stop`, Kubernetes, `ray job stop` and a closed terminal end a program alike: what is
done stays done, one line says how to go on, the exit code is 128 + the signal's number, and no process is left behind.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import NoReturn

import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How long the interrupted work may take to unwind; then the program ends all the same. `docker stop` kills after ten
# seconds, Slurm and Kubernetes after thirty.
UNWIND_S = 6.0


class Interrupt(KeyboardInterrupt):
    """A signal asked this program to end; what cares for Ctrl-C cares for every such signal.

    Args:
        number: The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class _Program:
    """What this process is asked for, and how it ends.

    Attributes:
        last_words: The line to say at the end, by the signal's number; None in a program that does not listen.
        number: The first signal.
        ending: Held by whoever ends it.
    """

    last_words: Callable[[int], str] | None = None
    number: int | None = None
    ending: threading.Lock = field(default_factory=threading.Lock)


_program = _Program()


def listen(last_words: Callable[[int], str]) -> None:
    """From now on, each of `SIGNALS` becomes an `Interrupt` in the main thread; a second one changes nothing.

    A signal that is ignored, as by `nohup`, stays ignored.

    Args:
        last_words: The line to say at the end, by the signal's number.
    """
    _program.last_words = last_words
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def interrupted(number: int) -> Interrupt:
    """The exception to raise for a signal that a library took and answered in its own way."""
    if _program.number is None and _program.last_words is not None:
        _program.number = number
        # What is interrupted may be deaf: a library that swallows the exception, a call into C that lasts.
        watch = threading.Timer(UNWIND_S, end)
        watch.daemon = True
        watch.start()
    return Interrupt(number)


def end(number: int = signal.SIGINT) -> NoReturn:
    """Says the last line and ends the program with all that it started, at once.

    Not by `sys.exit`: at its exit a driver waits for processes of Ray that the same signal may have ended already, and
    aborts with a stack trace of C++. Some of them outlive a driver that is merely gone, by a minute.

    Args:
        number: The signal's, unless an earlier one is being answered.
    """
    number = number if _program.number is None else _program.number
    _program.ending.acquire()  # for good: whoever comes second waits here for the end
    try:
        sys.stdout.flush()
        if _program.last_words is not None:
            print(_program.last_words(number), file=sys.stderr, flush=True)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it is gone already
                process.kill()
    finally:
        os._exit(128 + number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _program.number is None:
        raise interrupted(number)
