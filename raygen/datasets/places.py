"""Where a dataset's files are: a folder of files, wherever that folder is.

Paths inside a place are relative, with "/" between their parts, whatever the system writes.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raygen.datasets.files import read_file, state, why_no_file, why_no_folder


@dataclass(frozen=True, slots=True)
class Child:
    """What is directly in a folder.

    Attributes:
        name: Its name there.
        is_folder: Whether it is a folder, links followed.
        is_file: Whether it is a regular file itself; a link is not, whatever it leads to.
    """

    name: str
    is_folder: bool
    is_file: bool


class Place(ABC):
    """A folder of files."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its last part, by which it is called."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it is, in full."""

    @abstractmethod
    def children(self, folder: str = "") -> Sequence[Child]:
        """What is directly in it, or in a folder in it, sorted by name.

        Raises:
            OSError: There is no such folder, or it cannot be listed.
        """

    def names(self, folder: str = "") -> Sequence[str]:
        """Names of what `children` gives; raises as it does."""
        return [child.name for child in self.children(folder)]

    @abstractmethod
    def why_no_file(self, path: str) -> str | None:
        """What is there in place of a file, such as "does not exist"; None where one is there."""

    def has(self, path: str) -> bool:
        """Whether there is anything of that name, be it a file or not."""
        return self.why_no_file(path) != "does not exist"

    @abstractmethod
    def why_no_folder(self, path: str) -> str | None:
        """What is there in place of a folder; None where one is there."""

    @abstractmethod
    def reference(self, path: str) -> str:
        """The file's address in full, as rows keep it and workers read it."""

    @abstractmethod
    def shown(self, path: str) -> str:
        """The file's address as people gave it, for messages."""

    @abstractmethod
    def folder_key(self, folder: str) -> Hashable:
        """The same for a folder wherever links lead to it.

        Raises:
            OSError: It is gone.
        """

    @abstractmethod
    def state(self, reference: str) -> tuple[Any, ...] | None:
        """What changes with the content of a file of this place, by its `reference`; None if it is gone."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Bytes of a file.

        Raises:
            OSError: They cannot be read.
        """


class LocalPlace(Place):
    """A folder that this machine has mounted.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        """The folder's own name, links followed."""
        return self.root.resolve().name

    @property
    def address(self) -> str:
        """The path as it was given."""
        return str(self.root)

    def children(self, folder: str = "") -> Sequence[Child]:
        """See `Place.children`."""
        with os.scandir(self.root / folder) as entries:
            found = [Child(entry.name, _is_folder(entry), entry.is_file(follow_symlinks=False)) for entry in entries]
        return sorted(found, key=lambda child: child.name)

    def names(self, folder: str = "") -> Sequence[str]:
        """See `Place.names`."""
        return sorted(os.listdir(self.root / folder))

    def why_no_file(self, path: str) -> str | None:
        """See `Place.why_no_file`; links are followed."""
        return why_no_file(self.root / path)

    def why_no_folder(self, path: str) -> str | None:
        """See `Place.why_no_folder`; links are followed."""
        return why_no_folder(self.root / path)

    def reference(self, path: str) -> str:
        """The absolute path."""
        return str(self.root.absolute() / path)

    def shown(self, path: str) -> str:
        """See `Place.shown`."""
        return str(self.root / path)

    def folder_key(self, folder: str) -> Hashable:
        """Device and inode."""
        found = os.stat(self.root / folder)
        return found.st_dev, found.st_ino

    def state(self, reference: str) -> tuple[Any, ...] | None:
        """Size and time of change in ns."""
        return state(Path(reference))

    def read(self, path: str) -> bytes:
        """See `Place.read`; never waits for the other end of a pipe."""
        return read_file(self.root / path)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where nobody may look
        return False
