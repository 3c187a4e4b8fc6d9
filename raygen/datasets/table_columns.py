"""Columns of a table of pictures: which one holds what, by the names that tables give them or by given ones.

What the cells say is not looked at here.
"""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raygen.datasets.files import printable
from raygen.errors import DataError

# Accepted names of each column, the first that is there is taken. group_DRO's `y` comes before `label`, which some
# tables use for a readable name.
COLUMN_NAMES = {
    "file": ("img_filename", "path", "filename", "file_name"),
    "label": ("y", "label"),
    "attribute": ("place", "attribute", "a"),
    "split": ("split",),
    "object": ("mask_filename", "object_filename", "mask"),
}
NEEDED = ("file", "label", "split")
# What a config calls them: dataset.columns.path=...
FIELDS = {"file": "path", "label": "label", "attribute": "attribute", "split": "split", "object": "mask"}
# difflib's own ratio from which two names are alike.
_ALIKE = 0.6


@dataclass(frozen=True, slots=True)
class Table:
    """A table of pictures.

    Attributes:
        path: Its file, for messages.
        unit: What a row is called in messages: "line" of a text, "row" of a Parquet file.
        header: Names of its columns.
        column: Which of them holds the file, label, attribute, split, object; None where none does.
        numbers: Where each row is in the file: lines from 1, rows from 0.
        cells: Cells of the columns that are read, by column, in the order of the rows; "" where there is none.
        problems: Lines that have more cells than the header.
        warnings: Columns that are nearly those that are read.
    """

    path: str
    unit: str
    header: tuple[str, ...]
    column: Mapping[str, str | None]
    numbers: Sequence[int]
    cells: Mapping[str, Sequence[str]]
    problems: Sequence[str]
    warnings: Sequence[str]

    def of(self, kind: str) -> Sequence[str]:
        """Cells of the column of a kind; all empty where there is none."""
        name = self.column[kind]
        return [""] * len(self.numbers) if name is None else self.cells[name]

    def where(self, row: int) -> str:
        """The place of a row, for messages."""
        return f"{self.path}, {self.unit} {self.numbers[row]}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which columns are looked for.

    Attributes:
        names: Name of the column of a kind, where it is given; others are found by `COLUMN_NAMES`.
        needed: Kinds without which a table cannot be read.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    needed: Sequence[str] = NEEDED

    def columns(self, header: Sequence[str], path: str) -> dict[str, str | None]:
        """The column of each kind, by its name in the header.

        Header names are taken as they are; where the needed ones are not there, capitals and spaces are overlooked.

        Raises:
            DataError: A needed or a given column is absent, or a column that is read is there twice.
        """
        found = self._find(header)
        self._check(header, found, path)
        return found

    def are_in(self, header: Sequence[str]) -> bool:
        """Whether a header has the needed columns, and those that are given."""
        found = self._find(header)
        return all(found[kind] is not None for kind in {*self.needed, *self.names})

    def _called(self, header: Sequence[str]) -> list[str]:
        exact = all({*self._accepted(kind)} & {*header} for kind in self.needed)
        return list(header) if exact else [plain(name) for name in header]

    def _accepted(self, kind: str) -> tuple[str, ...]:
        return (self.names[kind],) if kind in self.names else COLUMN_NAMES[kind]

    def _find(self, header: Sequence[str]) -> dict[str, str | None]:
        called, plainly = self._called(header), [plain(name) for name in header]
        given = {kind: _first(header, header, [name]) for kind, name in self.names.items()}
        given = {kind: given[kind] or _first(header, plainly, [plain(name)]) for kind, name in self.names.items()}
        # A column that is given to one kind is no other's, though it has its name: a label that is called `place`.
        taken = {name for name in given.values() if name is not None}
        free = ["" if name in taken else word for name, word in zip(header, called, strict=True)]
        found = {kind: _first(header, free, names) for kind, names in COLUMN_NAMES.items()}
        return {kind: given.get(kind, name) for kind, name in found.items()}

    def _check(self, header: Sequence[str], found: Mapping[str, str | None], path: str) -> None:
        absent = [kind for kind in COLUMN_NAMES if found[kind] is None and kind in {*self.needed, *self.names}]
        if absent:
            lines = "; ".join(self._absence(kind, header) for kind in absent)
            raise DataError(f"{path}: {lines}; found {[printable(name) for name in header]}{self._way_out(absent)}")
        called = self._called(header)
        taken = {called[header.index(name)] for name in found.values() if name is not None}
        for name, times in Counter(called).items():
            if times > 1 and name in taken:
                raise DataError(f"{path}: column '{name}' occurs {times} times; leave one")

    def _absence(self, kind: str, header: Sequence[str]) -> str:
        near = {plain(name): name for name in header}
        asked = [plain(name) for name in self._accepted(kind)]
        alike = [name for word, name in near.items() if {*asked} & {*word.split("_")}]  # "image path" for path
        alike += [near[match] for name in asked for match in difflib.get_close_matches(name, near, 1, _ALIKE)]
        hint = f", the nearest is '{printable(alike[0])}'" if alike else ""
        if kind in self.names:
            return f"dataset.columns.{FIELDS[kind]} is '{printable(self.names[kind])}', which is no column{hint}"
        return f"no column for the {kind} (any of {', '.join(COLUMN_NAMES[kind])}{hint})"

    def _way_out(self, absent: Sequence[str]) -> str:
        others = [FIELDS[kind] for kind in absent if kind != "split" or "split" in self.names]
        texts = [f"dataset.columns.{name}=NAME" for name in others]
        ways = [f"name the column with dataset.name=table and {', '.join(texts)}"] if others else []
        if "split" in absent:
            ways.append(
                "have a split drawn, the same for the same seed and stratified by label and attribute, with "
                "dataset.name=table and dataset.split=[0.8,0.1,0.1]"
            )
        text = "; ".join(ways)
        return f". {text[:1].upper()}{text[1:]}"


def _first(header: Sequence[str], called: Sequence[str], names: Sequence[str]) -> str | None:
    """The column that is called by the first of the names that any is called by."""
    return next((header[called.index(name)] for name in names if name in called), None)


def make_table(
    path: str,
    unit: str,
    header: Sequence[str],
    column: Mapping[str, str | None],
    numbers: Sequence[int],
    cells: Mapping[str, Sequence[str]],
    problems: Sequence[str] = (),
) -> Table:
    """A table, with warnings of columns that are nearly those that are read."""
    warnings = [
        f"{path}: column '{printable(name)}' is not read; its name is '{plain(name)}'"
        for name in header
        if name not in column.values() and _is_near(name, column)
    ]
    return Table(path, unit, tuple(header), column, numbers, cells, problems, warnings)


def _is_near(name: str, column: Mapping[str, str | None]) -> bool:
    return any(column[kind] is None and plain(name) in names for kind, names in COLUMN_NAMES.items())


def plain(name: str) -> str:
    """A column's name without what spreadsheets do to it: capitals, and spaces around and between words."""
    return name.strip().casefold().replace(" ", "_")
