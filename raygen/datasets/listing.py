"""What a user's folder holds and what is wrong with it, before any picture is read.

Everything wrong is collected, not just the first: a run stops with all of it, and `raygen data check` reports it.
"""

import csv
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.config import fingerprint
from raygen.datasets.known import Names, known_names, object_words
from raygen.datasets.table import INFO_FILE, DatasetInfo, check_prompts, numbered, read_info, rows_at_once
from raygen.errors import DataError
from raygen.schema import SPLITS

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
# Accepted names of each column, the first that is there is taken. group_DRO's `y` comes before `label`, which some
# tables use for a readable name.
COLUMN_NAMES = {
    "file": ("img_filename", "path", "filename", "file_name"),
    "label": ("y", "label"),
    "attribute": ("place", "attribute", "a"),
    "split": ("split",),
    "object": ("mask_filename", "object_filename"),
}
SPLIT_CODES = {"0": "train", "1": "val", "2": "test", **{name: name for name in SPLITS}}
LABEL_COLUMNS = ("image_id", "label", "attribute", "split")


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture, not read yet.

    Attributes:
        image_id: Its id: its file's path in the folder, without the suffix.
        label: Class.
        attribute: Spurious attribute, or None.
        split: train, val or test.
        picture: Its file, or the shard that holds it.
        object: File of its object mask, or None.
        where: Where it is named, for messages.
    """

    image_id: str
    label: int
    attribute: int | None
    split: str
    picture: Path
    object: Path | None
    where: str


@dataclass
class Listing:
    """A folder's pictures.

    Attributes:
        info: Names; those that were not given are counted off.
        entries: What can be used, sorted by image_id, each id once.
        problems: One line for each picture that cannot be used.
        shards: Files that hold the rows themselves; empty where pictures are files of their own.
    """

    info: DatasetInfo
    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shards: list[Path] = field(default_factory=list)

    def digest(self) -> str:
        """Changes with any label, attribute, split or name, and with the size or time of any file."""
        files = [*self.shards] or [
            path for entry in self.entries for path in (entry.picture, entry.object) if path is not None
        ]
        found = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        rows = [(entry.image_id, entry.label, entry.attribute, entry.split) for entry in self.entries]
        return fingerprint([asdict(self.info), rows, found])

    def rows(self) -> Iterator[dict[str, Any]]:
        """SOURCE rows of the entries, with pictures; one row, or a few of a shard, in memory at a time."""
        if self.shards:
            wanted = {entry.image_id for entry in self.entries}
            for shard in self.shards:
                file = pq.ParquetFile(shard)
                for group in range(file.num_row_groups):
                    # As many as usual pictures allow, fewer of large ones.
                    for batch in file.iter_batches(rows_at_once(file.metadata, group), row_groups=[group]):
                        yield from (row for row in batch.to_pylist() if row["image_id"] in wanted)
            return
        for entry in self.entries:
            yield {
                "image_id": entry.image_id,
                "image_png": _bytes(entry.picture),
                "label": entry.label,
                "attribute": entry.attribute,
                "split": entry.split,
                "role": "source",
                "object_png": None if entry.object is None else _bytes(entry.object),
            }


def list_folder(
    path: Path, *, class_names: tuple[str, ...], attribute_names: tuple[str, ...], prompts: tuple[str, ...]
) -> Listing:
    """Lists a folder in one of three layouts; see `raygen.datasets.folder`.

    Args:
        path: The folder.
        class_names: Names of the labels; empty: the folder's.
        attribute_names: Names of the attribute's values; empty: the folder's.
        prompts: One per class; empty: "a photo of a <class name>".

    Raises:
        DataError: The folder as a whole cannot be used: absent, empty, of an unknown layout, without a column.
    """
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise DataError(f"dataset folder {path} {kind}; give a folder of pictures, or 'scenes'")
    if not any(path.iterdir()):
        raise DataError(f"dataset folder {path} is empty; expected metadata.csv, or train/<class>/ with pictures")
    if (path / INFO_FILE).is_file():
        return _list_shards(path, class_names, attribute_names, prompts)
    if (path / "metadata.csv").is_file():
        return _list_csv(path, class_names, attribute_names, prompts)
    return _list_class_folders(path, class_names, prompts)


def _list_shards(
    path: Path, class_names: tuple[str, ...], attribute_names: tuple[str, ...], prompts: tuple[str, ...]
) -> Listing:
    shipped = read_info(path)
    class_names = class_names or shipped.class_names
    prompts = prompts or (shipped.prompts if class_names == shipped.class_names else ())
    attribute_names = attribute_names or shipped.attribute_names
    listing = Listing(
        DatasetInfo(
            shipped.name,
            class_names,
            attribute_names,
            check_prompts(prompts, class_names),
            shipped.object_words if class_names == shipped.class_names else class_names,
        ),
        shards=sorted(path.glob("part-*.parquet")),
    )
    entries = []
    for shard in listing.shards:
        try:
            table = pq.read_table(shard, columns=list(LABEL_COLUMNS))
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise DataError(f"{shard} cannot be read as a shard of SOURCE rows: {error}") from error
        entries += [
            Entry(row["image_id"], row["label"], row["attribute"], row["split"], shard, None, f"{shard}, row {i}")
            for i, row in enumerate(table.to_pylist())
        ]
    if not entries:
        raise DataError(f"{path} holds no row; make the dataset again with `raygen data make`")
    _take_usable(listing, entries)
    return listing


def _list_csv(
    root: Path, class_names: tuple[str, ...], attribute_names: tuple[str, ...], prompts: tuple[str, ...]
) -> Listing:
    path = root / "metadata.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            header = list(reader.fieldnames or [])
            lines = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from error
    column = {kind: next((n for n in names if n in header), None) for kind, names in COLUMN_NAMES.items()}
    for kind in ("file", "label", "split"):
        if column[kind] is None:
            raise DataError(
                f"{path}: no column for the {kind} (any of {', '.join(COLUMN_NAMES[kind])}); found {header}"
            )
    if not lines:
        raise DataError(f"{path} has a header and no line")
    entries, problems = [], []
    for number, line in enumerate(lines, start=2):
        try:
            entries.append(_csv_entry(line, column, root, f"{path}, line {number}"))
        except DataError as error:
            problems.append(str(error))
    num_classes = max((entry.label for entry in entries), default=-1) + 1
    num_attributes = max((entry.attribute for entry in entries if entry.attribute is not None), default=-1) + 1
    name = root.resolve().name
    if not class_names:
        known = known_names(name, num_classes=num_classes, num_attributes=num_attributes)
        known = known or Names(numbered("class", num_classes), numbered("attribute", num_attributes))
        class_names, prompts = known.class_names, prompts or known.prompts
        attribute_names = attribute_names or known.attribute_names[:num_attributes]
    attribute_names = attribute_names or numbered("attribute", num_attributes)
    prompts = check_prompts(prompts, class_names)
    listing = Listing(
        DatasetInfo(name, class_names, attribute_names, prompts, object_words(name, class_names)), problems=problems
    )
    _take_usable(listing, entries)
    return listing


def _csv_entry(line: dict[str, str], column: dict[str, str | None], root: Path, where: str) -> Entry:
    """The entry of one line.

    Raises:
        DataError: A cell is wrong, or a file is not there.
    """

    def cell(kind: str) -> str:
        name = column[kind]
        return (line[name] or "").strip() if name else ""

    def number(kind: str) -> int | None:
        if not cell(kind):
            return None
        try:
            return int(cell(kind))
        except ValueError as error:
            raise DataError(
                f"{where}: column '{column[kind]}' is '{cell(kind)}'; expected a whole number from 0"
            ) from error

    if cell("split") not in SPLIT_CODES:
        raise DataError(f"{where}: split is '{cell('split')}'; expected 0, 1, 2 or train, val, test")
    if (label := number("label")) is None:
        raise DataError(f"{where}: column '{column['label']}' is empty; every picture needs a label")
    files = {kind: root / cell(kind) for kind in ("file", "object") if cell(kind)}
    if "file" not in files:
        raise DataError(f"{where}: column '{column['file']}' is empty; every line names a picture")
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{where}: {file} does not exist")
    return Entry(
        image_id=Path(cell("file")).with_suffix("").as_posix(),
        label=label,
        attribute=number("attribute"),
        split=SPLIT_CODES[cell("split")],
        picture=files["file"],
        object=files.get("object"),
        where=where,
    )


def _list_class_folders(root: Path, class_names: tuple[str, ...], prompts: tuple[str, ...]) -> Listing:
    found = {
        split: sorted(p.name for p in (root / split).iterdir() if p.is_dir())
        for split in SPLITS
        if (root / split).is_dir()
    }
    if "train" not in found:
        raise DataError(f"{root} has neither {INFO_FILE}, metadata.csv nor train/<class>/ folders: unknown layout")
    for split in SPLITS:
        if split not in found:
            raise DataError(
                f"{root} has no folder {split}/; expected train/, val/ and test/, each with a folder per class"
            )
        if unknown := set(found[split]) - set(found["train"]):
            raise DataError(
                f"{root / split} has classes {sorted(unknown)} that train/ has not ({', '.join(found['train'])})"
            )
    class_names = class_names or tuple(found["train"])
    name = root.resolve().name
    prompts = check_prompts(prompts, class_names)
    listing = Listing(DatasetInfo(name, class_names, (), prompts, object_words(name, class_names)))
    files = sorted(
        (path, split)
        for split in SPLITS
        for path in (root / split).glob("*/*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    )
    entries = [
        Entry(
            image_id=path.relative_to(root).with_suffix("").as_posix(),
            label=found["train"].index(path.parent.name),
            attribute=None,
            split=split,
            picture=path,
            object=None,
            where=str(path),
        )
        for path, split in files
    ]
    if not entries:
        raise DataError(f"{root} holds no picture; expected train/<class>/*.png or .jpg, and so on for val and test")
    _take_usable(listing, entries)
    return listing


def _take_usable(listing: Listing, entries: Sequence[Entry]) -> None:
    """Sorts entries into those with a known label and a new id, and problems."""
    first: dict[str, Entry] = {}
    num_classes, num_attributes = len(listing.info.class_names), len(listing.info.attribute_names)
    for entry in entries:
        here, seen = f"{entry.where}: image_id '{entry.image_id}'", first.get(entry.image_id)
        if seen is not None:
            listing.problems.append(f"{here} occurs twice; first in {seen.where}")
        elif not 0 <= entry.label < num_classes:
            names = ", ".join(listing.info.class_names)
            listing.problems.append(f"{here} has label {entry.label}; expected 0..{num_classes - 1} ({names})")
        elif entry.attribute is not None and not 0 <= entry.attribute < num_attributes:
            listing.problems.append(f"{here} has attribute {entry.attribute}; expected 0..{num_attributes - 1}")
        elif entry.split not in SPLITS:
            listing.problems.append(f"{here} has split '{entry.split}'; expected {', '.join(SPLITS)}")
        else:
            first[entry.image_id] = entry
    listing.entries = sorted(first.values(), key=lambda entry: entry.image_id)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        logger.warning("%s cannot be read: %s", path, error.strerror)
        return b""  # no picture: a failed row with a reason, and an error of `raygen data check`
