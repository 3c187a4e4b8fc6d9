"""The text of a metadata.csv, however a spreadsheet saved it: encoding, separator, header, true line numbers."""

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from raygen.datasets.files import printable
from raygen.errors import DataError

# Accepted names of each column, the first that is there is taken. group_DRO's `y` comes before `label`, which some
# tables use for a readable name.
COLUMN_NAMES = {
    "file": ("img_filename", "path", "filename", "file_name"),
    "label": ("y", "label"),
    "attribute": ("place", "attribute", "a"),
    "split": ("split",),
    "object": ("mask_filename", "object_filename"),
}
NEEDED = ("file", "label", "split")
# Longer marks first: UTF-32's begins with UTF-16's.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Tried after the comma; where the decimal sign is a comma, spreadsheets write semicolons.
_OTHER_SEPARATORS = (";", "\t", "|")
# How Excel notes the separator, as a line before the header.
_SEPARATOR_LINE = re.compile(r"\ufeff?\"?sep=(.)\"?(?:\r\n|\r|\n)")
_ADVICE = "save it as CSV in UTF-8"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a table.

    Attributes:
        number: Where it begins in the file, from 1.
        cells: By column name, without spaces around them; columns that the line does not reach are empty.
    """

    number: int
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """A metadata.csv.

    Attributes:
        header: Names of its columns.
        column: Which of them holds the file, label, attribute, split, object; None where none does.
        lines: Its lines but the header and blank ones.
        problems: Lines that have more cells than the header.
        warnings: Columns that are nearly those that are read.
    """

    header: tuple[str, ...]
    column: Mapping[str, str | None]
    lines: Sequence[Line]
    problems: Sequence[str]
    warnings: Sequence[str]


def read_table(data: bytes, path: str, *, also: Collection[str]) -> Table:
    """Reads a metadata.csv.

    Header names are taken as they are, without the spaces around them; where the needed ones are not there, capitals
    are overlooked.

    Args:
        data: Bytes of the file.
        path: Its address, for messages.
        also: Columns whose cells are kept beside those of `COLUMN_NAMES`.

    Raises:
        DataError: No text, no CSV, a needed column is absent or twice there, no line.
    """
    rows = _separated(_text(data, path), path)
    if not rows:
        raise DataError(f"{path} is empty; expected a header with columns for the file, the label and the split")
    header = rows[0][1]
    column = _columns(header)
    _check_header(header, column, path)
    if len(rows) == 1:
        raise DataError(f"{path} has a header and no line")
    kept = {name: place for place, name in enumerate(header) if name in {*column.values(), *also}}
    lines, problems = [], []
    for number, cells in rows[1:]:
        if any(cells[len(header) :]):
            problems.append(f"{path}, line {number}: has {len(cells)} cells, the header {len(header)}")
        else:
            here = {name: cells[place] if place < len(cells) else "" for name, place in kept.items()}
            lines.append(Line(number, here))
    warnings = [
        f"{path}: column '{printable(name)}' is not read; its name is '{_plain(name)}'"
        for name in header
        if name not in column.values() and _is_near(name, column)
    ]
    return Table(tuple(header), column, lines, problems, warnings)


def _check_header(header: Sequence[str], column: Mapping[str, str | None], path: str) -> None:
    for kind in NEEDED:
        if column[kind] is None:
            raise DataError(
                f"{path}: no column for the {kind} (any of {', '.join(COLUMN_NAMES[kind])}); "
                f"found {[printable(name) for name in header]}"
            )
    called = list(header) if _is_exact(header) else [_plain(name) for name in header]
    taken = {called[header.index(name)] for name in column.values() if name is not None}
    for name, times in Counter(called).items():
        if times > 1 and name in taken:
            raise DataError(f"{path}: column '{name}' occurs {times} times; leave one")


def _separated(text: str, path: str) -> list[tuple[int, list[str]]]:
    """Rows by the first separator that gives the needed columns; by commas, if none does."""
    if (noted := _SEPARATOR_LINE.match(text)) is not None:
        return _rows(text[noted.end() :], noted[1], path, skipped=1)
    by_comma = rows = _rows(text, ",", path, skipped=0)
    for separator in _OTHER_SEPARATORS:
        if not rows or _has_needed(rows[0][1]):
            return rows
        rows = _rows(text, separator, path, skipped=0)
    return rows if _has_needed(rows[0][1]) else by_comma


def _text(data: bytes, path: str) -> str:
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise DataError(f"{path} is a workbook of a spreadsheet, not text; {_ADVICE}")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"is not {encoding.upper()}, line {line}: {printable(str(error))}"
        raise DataError(f"{path} is not a CSV file in UTF-8 ({found}); {_ADVICE}") from error
    if "\0" in text:
        raise DataError(f"{path} is not a CSV file in UTF-8 (it holds null characters, as UTF-16 does); {_ADVICE}")
    return text


def _rows(text: str, separator: str, path: str, *, skipped: int) -> list[tuple[int, list[str]]]:
    """Number of the first line of each row that is not blank, and its cells without spaces around them."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows: list[tuple[int, list[str]]] = []
    first = last = 0
    try:
        for cells in reader:
            first, last = last + 1, reader.line_num
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((first + skipped, stripped))
    except csv.Error as error:
        raise DataError(f"{path}, line {last + 1 + skipped}: not CSV: {error}") from error
    if last > first and text.count('"') % 2:
        raise DataError(f"{path}, line {first + skipped}: a quotation mark is opened and never closed")
    return rows


def _is_exact(header: Sequence[str]) -> bool:
    return all(set(COLUMN_NAMES[kind]) & set(header) for kind in NEEDED)


def _columns(header: Sequence[str]) -> dict[str, str | None]:
    """The column of each kind, by its name in the header."""
    called = list(header) if _is_exact(header) else [_plain(name) for name in header]
    return {
        kind: next((header[called.index(name)] for name in names if name in called), None)
        for kind, names in COLUMN_NAMES.items()
    }


def _has_needed(header: Sequence[str]) -> bool:
    column = _columns(header)
    return all(column[kind] is not None for kind in NEEDED)


def _is_near(name: str, column: Mapping[str, str | None]) -> bool:
    return any(column[kind] is None and _plain(name) in names for kind, names in COLUMN_NAMES.items())


def _plain(name: str) -> str:
    return name.strip().casefold().replace(" ", "_")
