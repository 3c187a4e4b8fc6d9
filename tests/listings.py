"""How often a folder is looked through, counted where Python asks the system (its audit events)."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_watched: dict[Path, Counter[str]] = {}


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if not _watched or event not in {"os.listdir", "os.scandir", "open"} or not isinstance(args[0], str | os.PathLike):
        return
    path = Path(args[0])
    for root, seen in _watched.items():
        if path.is_relative_to(root) and (event != "open" or path.name == "metadata.csv"):
            seen[path.relative_to(root).as_posix()] += 1


sys.addaudithook(_hear)


@contextmanager
def watched(folder: Path) -> Iterator[Counter[str]]:
    """Counts, while it is open, how often each folder below one is listed, and its metadata.csv read."""
    _watched[folder] = Counter()
    try:
        yield _watched[folder]
    finally:
        del _watched[folder]
