"""Numbers of rows by their ids, in a fraction of the memory of a dict: of a million ids that has some 200 MB."""

# N rows

import bisect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Ids are looked up one by one where fewer than one in so many rows is asked for; else all at once, with a hash table.
FEW = 64


class RowsById:
    """Rows by id.

    Args:
        ids: Id of each row, (N,) string; quickest in sorted order.

    Attributes:
        num_repeated: Rows whose id another has before them.
    """

    def __init__(self, ids: pa.ChunkedArray) -> None:
        array = ids.combine_chunks() if ids.num_chunks != 1 else ids.chunk(0)
        order = None if _is_sorted(array) else pc.sort_indices(array)
        self._order_N: np.ndarray | None = None if order is None else order.to_numpy()
        self._sorted = array if order is None else array.take(order)
        self.num_repeated = 0 if order is None else len(array) - pc.count_distinct(array).as_py()

    def rows(self, ids: Sequence[str]) -> list[int]:
        """Row of each id, in the order asked for.

        Raises:
            KeyError: There is no such id.
        """
        if len(ids) * FEW < len(self._sorted):
            found_N = np.array([self._one(image_id) for image_id in ids], dtype=np.int64)
        else:
            found = pc.index_in(pa.array(ids, pa.string()), value_set=self._sorted)
            if found.null_count:
                raise KeyError(ids[pc.index(pc.is_null(found), True).as_py()])
            found_N = found.to_numpy()
        found_N = found_N if self._order_N is None else self._order_N[found_N]
        return [int(row) for row in found_N]

    def _one(self, image_id: str) -> int:
        texts = Texts(self._sorted)
        row = bisect.bisect_left(texts, image_id)
        if row == len(texts) or texts[row] != image_id:
            raise KeyError(image_id)
        return row


class Texts(Sequence[str]):
    """An array of strings as `bisect` wants it: a list of Python's would take several times the memory.

    Args:
        array: Sorted strings.
    """

    def __init__(self, array: pa.StringArray) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: Any) -> Any:
        return self._array[row].as_py()


def _is_sorted(array: pa.StringArray) -> bool:
    """Whether each is above the one before it."""
    return len(array) < 2 or bool(pc.all(pc.less(array[:-1], array[1:])).as_py())
