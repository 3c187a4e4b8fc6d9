"""Where a dataset's files are: a folder of files, wherever that folder is.

Paths inside a place are relative, with "/" between their parts, whatever the system writes.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from raygen.datasets.files import read_file, why_no_file


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
    def names(self, folder: str = "") -> Sequence[str]:
        """What is directly in it, or in a folder in it: names of files and folders, sorted.

        Raises:
            OSError: There is no such folder, or it cannot be listed.
        """

    @abstractmethod
    def why_no_file(self, path: str) -> str | None:
        """What is there in place of a file, such as "does not exist"; None where one is there."""

    @abstractmethod
    def reference(self, path: str) -> str:
        """The file's address in full, as rows keep it and workers read it."""

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

    def names(self, folder: str = "") -> Sequence[str]:
        """See `Place.names`."""
        return sorted(os.listdir(self.root / folder))

    def why_no_file(self, path: str) -> str | None:
        """See `Place.why_no_file`; links are followed."""
        return why_no_file(self.root / path)

    def reference(self, path: str) -> str:
        """The absolute path."""
        return str(self.root.absolute() / path)

    def read(self, path: str) -> bytes:
        """See `Place.read`; never waits for the other end of a pipe."""
        return read_file(self.root / path)
