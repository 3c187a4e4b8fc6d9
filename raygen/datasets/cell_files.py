"""Which file a table's cell means, wherever and on whatever system the table was written."""

import re
import unicodedata
from pathlib import PurePosixPath

from raygen.datasets.codes import short
from raygen.datasets.files import printable
from raygen.datasets.places import Place
from raygen.errors import DataError
from raygen.storage.remote import check_no_secret, is_url

# C:\, \\server, / and what stands before a path in a URL's form.
_ABSOLUTE = re.compile(r"(?:[A-Za-z]:)?[/\\]|file:/")


class CellFiles:
    """Finds the files of a table's cells.

    Args:
        place: What relative paths are below.
        moved: Whether absolute paths that lead nowhere are looked for below it, without what stands in front.
    """

    def __init__(self, place: Place, *, moved: bool) -> None:
        self._place, self._moved = place, moved
        self._prefixes: list[tuple[str, ...]] = []  # what was left out in front of a path, and found the file

    def find(self, cell: str, where: str) -> tuple[str, str]:
        r"""The name below the place, which gives the id, and the file; also img\1.png, and an umlaut written in two.

        Raises:
            DataError: There is none, or it is a URL that holds credentials; the message has `where` in front.
        """
        if is_url(cell) and not cell.startswith("file:"):
            check_no_secret(cell)
            return cell, cell
        slashed = cell.replace("\\", "/")
        for name in dict.fromkeys((cell, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")))):
            if self._place.why_no_file(name) is None:
                return name, self._place.shown(name)
        absolute = _ABSOLUTE.match(cell) is not None
        below = self._below(slashed) if absolute and self._moved else None
        if below is not None:
            return below, self._place.shown(below)
        shown = short(printable(cell if absolute else self._place.shown(cell)), 300)
        raise DataError(f"{where}: {shown} {self._place.why_no_file(cell)}{self._hint(absolute)}")

    def _hint(self, absolute: bool) -> str:
        if not absolute:
            return ""
        if self._moved:
            return f"; nor is any end of that path in dataset.root, {printable(self._place.address)}"
        return "; where the pictures have moved, dataset.name=table and dataset.root=FOLDER say where they are now"

    def _below(self, path: str) -> str | None:
        """The path without what stands in front in the place that it comes from."""
        parts = tuple(part for part in PurePosixPath(path).parts if part not in ("/", "..", "."))
        known = [len(prefix) for prefix in self._prefixes if parts[: len(prefix)] == prefix]
        for length in dict.fromkeys((*known, *range(len(parts)))):
            name = "/".join(parts[length:])
            if name and self._place.why_no_file(name) is None:
                if parts[:length] not in self._prefixes:
                    self._prefixes.append(parts[:length])
                return name
        return None
