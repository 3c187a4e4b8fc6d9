"""Files of features: what is read, and what is wrong with one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.datasets.feature_file import read_features
from raygen.errors import DataError

ROWS = {
    "id": ["a", "b", "c", "d"],
    "features": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]],
    "label": [0, 1, 1, 0],
    "attribute": [2, 0, None, 1],
    "split": ["train", "val", "val", "test"],
}


def write(path: Path, **changes: Any) -> Path:
    pq.write_table(pa.table({name: column for name, column in {**ROWS, **changes}.items() if column is not None}), path)
    return path


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.float16()), pa.list_(pa.int8())]
)
def test_rows_are_read_as_they_stand(tmp_path: Path, kind: pa.DataType) -> None:
    features = pa.array(ROWS["features"], pa.list_(pa.float32())).cast(kind)
    found = read_features(write(tmp_path / "f.parquet", features=features))
    assert found.features_ND.tolist() == ROWS["features"]
    assert found.features_ND.dtype == np.float64
    assert (found.num_classes, found.num_attributes) == (2, 3)
    assert found.rows("val").tolist() == [1, 2]
    assert found.table["attribute"].to_pylist() == ROWS["attribute"]
    for absent in (None, pa.nulls(4)):
        without = read_features(write(tmp_path / "g.parquet", attribute=absent))
        assert without.num_attributes == 0
        assert without.table["attribute"].null_count == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": None, "split": None}, "has no column features and no column split; it has id, label, attribute"),
        ({"features": [1.0, 2.0, 3.0, 4.0]}, "column features is of type double; it has to be a list of numbers"),
        ({"features": [["x"]] * 4}, "column features is of type list<"),
        (
            {"features": [[1.0, 2.0], [1.0, 2.0], [1.0], [1.0, 2.0]]},
            r"row 2 \(id 'c'\) has 1 features, the first",
        ),
        ({"features": [[1.0], None, [1.0], [1.0]]}, r"row 1 \(id 'b'\) has none features"),
        ({"features": pa.array([[]] * 4, pa.list_(pa.float32()))}, r"row 0 \(id 'a'\) has no features"),
        ({"features": [[1.0], [2.0], [3.0], [float("nan")]]}, r"row 3 \(id 'd'\) has a feature that is not a finite"),
        ({"features": [[1.0], [None], [3.0], [1.0]]}, r"row 1 \(id 'b'\) has a feature that is not a finite"),
        ({"features": [[1.0], [float("inf")], [3.0], [1.0]]}, r"row 1 \(id 'b'\) has a feature that is not a finite"),
        ({"label": [0, 1, None, 1]}, r"row 2 \(id 'c'\) has no label"),
        ({"label": [0, 1, -1, 1]}, r"row 2 \(id 'c'\) has a label below 0"),
        ({"label": [0, 1, 7, 1]}, r"row 2 \(id 'c'\) has a label above the number of rows"),
        ({"label": [0.0, 1.0, 1.0, 1.0]}, "column label is of type double; it has to be whole numbers"),
        ({"label": [0, 0, 0, 0]}, "every label is 0"),
        ({"attribute": [0, -1, 1, 1]}, r"row 1 \(id 'b'\) has an attribute below 0"),
        ({"split": ["train", "val", "dev", "test"]}, r"row 2 \(id 'c'\) is of another split than train, val or test"),
        ({"id": ["a", "b", "a", "d"]}, "id 'a' stands in 2 rows"),
        ({name: pa.array([], pa.array(column).type) for name, column in ROWS.items()}, "has no row"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "f.parquet", **changes)
    with pytest.raises(DataError, match=message) as found:
        read_features(path)
    assert str(path) in str(found.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda path: None, "no such file"), (lambda path: path.write_text("id,features"), "is damaged")],
)
def test_what_is_no_file_of_features_is_named(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    path = tmp_path / "f.parquet"
    make(path)
    with pytest.raises(DataError, match=message):
        read_features(path)
