"""Reading a dataset's rows: labels of all of them, pixels of the few that are asked for."""

# N rows of the dataset

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.config import fingerprint
from raygen.datasets.files import state
from raygen.datasets.references import read_references, reference_state, why_unread
from raygen.datasets.table import PICTURES, ROWS_PER_GROUP, DatasetInfo, read_info
from raygen.errors import DataError
from raygen.schema import SOURCE, by_bytes, memory_type, widened
from raygen.storage.remote import is_url
from raygen.storage.run_folder import MANIFEST, read_manifest

LABEL_COLUMNS = ("image_id", "path", "label", "attribute", "split", "role")
# What `RowIndex.each` reads at a time.
EACH_ROWS = 512
EACH_BYTES = 256 << 20
# A picture behind a URL counts as so many: a photograph of about a megapixel.
REMOTE_BYTES = 256 << 10

logger = logging.getLogger(__name__)


class Location(NamedTuple):
    """Where one row is: shard file, row group in it, row in the group."""

    shard: str
    row_group: int
    row: int


class RowIndex:
    """Where each row of a dataset is; holds labels and positions, never pixels.

    Args:
        folder: The dataset's folder.
        each_bytes: Bytes of pictures that `each` reads at a time.

    Attributes:
        folder: The dataset's folder.
        dataset: Its names.
        table: Labels, (N,) rows in order of image_id: image_id, path, label, attribute, split, role.

    Raises:
        DataError: Not a dataset folder, a damaged shard, or repeated ids.
    """

    def __init__(self, folder: Path, *, each_bytes: int = EACH_BYTES) -> None:
        self.folder, self._each_bytes = folder, each_bytes
        self.dataset: DatasetInfo = read_info(folder)
        files = sorted(folder.resolve().glob("part-*.parquet"))
        if not files:
            raise DataError(f"{folder} holds no part-*.parquet; make the dataset again with `raygen data make`")
        tables = []
        self._groups: list[tuple[str, int]] = []
        self._group_bytes: list[dict[str, int]] = []
        counts = []
        for path in files:
            try:
                file = pq.ParquetFile(path)
                tables.append(file.read(columns=list(LABEL_COLUMNS)).select(list(LABEL_COLUMNS)))
            except (pa.ArrowInvalid, OSError, KeyError) as error:
                raise DataError(f"{path} cannot be read as a shard of SOURCE rows: {error}") from error
            for group in range(file.num_row_groups):
                metadata = file.metadata.row_group(group)
                counts.append(metadata.num_rows)
                self._groups.append((str(path), group))
                self._group_bytes.append(_picture_bytes(metadata))
        self.table: pa.Table = pa.concat_tables(tables).combine_chunks()
        # Numbers of rows and row groups, not a Location a row: of a million rows these alone would take 200 MB.
        self._group_N = np.repeat(np.arange(len(counts)), counts)
        self._first_G = np.concatenate([[0], np.cumsum(counts)])
        self._row_of = {image_id: row for row, image_id in enumerate(self.table["image_id"].to_pylist())}
        self._has_files = self.table["path"].null_count < self.table.num_rows
        if len(self._row_of) != self.table.num_rows:
            raise DataError(f"{folder}: {self.table.num_rows - len(self._row_of)} image_id(s) occur twice")

    def split(self, name: str) -> pa.Table:
        """Labels of one split."""
        return self.table.filter(pc.equal(self.table["split"], name))

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.dataset.class_names)

    def digest(self) -> str:
        """Changes with any shard: with its digest if the folder's manifest covers it, else with its size and time."""
        manifest, (_, written_ns) = read_manifest(self.folder), state(self.folder / MANIFEST) or (0, 0)
        entries = {} if manifest is None else manifest["files"]
        found: list[Any] = []
        for path in sorted(self.folder.resolve().glob("part-*.parquet")):
            entry, (size, changed_ns) = entries.get(path.name), state(path) or (0, 0)
            if entry is not None and entry["bytes"] == size and changed_ns <= written_ns:
                found.append([path.name, entry["digest"]])
            else:
                found.append([path.name, size, changed_ns])
        return fingerprint(found)

    def locate(self, image_ids: Sequence[str]) -> list[Location]:
        """Where rows are, in the order asked for.

        Raises:
            DataError: An id that the dataset does not have.
        """
        return [self._location(row) for row in self._rows(image_ids)]

    def fetch(self, image_ids: Sequence[str], columns: Sequence[str]) -> pa.Table:
        """Rows in the order asked for, pixels if `image_png` is among the columns; see `locate`, `fetch_located`."""
        return fetch_located(self.locate(image_ids), columns)

    def each(self, image_ids: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Rows as `fetch` gives them, a few at a time: at most EACH_ROWS that lie together.

        Fewer where their pictures come to more than `each_bytes`; those of one row group are never parted.
        """
        runs = self._runs(self._rows(image_ids))
        most = EACH_ROWS // ROWS_PER_GROUP
        pieces = by_bytes(runs, lambda run: self._bytes(run, columns), most=most, most_bytes=self._each_bytes)
        for piece in pieces:
            yield fetch_located([self._location(row) for run in piece for row in run], columns)

    def mean_bytes(self, image_ids: Sequence[str]) -> float:
        """Mean size of these rows' pictures, without their masks, by the row groups that they are in."""
        runs = self._runs(self._rows(image_ids))
        return sum(self._bytes(run, ["image_png"]) for run in runs) / max(1, len(image_ids))

    def _rows(self, image_ids: Sequence[str]) -> list[int]:
        try:
            return [self._row_of[image_id] for image_id in image_ids]
        except KeyError as error:
            raise DataError(f"image '{error.args[0]}' is not in {self.folder}; was the dataset made again?") from None

    def _location(self, row: int) -> Location:
        group = int(self._group_N[row])
        return Location(*self._groups[group], row - int(self._first_G[group]))

    def _runs(self, rows: Sequence[int]) -> list[list[int]]:
        """Rows that follow each other and lie in one row group, together."""
        return [list(run) for _, run in groupby(rows, key=self._group_N.__getitem__)]

    def _bytes(self, run: Sequence[int], columns: Sequence[str]) -> int:
        """Bytes that are read for rows of one row group: all of its pictures, and the rows' own files."""
        sizes = self._group_bytes[self._group_N[run[0]]]
        size = sum(sizes.get(name, 0) for name in columns)
        if self._has_files and "image_png" in columns:
            size += sum(_file_bytes(path) for path in self.table["path"].take(run).to_pylist() if path is not None)
        return size


def fetch_located(locations: Sequence[Location], columns: Sequence[str]) -> pa.Table:
    """Rows at known places, in the order asked for; needs no index, so any worker can do it.

    A row whose picture is a file (`path`) gets the file's bytes; null when the file cannot be read. Pictures and masks
    come as `large_binary`, since together they may have more than 2 GiB.
    """
    wanted = list(dict.fromkeys(["path", *columns]))
    groups: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
    for position, place in enumerate(locations):
        groups[place.shard, place.row_group].append((position, place.row))
    pieces, positions = [], []
    files: dict[str, pq.ParquetFile] = {}
    for (shard, row_group), rows in sorted(groups.items()):
        if shard not in files:
            files[shard] = pq.ParquetFile(shard)
        table = widened(files[shard].read_row_group(row_group, columns=wanted))
        pieces.append(table.take([row for _, row in rows]))
        positions += [position for position, _ in rows]
    if not pieces:
        return widened(pa.schema([SOURCE.field(name) for name in columns]).empty_table())
    table = pa.concat_tables(pieces)
    if positions != sorted(positions):
        table = table.take(np.argsort(positions))
    table = table.combine_chunks()
    if "image_png" in columns:
        table = _with_file_bytes(table)
    return table.select(list(columns))


def _with_file_bytes(table: pa.Table) -> pa.Table:
    paths = table["path"].to_pylist()
    if not any(paths):
        return table
    files = iter(read_references([path for path in paths if path is not None]))
    inlined = table["image_png"].to_pylist()
    # What cannot be read is null, and becomes a failed row with a reason where the picture is decoded.
    found = [data if path is None else next(files) for path, data in zip(paths, inlined, strict=True)]
    if unread := [(path, why) for path, why in zip(paths, found, strict=True) if isinstance(why, OSError)]:
        logger.warning("%d of %d pictures cannot be read; %s", len(unread), len(paths), why_unread(*unread[0]))
    pictures = [None if isinstance(data, OSError) else data for data in found]
    kind = memory_type(pa.binary())
    return table.set_column(table.column_names.index("image_png"), "image_png", pa.array(pictures, kind))


def _picture_bytes(group: pq.RowGroupMetaData) -> dict[str, int]:
    columns = [group.column(i) for i in range(group.num_columns)]
    return {c.path_in_schema: c.total_uncompressed_size for c in columns if c.path_in_schema in PICTURES}


def _file_bytes(path: str) -> int:
    """Its size; 0 where it cannot be read, and a usual one behind a URL, where each would have to be asked for."""
    return REMOTE_BYTES if is_url(path) else (reference_state(path) or (0, 0))[0]
