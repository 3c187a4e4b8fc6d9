"""Bytes of single rows of Parquet files, against reading the whole files."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.storage import parquet_bytes
from raygen.storage.parquet_bytes import NULL, UNKNOWN, ParquetBytes

rng = np.random.default_rng(0)
# Values that begin alike, that hold each other, that are empty or null.
LONG = rng.bytes(50_000)
VALUES = [LONG, LONG[:40_000], LONG, b"", None, LONG[10:20], b"\x00" * 50, b"\x00" * 51, *map(rng.bytes, range(1, 25))]


@pytest.mark.parametrize(
    ("options", "is_found"),
    [
        ({"compression": "none", "use_dictionary": False}, True),
        ({"compression": "none", "use_dictionary": False, "data_page_size": 100}, True),
        ({"compression": "none", "use_dictionary": False, "data_page_version": "2.0"}, True),
        ({"compression": "none", "use_dictionary": True}, False),
        ({"compression": "zstd", "use_dictionary": False}, False),
    ],
)
@pytest.mark.parametrize("group", [5, 100])
def test_rows_come_as_they_are_in_any_order(
    tmp_path: Path, options: dict[str, object], group: int, is_found: bool
) -> None:
    files = []
    for number in range(2):
        path = tmp_path / f"{number}.parquet"
        table = pa.table({"label": range(len(VALUES)), "picture": pa.array(VALUES[:: 1 - 2 * number], pa.binary())})
        pq.write_table(table, path, row_group_size=group, **options)
        files.append(str(path))
    num = len(VALUES)
    places = [(number, row // group, row % group) for number in range(2) for row in range(num)]
    column = ParquetBytes("picture", files, *zip(*places, strict=True))
    expected = VALUES + VALUES[::-1]
    order = [*rng.permutation(2 * num).tolist(), 3, 3]
    assert column.read(order) == [expected[row] for row in order]
    runs = column.runs()
    assert np.concatenate(runs).tolist() == list(range(2 * num))
    assert all(len({places[row][:2] for row in run}) == 1 for run in runs)
    assert len(runs) == 2 * -(-num // group)
    column.ranges_N2 = column.find(range(2 * num))
    known_N = column.ranges_N2[:, 1] >= 0
    assert (column.ranges_N2[:, 1] == UNKNOWN).any() != is_found
    if is_found:
        assert known_N.tolist() == [value is not None for value in expected]
        assert (column.ranges_N2[~known_N, 1] == NULL).all()
        # Not by the row groups, which are nowhere any more: from the bytes that were found.
        for file in map(Path, files):
            file.write_bytes(file.read_bytes()[:-4] + b"none")
    again = pickle.loads(pickle.dumps(column))
    assert again.read(order) == [expected[row] for row in order]


def test_more_files_than_are_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_bytes, "MAX_OPEN", 2)
    files = [str(tmp_path / f"{number}.parquet") for number in range(4)]
    for number, file in enumerate(files):
        table = pa.table({"picture": pa.array([bytes([number] * 9)], pa.binary())})
        pq.write_table(table, file, compression="none", use_dictionary=False)
    column = ParquetBytes("picture", files, range(4), [0] * 4, [0] * 4)
    order = [0, 1, 2, 3, 0, 3, 1, 0, 2]
    for ranges_N2 in (None, column.find(range(4))):
        column.ranges_N2 = ranges_N2
        assert column.read(order) == [bytes([number] * 9) for number in order]
