"""A table of pictures of one's own: `dataset.name=table`, a CSV, TSV or Parquet file with a row for each picture.

Columns are path, label, and if there are such, attribute, split and mask, by these names, those of group_DRO's
metadata.csv, or any (`dataset.columns`). Paths are relative to the table's folder or to `dataset.root`, or absolute.
What labels and attributes may be is said in `raygen.datasets.codes`.
"""

from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field, field_validator

from raygen.config import Decides, Identity, Strict
from raygen.datasets.addresses import Address, place_of
from raygen.datasets.csv_table import PARQUET_SUFFIXES, Reading, TableFile, list_rows
from raygen.datasets.entries import Listing
from raygen.datasets.files import is_text, not_text, printable
from raygen.datasets.folder import OpenFolder
from raygen.datasets.known import Names
from raygen.datasets.opened import DatasetBase
from raygen.datasets.places import LocalPlace, Place
from raygen.datasets.table_columns import FIELDS
from raygen.errors import DataError
from raygen.seeding import LEAST_SEED, MAX_SEED

SUFFIXES = {".csv", ".tsv", *PARQUET_SUFFIXES}
METADATA = "metadata.csv"

Fraction = Annotated[float, Field(ge=0, le=1)]


class Columns(Strict, decides=Decides.RESULTS):
    """Names of a table's columns, where they are others than raygen knows.

    Attributes:
        path: Of the picture's file.
        label: Of the class.
        attribute: Of the spurious attribute.
        split: Of train, val and test.
        mask: Of the object mask's file.
    """

    path: str | None = None
    label: str | None = None
    attribute: str | None = None
    split: str | None = None
    mask: str | None = None

    @property
    def by_kind(self) -> dict[str, str]:
        """The names that are given."""
        given = {kind: getattr(self, name) for kind, name in FIELDS.items()}
        return {kind: name for kind, name in given.items() if name is not None}


class TableConfig(DatasetBase):
    """A table of pictures.

    Attributes:
        path: The file, or a folder with a metadata.csv: a path, or a URL such as "s3://bucket/birds.parquet".
        columns: Names of its columns, where they are others than raygen knows.
        root: Folder that the pictures are below; by default the table's. Pictures whose absolute paths lead nowhere,
            because they have moved or were written on another system, are looked for in it by the ends of their paths.
        split: Fractions of train, val and test, together 1, by which a split is drawn where the table has none:
            stratified by label and attribute.
        split_seed: Seed of that draw, from -(2**63) to 2**64 - 1. Not the run's: runs of several seeds have one split.
        class_names: Names of labels 0, 1, ...; by default the table's words. In place of the words themselves they
            give the order.
        attribute_names: Names of attribute values, likewise.
        prompts: What to ask the inpainter for, per class; by default "a photo of a <class name>".
        inline: Whether a run keeps copies of the pictures; see `raygen.datasets.folder.FolderConfig`.
    """

    name: Literal["table"] = "table"
    path: Address
    columns: Columns = Columns()
    root: Address | None = None
    split: tuple[Fraction, Fraction, Fraction] | None = None
    split_seed: int = Field(0, ge=LEAST_SEED, le=MAX_SEED)
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    inline: Annotated[bool, Identity.ABSENT_BY_DEFAULT] = True

    @field_validator("split")
    @classmethod
    def _whole(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None and abs(sum(value) - 1) > 1e-6:
            raise ValueError(f"fractions of train, val and test come to {sum(value):g}; expected 1, as in 0.8,0.1,0.1")
        if value is not None and not (value[0] and value[1]):
            raise ValueError("every run needs images of train and of val; their fractions may not be 0")
        return value


def is_table(name: str) -> bool:
    """Whether a path is that of a table, by its suffix."""
    return Path(name).suffix.casefold() in SUFFIXES and not Path(name).is_dir()


def open_table(config: TableConfig) -> OpenFolder:
    """The table of a config, opened once.

    Raises:
        DataError: See `list_pictures`.
    """
    return OpenFolder(config, list_pictures(config))


def list_pictures(config: TableConfig) -> Listing:
    """What the table holds and what is wrong with it, before any picture is read.

    Raises:
        DataError: The file or the root is not there, or the table as a whole cannot be used.
    """
    file = _file(config.path)
    if (reason := file.place.why_no_file(file.name)) is not None:
        raise DataError(f"dataset table {printable(file.path)} {reason}; give a .csv, .tsv or .parquet file")
    root = file.place if config.root is None else place_of(config.root)
    if isinstance(root, LocalPlace) and (reason := root.why_no_folder("")) is not None:
        raise DataError(f"dataset.root {printable(root.address)} {reason}; give the folder that the pictures are below")
    given = Names(config.class_names, config.attribute_names, config.prompts)
    for text in (*given.class_names, *given.attribute_names, *given.prompts, file.path, file.place.name):
        if not is_text(text):
            raise DataError(f"dataset {not_text(text)}")
    name = file.place.name if file.name == METADATA else PurePosixPath(file.name).stem
    moved = config.root is not None
    reading = Reading(config.columns.by_kind, config.split, config.split_seed, moved)
    return list_rows(file, root, given, name=name, reading=reading)


def _file(path: Path | str) -> TableFile:
    """The table of a path or URL: the file itself, or a folder's metadata.csv."""
    if isinstance(path, Path):
        return TableFile(LocalPlace(path), METADATA) if path.is_dir() else TableFile(LocalPlace(path.parent), path.name)
    folder, _, name = path.rstrip("/").rpartition("/")
    is_file = PurePosixPath(name).suffix.casefold() in SUFFIXES
    place: Place = place_of(folder if is_file else path)
    return TableFile(place, name if is_file else METADATA)


Config, Open = TableConfig, open_table
