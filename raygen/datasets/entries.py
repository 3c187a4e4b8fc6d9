"""One picture of a folder, not read yet, and all of them with what is wrong."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.config import fingerprint
from raygen.datasets.files import printable, read_file, state
from raygen.datasets.table import DatasetInfo
from raygen.errors import DataError
from raygen.schema import SOURCE, SPLITS

# At a time, of a shard that is read from end to end.
READ_ROWS = 64
READ_BYTES = 256 << 20


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


class RowSource(Protocol):
    """What holds rows that are no files of their own."""

    def rows(self, entries: Sequence[Entry], unread: dict[str, str]) -> Iterator[dict[str, Any]]:
        """SOURCE rows of entries; see `Listing.rows`."""
        ...

    def state(self) -> Any:
        """Plain data that changes with what is in it."""
        ...


@dataclass
class Listing:
    """A folder's pictures.

    Attributes:
        info: Names; those that were not given are counted off.
        entries: What can be used, sorted by image_id, each id once.
        problems: One line for each picture that cannot be used.
        shards: Files that hold the rows themselves; empty where pictures are files of their own.
        class_folders: Folder of each class, in order of label; empty where classes are numbers.
        warnings: What is legal and probably not meant.
        notes: Where names come from, and what was left out as ever.
        unread: Files that could not be read, with the reason, by the image's id; grows as `rows` is read.
        source: What gives the rows, where they are neither files nor in shards.
    """

    info: DatasetInfo
    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shards: list[Path] = field(default_factory=list)
    class_folders: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    source: RowSource | None = None

    def digest(self) -> str:
        """Changes with any label, attribute, split or name, and with the size or time of any file."""
        if self.source is not None:
            labels = [(entry.image_id, entry.label, entry.attribute, entry.split) for entry in self.entries]
            return fingerprint([asdict(self.info), labels, self.source.state()])
        files = [*self.shards] or [
            path for entry in self.entries for path in (entry.picture, entry.object) if path is not None
        ]
        # A file that is gone since it was listed has no state; it becomes a failed row.
        found = [(str(path), *(state(path) or ())) for path in files]
        rows = [(entry.image_id, entry.label, entry.attribute, entry.split) for entry in self.entries]
        return fingerprint([asdict(self.info), rows, found])

    def counts(self) -> Counter[tuple[str, int, int | None]]:
        """Images per (split, label, attribute)."""
        return Counter((entry.split, entry.label, entry.attribute) for entry in self.entries)

    def missing_splits(self) -> list[str]:
        """One line for each split without which no run is possible; without test images, validation is reported."""
        there = {entry.split for entry in self.entries}
        return [f"no image in split {split}; every run needs some" for split in ("train", "val") if split not in there]

    def rows(self, *, read_bytes: int = READ_BYTES) -> Iterator[dict[str, Any]]:
        """SOURCE rows of the entries, with pictures; one row, or a few of a shard, in memory at a time.

        A file that cannot be read gives empty bytes, which no decoder takes, and its reason in `unread`.

        Args:
            read_bytes: Bytes of a shard's rows in memory at a time, if they are of its usual size.

        Raises:
            DataError: A shard is damaged.
        """
        if self.source is not None:
            yield from self.source.rows(self.entries, self.unread)
            return
        if self.shards:
            yield from self._rows_of_shards(read_bytes)
            return
        for entry in self.entries:
            yield {
                "image_id": entry.image_id,
                "image_png": self._bytes(entry, entry.picture),
                "label": entry.label,
                "attribute": entry.attribute,
                "split": entry.split,
                "role": "source",
                "object_png": None if entry.object is None else self._bytes(entry, entry.object),
            }

    def _rows_of_shards(self, read_bytes: int) -> Iterator[dict[str, Any]]:
        wanted, absent = {entry.image_id for entry in self.entries}, dict.fromkeys(SOURCE.names)
        for shard in self.shards:
            try:
                for batch in _batches(pq.ParquetFile(shard), read_bytes):
                    yield from ({**absent, **row} for row in batch.to_pylist() if row["image_id"] in wanted)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise DataError(f"{printable(shard)} cannot be read as a shard of SOURCE rows: {error}") from error

    def _bytes(self, entry: Entry, path: Path) -> bytes:
        try:
            return read_file(path)
        except OSError as error:
            before = f"{self.unread[entry.image_id]}; " if entry.image_id in self.unread else ""
            self.unread[entry.image_id] = f"{before}{printable(path)} cannot be read: {error.strerror}"
            return b""  # no picture: a failed row with a reason, and an error of `raygen data check`


def take_usable(listing: Listing, entries: Sequence[Entry]) -> None:
    """Sorts entries into those with a known label and a new id, and problems."""
    first: dict[str, Entry] = {}
    num_classes, num_attributes = len(listing.info.class_names), len(listing.info.attribute_names)
    names = ", ".join(listing.info.class_names[:20]) + (", ..." if num_classes > 20 else "")
    for entry in _unique(entries):
        here, seen = f"{entry.where}: image_id '{entry.image_id}'", first.get(entry.image_id)
        if seen is not None:
            listing.problems.append(f"{here} occurs twice; first in {seen.where}")
        elif not 0 <= entry.label < num_classes:
            listing.problems.append(f"{here} has label {entry.label}; expected 0..{num_classes - 1} ({names})")
        elif entry.attribute is not None and not 0 <= entry.attribute < num_attributes:
            listing.problems.append(f"{here} has attribute {entry.attribute}; expected 0..{num_attributes - 1}")
        elif entry.split not in SPLITS:
            listing.problems.append(f"{here} has split '{entry.split}'; expected {', '.join(SPLITS)}")
        else:
            first[entry.image_id] = entry
    listing.entries = sorted(first.values(), key=lambda entry: entry.image_id)


def _unique(entries: Sequence[Entry]) -> list[Entry]:
    """The entries; where names differ in their suffix only (a.png and a.jpg), ids keep it."""
    suffixes: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        suffixes[entry.image_id].add(entry.picture.suffix)
    return [
        replace(entry, image_id=entry.image_id + entry.picture.suffix) if len(suffixes[entry.image_id]) > 1 else entry
        for entry in entries
    ]


def _batches(file: pq.ParquetFile, read_bytes: int) -> Iterator[pa.RecordBatch]:
    """The rows of a shard: READ_ROWS at a time, or fewer where their mean size is above the usual."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        num_rows = read_bytes * group.num_rows // max(1, group.total_byte_size)
        yield from file.iter_batches(max(1, min(READ_ROWS, num_rows)), row_groups=[number])
