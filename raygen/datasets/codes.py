"""Labels and attributes as tables write them -> numbers from 0, with names.

A column is looked at as a whole, so that no cell is read one way here and another way there. Whole numbers stay what
they are, but for -1 and 1, and for numbers that are counted from 1. Words are numbered in their order, or in that of
the names that are given. What is neither is refused, cell by cell.
"""

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from raygen.datasets.files import printable
from raygen.datasets.names import check_names, check_not_swapped, in_order, shown
from raygen.datasets.table_columns import COLUMN_NAMES, plain
from raygen.errors import DataError

# Spreadsheets and pandas write 1.0 where a column has had empty cells.
WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:[.,_][0-9]*)?|[.,][0-9]+)(?:e[+-]?[0-9]+)?|[+-]?inf(?:inity)?", re.IGNORECASE)
# What pandas and databases write where there is no value. "none" is not among them: a hat may be none.
_NO_VALUE = {"nan", "<na>", "null", "#n/a"}
_TRUTH = ({"false", "true"}, {"no", "yes"}, {"n", "y"}, {"f", "t"})
# More words than this in more than half of the rows are no classes: names of files, dates, measurements.
_MOST_WORDS = 50


@dataclass(frozen=True, slots=True)
class Codes:
    """A column as numbers.

    Attributes:
        values: Of each row, from 0; None where the cell is empty or wrong.
        names: One per number, where the column or the user has names; else ().
        problems: What is wrong with a cell, by its row.
        notes: What became of the cells, where that is not plain.
        first: Number of the first value in the table, where they are counted on; 1 of "1, 2, 3".
    """

    values: Sequence[int | None]
    names: tuple[str, ...] = ()
    problems: Mapping[int, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    first: int = 0

    @property
    def count(self) -> int:
        """How many values there are, with those in between that no row has."""
        return max((value for value in self.values if value is not None), default=-1) + 1


def read_codes(cells: Sequence[str], *, column: str, given: Sequence[str], what: str, limit: int, path: str) -> Codes:
    """The numbers of a column.

    Args:
        cells: Of all rows, without spaces around them.
        column: Its name, for messages.
        given: Names that the user gives the values, if any.
        what: The field of these, such as "dataset.class_names".
        limit: Numbers are below this.
        path: The table, for messages.

    Raises:
        DataError: The column as a whole cannot be numbered, or the given names do not fit its words.
    """
    counts = Counter(cells)
    counts.pop("", None)
    numbers = {cell for cell in counts if _NUMBER.fullmatch(cell)}
    empty = {cell for cell in counts if cell.casefold() in _NO_VALUE}
    words = [cell for cell in counts if cell not in numbers and cell not in empty]
    num_words = sum(counts[word] for word in words)
    if num_words > sum(counts[number] for number in numbers):
        _check_words(words, num_words, column, path)
        code_of, names, notes = _of_words(words, column=column, given=given, what=what, path=path)
        return _coded(cells, code_of, lambda cell: _no_word(cell, column, code_of, given, what), names, notes)
    code_of, first, notes = _of_numbers(numbers, column=column, num_given=len(given), limit=limit, path=path)
    return _coded(cells, code_of, lambda cell: _no_number(cell, column, limit), (), notes, first)


def short(text: str, length: int = 60) -> str:
    """Text for a message: printable, and its beginning only where it is long."""
    text = printable(text)
    return text if len(text) <= length else f"{text[:length]}..."


def _coded(cells, code_of, explain, names, notes, first=0) -> Codes:  # type: ignore[no-untyped-def]
    values = [code_of.get(cell) for cell in cells]
    wrong = {row: cells[row] for row, value in enumerate(values) if value is None and cells[row]}
    texts = {cell: explain(cell) for cell in {*wrong.values()}}
    return Codes(values, names, {row: texts[cell] for row, cell in wrong.items()}, notes, first)


# --- Numbers


def _of_numbers(
    cells: set[str], *, column: str, num_given: int, limit: int, path: str
) -> tuple[dict[str, int], int, list[str]]:
    found = {cell: match for cell in cells if (match := WHOLE_NUMBER.fullmatch(cell))}
    # 18 digits: more than any table has lines.
    values = {cell: int(match[1]) for cell, match in found.items() if len(match[1]) <= 18}
    present = {*values.values()}
    if present == {-1, 1}:
        return (
            {cell: int(value > 0) for cell, value in values.items()},
            0,
            [f"{path}: column '{column}' has -1 and 1, which are read as 0 and 1"],
        )
    usable = {cell: value for cell, value in values.items() if 0 <= value < limit}
    counted = len(present) > 1 and len(usable) == len(cells) and present == {*range(1, len(present) + 1)}
    # With a name for 0 too, 0 is a class that has no row here.
    if counted and num_given != len(present) + 1:
        note = f"{path}: column '{column}' counts from 1 to {len(present)}; these are read as 0 to {len(present) - 1}"
        return {cell: value - 1 for cell, value in usable.items()}, 1, [note]
    return usable, 0, []


def _no_number(cell: str, column: str, limit: int) -> str:
    whole = WHOLE_NUMBER.fullmatch(cell)
    if whole is None or "-" in cell:
        return f"column '{column}' is '{short(cell)}'; expected a whole number from 0"
    return (
        f"column '{column}' is '{short(cell)}'; expected a whole number from 0, below {limit} in a table of this length"
    )


# --- Words


def _check_words(words: Sequence[str], num_words: int, column: str, path: str) -> None:
    if len(words) > max(_MOST_WORDS, num_words // 2):
        raise DataError(
            f"{path}: column '{column}' has {len(words):,} different words in {num_words:,} rows, such as "
            f"'{short(words[0])}'; these are no classes. Name another column, with dataset.name=table and "
            "dataset.columns.label=NAME or dataset.columns.attribute=NAME"
        )
    alike: dict[str, list[str]] = {}
    for word in words:
        alike.setdefault(word.casefold(), []).append(word)
    if set(alike) in _TRUTH:
        return
    for same in alike.values():
        if len(same) > 1:
            raise DataError(
                f"{path}: column '{column}' has {' and '.join(repr(word) for word in sorted(same))}, which differ in "
                "capitals only; write them alike"
            )


def _of_words(
    words: Sequence[str], *, column: str, given: Sequence[str], what: str, path: str
) -> tuple[dict[str, int], tuple[str, ...], list[str]]:
    if {word.casefold() for word in words} in _TRUTH:  # however they are written
        order = sorted({word.casefold() for word in words})
        code_of = {word: order.index(word.casefold()) for word in words}
    else:
        order = in_order(words)
        code_of = {word: order.index(word) for word in words}
    here, own = {plain(name): number for number, name in enumerate(given)}, tuple(order)
    known = {word: here[plain(word)] for word in words if plain(word) in here}
    if len(known) * 2 > len(words):  # given are the words themselves: the order is theirs
        return known, tuple(given), [_mapping(path, column, given)]
    if set(map(str.casefold, words)) in _TRUTH and plain(column) not in {
        n for names in COLUMN_NAMES.values() for n in names
    }:
        own = (f"not {column}", column)
    if given:
        check_names(given, what=what, expected=len(own), of=f"the words {shown(own)} of column '{column}' in {path}")
        check_not_swapped(given, own, of=f"the words of column '{column}'", what=what)
    pairs = [f"{word} is {name}" if word != name else word for word, name in zip(order, given or own, strict=True)]
    return code_of, tuple(given) or own, [_mapping(path, column, pairs)]


def _mapping(path: str, column: str, names: Sequence[str]) -> str:
    numbered = [f"{number} = {name}" for number, name in enumerate(names[:20])]
    more = f", ... {len(names) - 20} more" if len(names) > 20 else ""
    return f"{path}: column '{column}' holds words, which are numbered {', '.join(numbered)}{more}"


def _no_word(cell: str, column: str, code_of: Mapping[str, int], given: Sequence[str], what: str) -> str:
    if cell.casefold() in _NO_VALUE:
        return f"column '{column}' is '{cell}', which stands for no value; leave the cell empty, or write the word"
    words = list(given) if given else list(code_of)
    near = difflib.get_close_matches(cell, words, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    of = f"one of {what}" if given else "a word, as other rows have"
    return f"column '{column}' is '{short(cell)}'; expected {of} ({shown(words)}){hint}"
