"""A folder with `metadata.csv`: a picture per line."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from raygen.datasets.csv_text import Line, Table, read_table
from raygen.datasets.entries import Entry, Listing, take_usable
from raygen.datasets.files import printable
from raygen.datasets.known import ANSWERS, NAMES, OBJECT_WORDS, Names, known_name, recognised
from raygen.datasets.names import SPLIT_WORDS, check_names, check_not_swapped
from raygen.datasets.places import Place
from raygen.datasets.table import DatasetInfo, check_prompts, numbered
from raygen.errors import DataError
from raygen.schema import SPLITS
from raygen.storage.remote import check_no_secret, is_url

# Spreadsheets and pandas write 1.0 where a column has had empty cells.
_WHOLE_NUMBER = re.compile(r"([+-]?[0-9]+)(?:\.0*)?")
# Names are made up to the largest label, so a label may not be larger than this, the lines or the names that are given.
MIN_VALUES = 1000
# And tables of groups are made, of the size of both together.
MAX_GROUPS = 200_000
SPLIT_CODES = {"0": "train", "1": "val", "2": "test"}


def list_table(place: Place, given: Names) -> Listing:
    """Lists the pictures of a folder's metadata.csv.

    Raises:
        DataError: The table as a whole cannot be used, or names do not fit.
    """
    answers = ANSWERS.get(known_name(place.name) or "", ())
    path = place.shown("metadata.csv")
    try:
        table = read_table(place.read("metadata.csv"), path, also=answers)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    limit = max(MIN_VALUES, len(table.lines), len(given.class_names), len(given.attribute_names))
    entries, problems = [], list(table.problems)
    for line in table.lines:
        try:
            entries.append(_entry(line, table, place, limit))
        except DataError as error:
            problems.append(str(error))
    num_classes = max((entry.label for entry in entries), default=-1) + 1
    num_attributes = max((entry.attribute for entry in entries if entry.attribute is not None), default=-1) + 1
    if num_classes * num_attributes > MAX_GROUPS:
        raise DataError(
            f"{path} has labels up to {num_classes - 1} and attributes up to {num_attributes - 1}, which "
            f"make {num_classes * num_attributes:,} groups; at most {MAX_GROUPS:,} are taken"
        )
    if not problems:  # with them, what else the table has is not known
        _check_given(given, num_classes, num_attributes)
    info, notes = _info(place, table, entries, given, num_classes, num_attributes)
    listing = Listing(info, problems=problems, warnings=list(table.warnings), notes=notes, place=place)
    take_usable(listing, entries)
    return listing


def _check_given(given: Names, num_classes: int, num_attributes: int) -> None:
    # Too few names: the lines whose labels have none are named one by one.
    if len(given.class_names) >= num_classes:
        of = f"labels 0..{num_classes - 1}"
        check_names(given.class_names, what="dataset.class_names", expected=num_classes, of=of)
    if len(given.attribute_names) > num_attributes:
        of = f"attributes 0..{num_attributes - 1}" if num_attributes else "a table without attributes"
        check_names(given.attribute_names, what="dataset.attribute_names", expected=num_attributes, of=of)


def _info(
    place: Place, table: Table, entries: Sequence[Entry], given: Names, num_classes: int, num_attributes: int
) -> tuple[DatasetInfo, list[str]]:
    """Names of the dataset, and where they come from."""
    name, notes = place.name, list[str]()
    counts = Counter((entry.split, entry.label, entry.attribute) for entry in entries)
    found = recognised(name, counts, columns=table.header, answers=_answers(table, known_name(name)))
    class_names, attribute_names, prompts = given.class_names, given.attribute_names, given.prompts
    known = None if found is None else NAMES.get(found[0])
    if found is not None and known is not None:
        check_not_swapped(class_names, known.class_names, of=f"the classes of {found[0]}")
        of, what = f"the attributes of {found[0]}", "dataset.attribute_names"
        check_not_swapped(attribute_names, known.attribute_names, of=of, what=what)
    if not class_names:
        if found is not None and known is not None and num_classes == len(known.class_names):
            class_names, prompts = known.class_names, prompts or known.prompts
            attribute_names = attribute_names or known.attribute_names[:num_attributes]
            notes.append(f"classes are called as in {found[0]}: {', '.join(class_names)}; {found[1]}")
        elif found is None and known_name(name) in NAMES:
            notes.append(
                f"the folder is called after {known_name(name)}, but neither its columns nor its numbers of images are "
                "that dataset's: its classes are not called as there; set dataset.class_names"
            )
    found = found or recognised(name, counts, class_names=class_names)
    class_names = class_names or numbered("class", num_classes)
    attribute_names = attribute_names or numbered("attribute", num_attributes)
    words = class_names if found is None else (OBJECT_WORDS[found[0]],) * len(class_names)
    return DatasetInfo(name, class_names, attribute_names, check_prompts(prompts, class_names), words), notes


def _answers(table: Table, name: str | None) -> bool:
    """Whether the published annotation, where the table has it, says the same as its labels and attributes."""
    columns = ANSWERS.get(name or "", ())
    if not columns or not set(columns) <= set(table.header):
        return False
    pairs = zip(columns, (table.column["label"], table.column["attribute"]), strict=True)
    return all(
        mine is not None and _is_above_0(line.cells[theirs]) == _is_above_0(line.cells[mine])
        for theirs, mine in pairs
        for line in table.lines
    )


def _is_above_0(cell: str) -> bool:
    found = _WHOLE_NUMBER.fullmatch(cell)
    return found is not None and cell[0] != "-" and any(digit in "123456789" for digit in found[1])


def _entry(line: Line, table: Table, place: Place, limit: int) -> Entry:
    """The entry of one line.

    Raises:
        DataError: A cell is wrong, or a file is not there.
    """
    where = f"{place.address}/metadata.csv, line {line.number}"
    cell = {kind: line.cells[name] if name else "" for kind, name in table.column.items()}
    number = _WHOLE_NUMBER.fullmatch(cell["split"])
    split = SPLIT_WORDS.get(cell["split"].casefold()) if number is None else SPLIT_CODES.get(number[1])
    if split is None:
        others = ", ".join(sorted(set(SPLIT_WORDS) - set(SPLITS)))
        raise DataError(
            f"{where}: split is '{_short(cell['split'])}'; expected 0, 1, 2 or train, val, test, or one of {others}"
        )
    label = _number(cell["label"], f"{where}: column '{table.column['label']}'", limit)
    if label is None:
        raise DataError(f"{where}: column '{table.column['label']}' is empty; every picture needs a label")
    if not cell["file"]:
        raise DataError(f"{where}: column '{table.column['file']}' is empty; every line names a picture")
    name = _named(cell["file"], place, where)
    return Entry(
        image_id=PurePosixPath(name.partition("://")[2] or name).with_suffix("").as_posix(),
        label=label,
        attribute=_number(cell["attribute"], f"{where}: column '{table.column['attribute']}'", limit),
        split=split,
        picture=_address(name, place),
        object=_address(_named(cell["object"], place, where), place) if cell["object"] else None,
        where=where,
    )


def _number(cell: str, where: str, limit: int) -> int | None:
    if not cell:
        return None
    found = _WHOLE_NUMBER.fullmatch(cell)
    if found is None:
        raise DataError(f"{where} is '{_short(cell)}'; expected a whole number from 0")
    if len(found[1]) > 18 or int(found[1]) >= limit:  # 18 digits: more than any table has lines
        raise DataError(
            f"{where} is '{_short(cell)}'; expected a whole number from 0, below {limit} in a table of this length"
        )
    return int(found[1])


def _named(cell: str, place: Place, where: str) -> str:
    r"""The file that a cell names, also where it was written on Windows (img\1.png) or on a Mac (an umlaut in two).

    Raises:
        DataError: There is none, or it is a URL that holds credentials.
    """
    if is_url(cell):
        check_no_secret(cell)
        return cell
    slashed = cell.replace("\\", "/")
    for name in dict.fromkeys((cell, slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD")))):
        if place.why_no_file(name) is None:
            return name
    raise DataError(f"{where}: {_short(printable(place.shown(cell)), 300)} {place.why_no_file(cell)}")


def _address(name: str, place: Place) -> str:
    return name if is_url(name) else place.shown(name)


def _short(text: str, length: int = 60) -> str:
    shown = printable(text)
    return shown if len(shown) <= length else f"{shown[:length]}..."
