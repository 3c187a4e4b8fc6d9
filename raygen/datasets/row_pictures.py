"""Pictures of a dataset's rows, in any order, by any process: where they are, without the whole dataset's index."""

# N rows

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raygen.config import fingerprint
from raygen.datasets.references import read_references, reference_state
from raygen.datasets.rows import RowIndex
from raygen.errors import RowError, or_row_error
from raygen.images import decode_image
from raygen.storage.parquet_bytes import ParquetBytes


class RowPictures:
    """Pictures of rows of a dataset.

    Args:
        index: The dataset.
        image_ids: Which rows; numbers of rows below are positions in this.
        label: What people call them.

    Attributes:
        label: What people call them.
        key: What decides the pictures, plain data.
        columns: The Parquet columns that they are read from.

    Raises:
        DataError: An id that the dataset does not have.
    """

    def __init__(self, index: RowIndex, image_ids: Sequence[str], *, label: str) -> None:
        self.label = label
        self._ids = pa.array(image_ids, pa.string())  # compact: a copy goes to every loader process
        self.columns = (located(index, image_ids, "image_png"),)
        self._paths = _paths(index, image_ids)
        self.key: dict[str, Any] = {"rows": index.digest(), "image_ids": fingerprint(list(image_ids))}
        if self._paths is not None:  # files of the user's, which no digest of ours covers
            self.key["files"] = fingerprint([reference_state(path) for path in self._paths.values()])

    def __len__(self) -> int:
        return len(self._ids)

    def name(self, row: int) -> str:
        """The row's image_id."""
        return str(self._ids[row].as_py())

    def prepare(self) -> None:
        """Nothing more is needed."""

    def chunks(self) -> list[np.ndarray]:
        """Numbers of all rows, those that are best read together together."""
        return self.columns[0].runs()

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray | RowError]:
        """Each picture, (H, W, 3) uint8 RGB, or why there is none; in the order asked for."""
        yield from (or_row_error(decode_image, data) for data in self.data(rows))

    def data(self, rows: Sequence[int]) -> list[bytes]:
        """Each picture's file; empty where it cannot be read, which no decoder takes."""
        paths = [None if self._paths is None else self._paths.get(int(row)) for row in rows]
        inlined = iter(self.columns[0].read([row for row, path in zip(rows, paths, strict=True) if path is None]))
        files = iter(read_references([path for path in paths if path is not None]))
        found = [next(inlined) if path is None else next(files) for path in paths]
        return [b"" if data is None or isinstance(data, OSError) else data for data in found]


def located(index: RowIndex, image_ids: Sequence[str], column: str) -> ParquetBytes:
    """A binary column of rows of a dataset, where it is in the dataset's shards.

    Raises:
        DataError: An id that the dataset does not have.
    """
    places = index.locate(image_ids)
    numbers = {shard: number for number, shard in enumerate(sorted({place.shard for place in places}))}
    return ParquetBytes(
        column,
        list(numbers),
        [numbers[place.shard] for place in places],
        [place.row_group for place in places],
        [place.row for place in places],
    )


def _paths(index: RowIndex, image_ids: Sequence[str]) -> dict[int, str] | None:
    """Files of the rows that have one, by number of the row."""
    if index.table["path"].null_count == index.table.num_rows:
        return None
    path_of = dict(zip(index.table["image_id"].to_pylist(), index.table["path"].to_pylist(), strict=True))
    return {row: path for row, image_id in enumerate(image_ids) if (path := path_of[image_id]) is not None}
