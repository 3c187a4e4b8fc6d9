"""Bytes of single rows of Parquet files, in any order: a fit's pictures are asked for at random.

Parquet is read by row groups, so a picture at random costs all pictures of its group. Our own files hold pictures
uncompressed (they are compressed already), so each lies in its file as it is: where, can be found once (`find`), and
from then on a picture is one read of its own bytes.
"""

# N rows, B rows that are asked for

import os
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq

# Files that are held open at once.
MAX_OPEN = 64
# In a range: not found, so its row group is read; and a null, which has no bytes.
UNKNOWN, NULL = -1, -2
# Bytes of a value by which it is looked for, beside its length.
_PROBE = 32


class ParquetBytes:
    """A binary column of some rows of some Parquet files.

    Args:
        column: Its name.
        files: Paths of the files.
        file_N: Which file each row is in, (N,) int.
        group_N: Its row group there, (N,) int.
        row_N: Its row in the group, (N,) int.

    Attributes:
        ranges_N2: Offset and length of each row's bytes in its file, (N, 2) int64, or UNKNOWN or NULL as length; None
            where nothing is known.
    """

    def __init__(
        self, column: str, files: Sequence[str], file_N: Sequence[int], group_N: Sequence[int], row_N: Sequence[int]
    ) -> None:
        self._column, self._paths = column, tuple(files)
        self._place_N3 = np.stack([np.asarray(part, dtype=np.int32) for part in (file_N, group_N, row_N)], axis=1)
        self.ranges_N2: np.ndarray | None = None
        self._open: dict[int, pq.ParquetFile] = {}
        self._descriptors: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._place_N3)

    def __getstate__(self) -> dict[str, object]:
        """Without open files: each process has its own."""
        return {**self.__dict__, "_open": {}, "_descriptors": {}}

    def __del__(self) -> None:
        for descriptor in self.__dict__.get("_descriptors", {}).values():
            os.close(descriptor)

    def runs(self) -> list[np.ndarray]:
        """All rows, those that follow each other in one row group together."""
        if not len(self):
            return []
        changes = np.flatnonzero((np.diff(self._place_N3[:, :2], axis=0) != 0).any(axis=1)) + 1
        return np.split(np.arange(len(self)), changes)

    def read(self, rows: Sequence[int]) -> list[bytes | None]:
        """Bytes of rows, in the order asked for; None for a null."""
        found: list[bytes | None] = [None] * len(rows)
        unknown = []
        for i, row in enumerate(rows):
            offset, length = (0, UNKNOWN) if self.ranges_N2 is None else self.ranges_N2[row].tolist()
            if length >= 0:
                found[i] = os.pread(self._descriptor(int(self._place_N3[row, 0])), length, offset)
            elif length == UNKNOWN:
                unknown.append(i)
        for (file, group), wanted in self._by_group([rows[i] for i in unknown]).items():
            values = self._file(file).read_row_group(group, columns=[self._column])[self._column]
            for i in wanted:
                found[unknown[i]] = values[int(self._place_N3[rows[unknown[i]], 2])].as_py()
        return found

    def find(self, rows: Sequence[int]) -> np.ndarray:
        """Where the bytes of rows are in their files, (B, 2) as `ranges_N2` has them; reads their row groups."""
        ranges_B2 = np.full((len(rows), 2), UNKNOWN, dtype=np.int64)
        for (file, group), wanted in self._by_group(rows).items():
            found = self._ranges(file, group)
            for i in wanted:
                ranges_B2[i] = found.get(int(self._place_N3[rows[i], 2]), (0, UNKNOWN))
        return ranges_B2

    def _by_group(self, rows: Sequence[int]) -> dict[tuple[int, int], list[int]]:
        """Positions among these rows, by file and row group."""
        by_group: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            file, group, _ = self._place_N3[row].tolist()
            by_group[file, group].append(i)
        return by_group

    def _ranges(self, file: int, group: int) -> dict[int, tuple[int, int]]:
        """Offset and length in the file of each row of a row group, as far as they are found."""
        parquet = self._file(file)
        chunk = parquet.metadata.row_group(group).column(parquet.schema_arrow.get_field_index(self._column))
        if chunk.compression != "UNCOMPRESSED" or chunk.has_dictionary_page:
            return {}
        raw = os.pread(self._descriptor(file), chunk.total_compressed_size, chunk.data_page_offset)
        values = parquet.read_row_group(group, columns=[self._column])[self._column]
        ranges: dict[int, tuple[int, int]] = {}
        at = 0
        for row, value in enumerate(values.to_pylist()):
            if value is None:
                ranges[row] = (0, NULL)
            elif (start := _start_of(value, raw, at)) == UNKNOWN:
                break
            else:
                ranges[row], at = (chunk.data_page_offset + start, len(value)), start + len(value)
        return ranges

    def _file(self, number: int) -> pq.ParquetFile:
        if number not in self._open:
            if len(self._open) >= MAX_OPEN:
                del self._open[next(iter(self._open))]
            self._open[number] = pq.ParquetFile(self._paths[number])
        return self._open[number]

    def _descriptor(self, number: int) -> int:
        if number not in self._descriptors:
            if len(self._descriptors) >= MAX_OPEN:
                os.close(self._descriptors.pop(next(iter(self._descriptors))))
            self._descriptors[number] = os.open(self._paths[number], os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptors[number]


def _start_of(value: bytes, raw: bytes, at: int) -> int:
    """Where a value begins in a column's bytes at or after `at`, as PLAIN encoding has it; UNKNOWN if nowhere."""
    probe = len(value).to_bytes(4, "little") + value[:_PROBE]
    while (found := raw.find(probe, at)) >= 0:
        start = found + 4
        if raw[start : start + len(value)] == value:
            return start
        at = found + 1
    return UNKNOWN
