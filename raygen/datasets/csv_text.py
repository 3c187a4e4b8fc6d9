"""The text of a table of pictures, however a spreadsheet saved it: encoding, separator, true line numbers."""

import codecs
import csv
import io
import re
from collections.abc import Collection

from raygen.datasets.files import printable
from raygen.datasets.table_columns import Table, Wanted, make_table
from raygen.errors import DataError

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


def read_csv(data: bytes, path: str, *, wanted: Wanted, also: Collection[str] = ()) -> Table:
    """Reads a table that is text.

    Args:
        data: Bytes of the file.
        path: Its address, for messages.
        wanted: Which columns are looked for.
        also: Columns whose cells are kept beside those.

    Raises:
        DataError: No text, no CSV, a needed column is absent or twice there, no line.
    """
    rows = _separated(_text(data, path), path, wanted)
    if not rows:
        raise DataError(f"{path} is empty; expected a header with columns for the file, the label and the split")
    header = rows[0][1]
    column = wanted.columns(header, path)
    if len(rows) == 1:
        raise DataError(f"{path} has a header and no line")
    kept = {name: place for place, name in enumerate(header) if name in {*column.values(), *also}}
    numbers, problems = [], []
    cells: dict[str, list[str]] = {name: [] for name in kept}
    for number, row in rows[1:]:
        if any(row[len(header) :]):
            problems.append(f"{path}, line {number}: has {len(row)} cells, the header {len(header)}")
            continue
        numbers.append(number)
        for name, place in kept.items():
            cells[name].append(row[place] if place < len(row) else "")
    return make_table(path, "line", header, column, numbers, cells, problems)


def _separated(text: str, path: str, wanted: Wanted) -> list[tuple[int, list[str]]]:
    """Rows by the first separator that gives the needed columns; by commas, if none does."""
    if (noted := _SEPARATOR_LINE.match(text)) is not None:
        return _rows(text[noted.end() :], noted[1], path, skipped=1)
    by_comma = rows = _rows(text, ",", path, skipped=0)
    for separator in _OTHER_SEPARATORS:
        if not rows or wanted.are_in(rows[0][1]):
            return rows
        rows = _rows(text, separator, path, skipped=0)
    if wanted.are_in(rows[0][1]):
        return rows
    # For the message: a header that a separator takes apart shows names of columns.
    others = (_rows(text, separator, path, skipped=0) for separator in _OTHER_SEPARATORS)
    return max((by_comma, *others), key=lambda rows: len(rows[0][1]))


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
