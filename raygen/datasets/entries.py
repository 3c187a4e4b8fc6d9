"""One picture of a folder, not read yet, and all of them with what is wrong."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import attrgetter
from pathlib import PurePath
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.config import fingerprint_of_many
from raygen.datasets.files import printable
from raygen.datasets.pairs import PairFile
from raygen.datasets.places import Place
from raygen.datasets.references import open_reference, read_reference, read_references, reference_state, why_unread
from raygen.datasets.table import DatasetInfo
from raygen.errors import DataError, RowError
from raygen.schema import SOURCE, SPLITS
from raygen.storage.remote import is_url

# At a time, of a shard that is read from end to end.
READ_ROWS = 64
READ_BYTES = 256 << 20
# Of a store, whose object masks are read several at a time.
REMOTE_ROWS = 64


class MaskSource(Protocol):
    """An object mask that is no picture file of its own, but follows from other files or from numbers.

    Its `repr` says all that it follows from, but for what the files hold.
    """

    @property
    def files(self) -> Sequence[str]:
        """Paths or URLs of the files that it is read from, beside the picture."""
        ...

    def png(self, picture: bytes) -> bytes:
        """The mask as PNG, 255 where the object is, of the picture's size.

        Args:
            picture: The encoded picture.

        Raises:
            OSError: A file cannot be read.
            RowError: A file or the picture cannot be decoded, or they do not fit.
        """
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One picture, not read yet.

    Attributes:
        image_id: Its id: its file's path in the folder, without the suffix.
        label: Class.
        attribute: Spurious attribute, or None.
        split: train, val or test.
        picture: Path or URL of its file, or of the shard that holds it.
        object: Path or URL of its object mask, or None.
        where: Where it is named, for messages.
        mask: What its object mask follows from where `object` is None; None where it has no mask at all.
    """

    image_id: str
    label: int
    attribute: int | None
    split: str
    picture: str
    object: str | None
    where: str
    mask: MaskSource | None = None


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
        place: The folder, which knows the state of files that are not on this machine; None where all are.
        inline: Whether rows hold the pictures' bytes, where these are on this machine; else they hold their paths.
        unread: Files that could not be read, with the reason, by the image's id; grows as `rows` is read.
        source: What gives the rows, where they are neither files nor in shards.
        pairs: The same objects before another background, by image_id, where the layout has such pictures.
    """

    info: DatasetInfo
    entries: list[Entry] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    shards: list[str] = field(default_factory=list)
    class_folders: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    place: Place | None = None
    inline: bool = True
    unread: dict[str, str] = field(default_factory=dict)
    source: RowSource | None = None
    pairs: dict[str, PairFile] = field(default_factory=dict)

    def digest(self) -> str:
        """Changes with any label, attribute, split or name, and with the size or time of any file."""
        if self.source is not None:
            labels = ((entry.image_id, entry.label, entry.attribute, entry.split) for entry in self.entries)
            return fingerprint_of_many(asdict(self.info), labels, iter([self.source.state()]))
        files: Iterable[str] = self.shards or (
            path
            for entry in self.entries
            for path in (entry.picture, entry.object, *(() if entry.mask is None else entry.mask.files))
            if path is not None
        )
        state = reference_state if self.place is None else self.place.state
        # A file that is gone since it was listed has no state; it becomes a failed row.
        found = ((path, *(state(path) or ())) for path in files)
        rows = (
            # Nothing is added where masks are files, so that what was fingerprinted once stays the same.
            (entry.image_id, entry.label, entry.attribute, entry.split, *([repr(entry.mask)] if entry.mask else []))
            for entry in self.entries
        )
        return fingerprint_of_many(asdict(self.info), rows, found)

    def counts(self) -> Counter[tuple[str, int, int | None]]:
        """Images per (split, label, attribute)."""
        return Counter((entry.split, entry.label, entry.attribute) for entry in self.entries)

    def missing_splits(self) -> list[str]:
        """One line for each split without which no run is possible; without test images, validation is reported."""
        there = {entry.split for entry in self.entries}
        return [f"no image in split {split}; every run needs some" for split in ("train", "val") if split not in there]

    def rows(self, *, read_bytes: int = READ_BYTES) -> Iterator[dict[str, Any]]:
        """SOURCE rows of the entries, sorted; one row, or a few of a shard or of a store, in memory at a time.

        Pictures behind URLs are not read, and their rows have the URL as their path; object masks are always read.
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
        num_rows = REMOTE_ROWS if self.is_remote else 1
        for first in range(0, len(self.entries), num_rows):
            entries = self.entries[first : first + num_rows]
            listed = [not self.inline or is_url(entry.picture) for entry in entries]
            pictures = self._bytes(
                # A mask that is made is made for its picture.
                [
                    None if is_listed and e.mask is None else e.picture
                    for e, is_listed in zip(entries, listed, strict=True)
                ],
                entries,
            )
            masks = self._bytes([entry.object for entry in entries], entries)
            for entry, is_listed, picture, mask in zip(entries, listed, pictures, masks, strict=True):
                yield {
                    "image_id": entry.image_id,
                    "image_png": None if is_listed else picture,
                    "path": _full(entry.picture) if is_listed else None,
                    "label": entry.label,
                    "attribute": entry.attribute,
                    "split": entry.split,
                    "role": "source",
                    "object_png": mask if entry.mask is None else self._mask(entry, picture),
                }

    @property
    def is_remote(self) -> bool:
        """Whether any picture is behind a URL."""
        return any(is_url(entry.picture) for entry in self.entries)

    def _rows_of_shards(self, read_bytes: int) -> Iterator[dict[str, Any]]:
        wanted, absent = {entry.image_id for entry in self.entries}, dict.fromkeys(SOURCE.names)
        for shard in self.shards:
            try:
                for batch in _batches(pq.ParquetFile(open_reference(shard)), read_bytes):
                    yield from ({**absent, **row} for row in batch.to_pylist() if row["image_id"] in wanted)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                raise DataError(f"{printable(shard)} cannot be read as a shard of SOURCE rows: {error}") from error

    def _bytes(self, paths: Sequence[str | None], entries: Sequence[Entry]) -> list[bytes | None]:
        """Bytes of one file of each entry, where it has one; remote files several at a time."""
        found = iter(read_references([path for path in paths if path is not None]))
        return [
            None if path is None else self._or_unread(path, next(found), entry)
            for path, entry in zip(paths, entries, strict=True)
        ]

    def _or_unread(self, path: str, found: bytes | OSError, entry: Entry) -> bytes:
        if not isinstance(found, OSError):
            return found
        self._note_unread(entry, why_unread(path, found))
        return b""  # no picture: a failed row with a reason, and an error of `raygen data check`

    def _mask(self, entry: Entry, picture: bytes | None) -> bytes | None:
        """The mask that follows from others, for which the picture is read too where rows name it only."""
        if entry.mask is None or picture == b"":
            return None
        try:
            return entry.mask.png(read_reference(entry.picture) if picture is None else picture)
        except OSError as error:
            self._note_unread(entry, why_unread(", ".join((entry.picture, *entry.mask.files)), error))
        except RowError as error:
            self._note_unread(entry, f"the object mask cannot be made: {error}")
        return b""

    def _note_unread(self, entry: Entry, reason: str) -> None:
        before = f"{self.unread[entry.image_id]}; " if entry.image_id in self.unread else ""
        self.unread[entry.image_id] = before + reason


def take_usable(listing: Listing, entries: Iterable[Entry]) -> None:
    """Sorts entries into those with a known label and a new id, and problems."""
    first: dict[str, Entry] = {}
    num_classes, num_attributes = len(listing.info.class_names), len(listing.info.attribute_names)
    names = ", ".join(listing.info.class_names[:20]) + (", ..." if num_classes > 20 else "")
    found = list(entries)
    twice = _repeated(found)
    usable = []
    for entry in found:
        seen = first.get(entry.image_id)
        if seen is not None:
            listing.problems.append(f"{_here(entry)} occurs twice; first in {seen.where}")
        elif not 0 <= entry.label < num_classes:
            listing.problems.append(f"{_here(entry)} has label {entry.label}; expected 0..{num_classes - 1} ({names})")
        elif entry.attribute is not None and not 0 <= entry.attribute < num_attributes:
            listing.problems.append(f"{_here(entry)} has attribute {entry.attribute}; expected 0..{num_attributes - 1}")
        elif entry.split not in SPLITS:
            listing.problems.append(f"{_here(entry)} has split '{entry.split}'; expected {', '.join(SPLITS)}")
        else:
            usable.append(entry)
            if entry.image_id in twice:
                first[entry.image_id] = entry
    usable.sort(key=attrgetter("image_id"))
    listing.entries = usable


def _repeated(entries: list[Entry]) -> set[str]:
    """Ids that occur more than once, after those of files that differ in their suffix only have got it.

    Sets of ids, and no table of all entries by their ids: of a million, each such table has some hundred megabytes.
    """
    twice = _twice(entries)
    if not twice:
        return twice
    suffixes: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry.image_id in twice:
            suffixes[entry.image_id].add(_suffix(entry))
    for number, entry in enumerate(entries):
        if len(suffixes.get(entry.image_id, ())) > 1:  # a.png and a.jpg
            entries[number] = replace(entry, image_id=entry.image_id + _suffix(entry))
    return _twice(entries)


def _twice(entries: Iterable[Entry]) -> set[str]:
    seen, twice = set[str](), set[str]()
    for entry in entries:
        (twice if entry.image_id in seen else seen).add(entry.image_id)
    return twice


def _here(entry: Entry) -> str:
    return f"{entry.where}: image_id '{entry.image_id}'"


def _full(path: str) -> str:
    """The path as any process finds it, wherever it works."""
    return path if is_url(path) else os.path.abspath(path)


def _suffix(entry: Entry) -> str:
    return PurePath(entry.picture).suffix


def _batches(file: pq.ParquetFile, read_bytes: int) -> Iterator[pa.RecordBatch]:
    """The rows of a shard: READ_ROWS at a time, or fewer where their mean size is above the usual."""
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        num_rows = read_bytes * group.num_rows // max(1, group.total_byte_size)
        yield from file.iter_batches(max(1, min(READ_ROWS, num_rows)), row_groups=[number])
