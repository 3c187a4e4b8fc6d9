"""Processes that read and decode pictures beside a fit, by torch's DataLoader.

DataLoader, not Ray Data's ingest: an epoch is a list of batches of single pictures in an order that the seed decides,
and Ray Data gives blocks in an order of its own.

They are forked from a server (`forkserver`) that has only imported this module. A plain fork would copy a process of
many threads, Ray's and torch's, with whatever locks those hold; `spawn` would import torch anew for each. The server
imports it once, and a process of it starts in some tens of milliseconds.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from raygen.errors import RaygenError, StageError

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that wait for each process, or are being made by it.
PREFETCH = 2


class LoaderProcesses(Generic[Item, Result]):
    """Calls a function in processes of their own; the same ones from call to call of `map`.

    Args:
        call: What is called: an object or function of a module, which is sent to each process once. Never gives None.
        num: How many processes, at least 1; they start with the first `map`.
    """

    def __init__(self, call: Callable[[Item], Result], *, num: int) -> None:
        self._items = _Items()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "raygen.datasets.row_pictures"])
        with _own_words():
            self._loader: DataLoader[Any] = DataLoader(
                _Calls(call),
                batch_size=None,
                sampler=self._items,
                num_workers=num,
                collate_fn=_as_it_is,
                multiprocessing_context=context,
                worker_init_fn=_begin,
                prefetch_factor=PREFETCH,
                persistent_workers=True,
                generator=torch.Generator(),  # its draws are of no use, and torch's own generator is the fit's
            )

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """What the function gives for each item, in their order; items are taken ahead of the results.

        One at a time: a `map` that begins ends those before it.

        Raises:
            StageError: A process died, or the system starts no more of them.
            RaygenError: As the function raised it.
        """
        self._items.now = items
        with _own_words(), _without_main():
            try:
                results = iter(self._loader)
            except OSError as error:
                raise StageError(
                    f"{self._loader.num_workers} processes that decode pictures for the fit cannot be started "
                    f"({error.strerror or error}); set fit.loader_processes lower"
                ) from error
        while True:
            with _own_words():
                result: Result | RaygenError | None = next(results, None)
            if result is None:  # no function gives that
                return
            if isinstance(result, RaygenError):
                raise result
            yield result


class _Items:
    """What the loader's processes are given: other items for each `map`."""

    now: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.now)


class _Calls(Dataset[Any]):
    """A function as DataLoader has it, which gives its own errors back: DataLoader would change them."""

    def __init__(self, call: Callable[[Any], Any]) -> None:
        self._call = call

    def __getitem__(self, item: Any) -> Any:
        try:
            return _shared(self._call(item))
        except RaygenError as error:
            return error


def _shared(result: Any) -> Any:
    """A result, a tensor in shared memory: torch would move it there in a thread whose errors nobody hears of.

    Raises:
        StageError: There is no room.
    """
    if isinstance(result, torch.Tensor):
        try:
            result.share_memory_()
        except RuntimeError as error:
            reason = str(error).rpartition(">: ")[2]
            raise StageError(
                f"a process that decodes pictures for the fit has no room in shared memory ({reason}); give /dev/shm "
                "more (in a container --shm-size or --ipc=host), set fit.loader_processes lower, 0 for none, or give "
                "the pictures room on disk (fit.store_gb); the fit goes on from its last epoch"
            ) from error
    return result


@contextlib.contextmanager
def _own_words() -> Iterator[None]:
    """Says what DataLoader says of its processes as raygen does, and leaves out that they are more than the cores."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")
            yield
    except RuntimeError as error:
        if (dead := re.search(r"DataLoader worker \(pid\S* [\d, ]+\).*", str(error))) is None:
            raise
        raise StageError(
            f"a process that decodes pictures for the fit died ({dead[0].rstrip('. ')}). Often the system has ended it "
            "for want of memory: set fit.loader_processes lower, or free some, and run the same command again; the fit "
            "goes on from its last epoch"
        ) from error


def _as_it_is(result: Any) -> Any:
    return result


def _begin(number: int) -> None:
    """What a loader process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; who started this one ends it
    parent = multiprocessing.parent_process()
    assert parent is not None
    # DataLoader looks whether its process's parent is alive, which here is the server, and that lives for as long as
    # any process of it: without this, those of a fit that was killed would wait for ever.
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keeps the processes that start inside from running the program's main file again.

    They need nothing of it. It may have no `if __name__ == "__main__"`, and a Ray worker's imports all of Ray.
    """
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    main.__spec__ = None
    if file is not None:
        del main.__file__
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file
