"""A table of pictures, a row each: a folder's `metadata.csv`, or a file of its own."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from raygen.datasets.cell_files import CellFiles
from raygen.datasets.codes import WHOLE_NUMBER, Codes, read_codes, short
from raygen.datasets.csv_text import read_csv
from raygen.datasets.drawn_split import draw_splits
from raygen.datasets.entries import Entry, Listing, take_usable
from raygen.datasets.known import ANSWERS, NAMES, OBJECT_WORDS, Names, known_name, recognised
from raygen.datasets.names import SPLIT_WORDS, check_names, check_not_swapped
from raygen.datasets.parquet_table import read_parquet
from raygen.datasets.places import Place
from raygen.datasets.table import DatasetInfo, check_prompts, numbered
from raygen.datasets.table_columns import Table, Wanted
from raygen.errors import DataError
from raygen.schema import SPLITS

# Names are made up to the largest label, so a label may not be larger than this, the lines or the names that are given.
MIN_VALUES = 1000
# And tables of groups are made, of the size of both together.
MAX_GROUPS = 200_000
SPLIT_CODES = {"0": "train", "1": "val", "2": "test"}
PARQUET_SUFFIXES = {".parquet", ".pq"}


@dataclass(frozen=True, slots=True)
class Reading:
    """How a table is read, where it does not say all by itself.

    Attributes:
        columns: Name of the column of a kind (`raygen.datasets.table_columns.COLUMN_NAMES`), where it is another.
        fractions: Of train, val and test, where the split is drawn.
        seed: Of that draw.
        moved: Whether pictures are looked for by the ends of their absolute paths.
    """

    columns: dict[str, str] = field(default_factory=dict)
    fractions: tuple[float, float, float] | None = None
    seed: int = 0
    moved: bool = False

    @property
    def wanted(self) -> Wanted:
        """The columns that are looked for."""
        needed = ("file", "label") if self.fractions is not None else ("file", "label", "split")
        return Wanted(self.columns, needed)


def list_table(place: Place, given: Names) -> Listing:
    """Lists the pictures of a folder's metadata.csv.

    Raises:
        DataError: The table as a whole cannot be used, or names do not fit.
    """
    file = TableFile(place, "metadata.csv")
    return list_rows(file, place, given, name=place.name, reading=Reading())


@dataclass(frozen=True, slots=True)
class TableFile:
    """A file in a place."""

    place: Place
    name: str

    @property
    def path(self) -> str:
        """Its address, for messages."""
        return self.place.shown(self.name)


def list_rows(file: TableFile, place: Place, given: Names, *, name: str, reading: Reading) -> Listing:
    """Lists the pictures of a table.

    Args:
        file: The table, text or Parquet.
        place: What its relative paths are below.
        given: Names of classes and attributes, and prompts.
        name: What the dataset is called.
        reading: How it is read.

    Raises:
        DataError: The table as a whole cannot be used, or names do not fit.
    """
    path, table = file.path, _read(file, reading.wanted, ANSWERS.get(known_name(name) or "", ()))
    if reading.fractions is not None and table.column["split"] is not None:
        raise DataError(
            f"{path} has a split, in column '{table.column['split']}'; leave dataset.split out, or call that column "
            "otherwise to have another split drawn"
        )
    limit = max(MIN_VALUES, len(table.numbers), len(given.class_names), len(given.attribute_names))
    labels = _codes(table, "label", given.class_names, "dataset.class_names", limit)
    attributes = _codes(table, "attribute", given.attribute_names, "dataset.attribute_names", limit)
    entries, problems = _entries(table, place, labels, attributes, reading)
    problems = [*table.problems, *problems]
    if labels.count * attributes.count > MAX_GROUPS:
        raise DataError(
            f"{path} has labels up to {labels.count - 1} and attributes up to {attributes.count - 1}, which make "
            f"{labels.count * attributes.count:,} groups; at most {MAX_GROUPS:,} are taken"
        )
    if not problems:  # with them, what else the table has is not known
        _check_given(given, labels, attributes)
    info, notes = _info(name, table, entries, given, labels, attributes)
    notes = [*labels.notes, *attributes.notes, *notes]
    listing = Listing(info, problems=problems, warnings=list(table.warnings), notes=notes, place=place)
    take_usable(listing, entries)
    return listing


def _read(file: TableFile, wanted: Wanted, also: Collection[str]) -> Table:
    try:
        data = file.place.read(file.name)
    except OSError as error:
        raise DataError(f"{file.path} cannot be read: {error.strerror}") from error
    if PurePosixPath(file.name).suffix.casefold() in PARQUET_SUFFIXES or data.startswith(b"PAR1"):
        return read_parquet(data, file.path, wanted=wanted)
    return read_csv(data, file.path, wanted=wanted, also=also)


def _codes(table: Table, kind: str, given: Sequence[str], what: str, limit: int) -> Codes:
    column = table.column[kind]
    if column is None:
        return Codes([None] * len(table.numbers))
    return read_codes(table.cells[column], column=column, given=given, what=what, limit=limit, path=table.path)


def _check_given(given: Names, labels: Codes, attributes: Codes) -> None:
    # Too few names: the lines whose labels have none are named one by one.
    if not labels.names and len(given.class_names) >= labels.count:
        of = f"labels 0..{labels.count - 1}"
        check_names(given.class_names, what="dataset.class_names", expected=labels.count, of=of)
    if not attributes.names and len(given.attribute_names) > attributes.count:
        of = f"attributes 0..{attributes.count - 1}" if attributes.count else "a table without attributes"
        check_names(given.attribute_names, what="dataset.attribute_names", expected=attributes.count, of=of)


def _info(
    name: str, table: Table, entries: Sequence[Entry], given: Names, labels: Codes, attributes: Codes
) -> tuple[DatasetInfo, list[str]]:
    """Names of the dataset, and where they come from."""
    notes: list[str] = []
    counts = Counter((entry.split, entry.label, entry.attribute) for entry in entries)
    class_names, attribute_names = labels.names or given.class_names, attributes.names or given.attribute_names
    prompts = given.prompts
    found = recognised(
        name, counts, class_names=labels.names, columns=table.header, answers=_answers(table, known_name(name))
    )
    known = None if found is None else NAMES.get(found[0])
    if found is not None and known is not None:
        check_not_swapped(class_names, known.class_names, of=f"the classes of {found[0]}")
        of, what = f"the attributes of {found[0]}", "dataset.attribute_names"
        check_not_swapped(attribute_names, known.attribute_names, of=of, what=what)
    if not class_names:
        if found is not None and known is not None and labels.count == len(known.class_names):
            class_names, prompts = known.class_names, prompts or known.prompts
            attribute_names = attribute_names or known.attribute_names[: attributes.count]
            notes.append(f"classes are called as in {found[0]}: {', '.join(class_names)}; {found[1]}")
        elif found is None and known_name(name) in NAMES:
            notes.append(
                f"the folder is called after {known_name(name)}, but neither its columns nor its numbers of images are "
                "that dataset's: its classes are not called as there; set dataset.class_names"
            )
    found = found or recognised(name, counts, class_names=class_names)
    class_names = class_names or numbered("class", labels.count, first=labels.first)
    attribute_names = attribute_names or numbered("attribute", attributes.count, first=attributes.first)
    words = class_names if found is None else (OBJECT_WORDS[found[0]],) * len(class_names)
    return DatasetInfo(name, class_names, attribute_names, check_prompts(prompts, class_names), words), notes


def _answers(table: Table, name: str | None) -> bool:
    """Whether the published annotation, where the table has it, says the same as its labels and attributes."""
    columns = ANSWERS.get(name or "", ())
    if not columns or not set(columns) <= set(table.cells):
        return False
    return all(
        table.column[mine] is not None and all(map(_is_alike, table.cells[theirs], table.of(mine)))
        for theirs, mine in zip(columns, ("label", "attribute"), strict=True)
    )


def _is_alike(cell: str, other: str) -> bool:
    return _is_above_0(cell) == _is_above_0(other)


def _is_above_0(cell: str) -> bool:
    found = WHOLE_NUMBER.fullmatch(cell)
    return found is not None and cell[0] != "-" and any(digit in "123456789" for digit in found[1])


def _entries(
    table: Table, place: Place, labels: Codes, attributes: Codes, reading: Reading
) -> tuple[list[Entry], list[str]]:
    """The rows that can be used, and one line for each other."""
    files, objects = table.of("file"), table.of("object")
    splits = _splits(table, labels, attributes, reading)
    finds, entries, problems = CellFiles(place, moved=reading.moved), [], []
    for row, split in enumerate(splits):
        where = table.where(row)
        try:
            if split not in SPLITS:
                raise DataError(f"{where}: {split}")
            for codes in (labels, attributes):
                if (problem := codes.problems.get(row)) is not None:
                    raise DataError(f"{where}: {problem}")
            label = labels.values[row]
            if label is None:
                raise DataError(f"{where}: column '{table.column['label']}' is empty; every picture needs a label")
            if not files[row]:
                raise DataError(f"{where}: column '{table.column['file']}' is empty; every line names a picture")
            name, picture = finds.find(files[row], where)
            mask = finds.find(objects[row], where)[1] if objects[row] else None
            image_id = PurePosixPath(name.partition("://")[2] or name).with_suffix("").as_posix()
            entries.append(Entry(image_id, label, attributes.values[row], split, picture, mask, where))
        except DataError as error:
            problems.append(str(error))
    return entries, problems


def _splits(table: Table, labels: Codes, attributes: Codes, reading: Reading) -> list[str]:
    """The split of each row, or what is wrong with it."""
    if reading.fractions is not None:
        strata = list(zip(labels.values, attributes.values, strict=True))
        return draw_splits(table.of("file"), strata, fractions=reading.fractions, seed=reading.seed)
    of = {cell: _split(cell) for cell in {*table.of("split")}}
    return [of[cell] for cell in table.of("split")]


def _split(cell: str) -> str:
    number = WHOLE_NUMBER.fullmatch(cell)
    split = SPLIT_WORDS.get(cell.casefold()) if number is None else SPLIT_CODES.get(number[1])
    if split is not None:
        return split
    others = ", ".join(sorted(set(SPLIT_WORDS) - set(SPLITS)))
    return f"split is '{short(cell)}'; expected 0, 1, 2 or train, val, test, or one of {others}"
