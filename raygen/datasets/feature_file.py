"""Features of any model, a text model's too, in a Parquet file: what last-layer methods need of a dataset."""

# N rows, D features

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.errors import DataError, unreadable

SPLITS = ("train", "val", "test")
NEEDED = ("id", "features", "label", "split")
# Rows that are read at once.
BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class FeatureFile:
    """What a file of features holds.

    Attributes:
        table: id, label, attribute (null where none is known) and split, (N,) rows as they stand.
        features_ND: (N, D) float64.
        num_classes: C, the highest label + 1.
        num_attributes: The highest attribute + 1; 0 where none is known.
    """

    table: pa.Table
    features_ND: np.ndarray
    num_classes: int
    num_attributes: int

    def rows(self, split: str) -> np.ndarray:
        """Positions of a split's rows, (M,) int."""
        return np.flatnonzero(pc.equal(self.table["split"], split).to_numpy(zero_copy_only=False))


def read_features(path: Path) -> FeatureFile:
    """Reads and checks a file of the columns id, features (a list of numbers), label, split and, optionally, attribute.

    Labels and attributes are whole numbers from 0 on; a split is train, val or test.

    Raises:
        DataError: It is no Parquet file, lacks a column or has one of another type, or a row is wrong; it is named.
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Give a Parquet file with the columns {', '.join(NEEDED)}") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(unreadable(path, error, "Give a Parquet file.")) from error
    with file:
        table = _labels(file, path)
        features_ND = np.concatenate([*_features(file, path)]) if table.num_rows else np.zeros((0, 0))
    if not table.num_rows:
        raise DataError(f"{path} has no row")
    attributes = pc.max(table["attribute"]).as_py()
    num_classes = pc.max(table["label"]).as_py() + 1
    if num_classes < 2:
        raise DataError(f"{path}: every label is 0; a classifier tells at least two classes apart")
    return FeatureFile(table, features_ND, num_classes, 0 if attributes is None else attributes + 1)


def _labels(file: pq.ParquetFile, path: Path) -> pa.Table:
    schema = file.schema_arrow
    if missing := [name for name in NEEDED if name not in schema.names]:
        raise DataError(
            f"{path} has no column {' and no column '.join(missing)}; it has {', '.join(schema.names) or 'none'}. "
            f"Needed are {', '.join(NEEDED)}, and attribute where it is known"
        )
    kind = schema.field("features").type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise DataError(
            f"{path}: column features is of type {kind}; it has to be a list of numbers, such as list<float>"
        )
    names = [name for name in ("id", "label", "attribute", "split") if name in schema.names]
    table = file.read(columns=names)
    columns: dict[str, Any] = {"id": pc.cast(table["id"], pa.string()), "split": pc.cast(table["split"], pa.string())}
    for name in ("label", "attribute"):
        if name not in names:
            columns[name] = pa.nulls(table.num_rows, pa.int64())
            continue
        if not (pa.types.is_integer(schema.field(name).type) or pa.types.is_null(schema.field(name).type)):
            raise DataError(f"{path}: column {name} is of type {schema.field(name).type}; it has to be whole numbers")
        columns[name] = pc.cast(table[name], pa.int64())
    found = pa.table({name: columns[name] for name in ("id", "label", "attribute", "split")})
    _check_rows(found, path)
    return found


def _check_rows(table: pa.Table, path: Path) -> None:
    ids = table["id"]

    def first(wrong: Any, what: str) -> None:
        rows = np.flatnonzero(pc.fill_null(wrong, True).to_numpy(zero_copy_only=False))
        if len(rows):
            raise DataError(f"{path}: row {rows[0]} (id {ids[int(rows[0])].as_py()!r}) {what}")

    for name in ("id", "label", "split"):
        first(table[name].is_null(), f"has no {name}")
    first(pc.less(table["label"], 0), "has a label below 0; labels are 0, 1, ...")
    first(
        pc.less(pc.fill_null(table["attribute"], 0), 0), "has an attribute below 0; leave it null where none is known"
    )
    first(
        pc.invert(pc.is_in(table["split"], pa.array(SPLITS))),
        "is of another split than train, val or test",
    )
    first(pc.greater_equal(table["label"], max(2, table.num_rows)), "has a label above the number of rows")
    counts = pc.value_counts(ids.combine_chunks())
    for entry in counts.filter(pc.greater(counts.field("counts"), 1))[:1]:
        raise DataError(f"{path}: id {entry['values'].as_py()!r} stands in {entry['counts'].as_py()} rows")


def _features(file: pq.ParquetFile, path: Path) -> Iterator[np.ndarray]:
    """Features of some rows after others, each (rows, D)."""
    width, start = None, 0
    for batch in file.iter_batches(BATCH_ROWS, columns=["id", "features"]):
        lists = batch.column("features")

        def name(row: int, batch: pa.RecordBatch = batch, start: int = start) -> str:
            return f"{path}: row {start + row} (id {str(batch.column('id')[row].as_py())!r})"

        lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
        width = int(lengths[0]) if width is None else width
        if width < 1:
            raise DataError(f"{name(0)} has no features")
        for row in np.flatnonzero(lengths != width)[:1]:
            found = "none" if lengths[row] < 0 else str(lengths[row])
            raise DataError(f"{name(row)} has {found} features, the first row has {width}")
        values = pc.cast(pc.list_flatten(lists), pa.float64())
        rows_ND = pc.fill_null(values, float("nan")).to_numpy(zero_copy_only=False).reshape(-1, width)
        for row in np.flatnonzero(~np.isfinite(rows_ND).all(axis=1))[:1]:
            raise DataError(f"{name(row)} has a feature that is not a finite number")
        yield rows_ND
        start += len(rows_ND)
