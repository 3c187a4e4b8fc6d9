"""Object masks of a run's training images, as a fit reads them: what the masker pool found, by image.

No Ray here: loader processes import this.
"""

# M masks, H height, W width

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.errors import RowError, or_row_error
from raygen.images import decode_mask
from raygen.storage.parquet_bytes import ParquetBytes


@dataclass(frozen=True, slots=True)
class MaskRows:
    """A finished pass of masks; plain data.

    Attributes:
        folder: Where it is.
        digest: Digest of what that folder holds.
    """

    folder: str
    digest: str


class MaskPictures:
    """Masks as grey pictures, white = object; a row that failed has none.

    Args:
        rows: The pass.

    Attributes:
        label: What people call them.
        key: What decides them.
        columns: The Parquet columns that they are read from.
        image_ids: Of which image each is.
    """

    label = "masks"

    def __init__(self, rows: MaskRows) -> None:
        paths, ids, places = sorted(Path(rows.folder).glob("part-*.parquet")), [], []
        for number, path in enumerate(paths):
            file = pq.ParquetFile(path)
            ids += file.read(columns=["image_id"])["image_id"].to_pylist()
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            places += [(number, group, row) for group, size in enumerate(sizes) for row in range(size)]
        place_3M = np.array(places, dtype=np.int32).reshape(-1, 3).T
        self._ids = pa.array(ids, pa.string())
        self.columns = (ParquetBytes("repaint_png", [str(path) for path in paths], *place_3M),)
        self.key: dict[str, Any] = {"masks": rows.digest}

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def image_ids(self) -> list[str]:
        """In order."""
        return list(self._ids.to_pylist())

    def name(self, row: int) -> str:
        """The image's id."""
        return str(self._ids[row].as_py())

    def prepare(self) -> None:
        """Nothing more is needed."""

    def chunks(self) -> list[np.ndarray]:
        """Those of a part together."""
        return self.columns[0].runs()

    def pictures(self, rows: Sequence[int]) -> Iterator[np.ndarray | RowError]:
        """Each mask, (H, W, 3) uint8 of 0 and 255, or why there is none."""
        yield from (or_row_error(_grey, data or b"") for data in self.columns[0].read(rows))


def _grey(data: bytes) -> np.ndarray:
    return np.repeat(decode_mask(data)[..., None].astype(np.uint8) * 255, 3, axis=2)
