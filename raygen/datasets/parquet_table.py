"""A table of pictures in Parquet, as pandas and Spark write it: cells become the text that a CSV would have."""

import io
import math
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raygen.datasets.files import printable
from raygen.datasets.table_columns import Table, Wanted, make_table
from raygen.errors import DataError
from raygen.schema import SOURCE


def read_parquet(data: bytes, path: str, *, wanted: Wanted) -> Table:
    """Reads a table; only the columns that are wanted.

    Args:
        data: Bytes of the file.
        path: Its address, for messages.
        wanted: Which columns are looked for.

    Raises:
        DataError: No Parquet, a needed column is absent or twice there or holds no plain values, no row.
    """
    try:
        file = pq.ParquetFile(io.BytesIO(data))
        schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{printable(path)} cannot be read as Parquet: {error}") from error
    _check_kind(schema, path)
    column = wanted.columns(schema.names, path)
    names = [name for name in schema.names if name in column.values()]
    try:
        table = file.read(columns=names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{printable(path)} cannot be read as Parquet: {error}") from error
    if not table.num_rows:
        raise DataError(f"{path} has columns and no row")
    cells = {name: _texts(table[name], name, path) for name in names}
    return make_table(path, "row", schema.names, column, range(table.num_rows), cells)


def _check_kind(schema: pa.Schema, path: str) -> None:
    if {"image_png", "role"} <= {*schema.names} <= {*SOURCE.names}:
        raise DataError(f"{printable(path)} is a shard of a dataset that raygen wrote; give the folder that it is in")
    for field in schema:
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {inner.name for inner in field.type}:
            raise DataError(
                f"{printable(path)}: column '{field.name}' holds the pictures themselves, as Hugging Face's datasets "
                "writes them; read it with dataset.name=hf and dataset.path=the folder that it is in"
            )


def _texts(column: pa.ChunkedArray, name: str, path: str) -> list[str]:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise DataError(f"{path}: column '{name}' is {column.type}; expected words, numbers or true and false")
    return [_text(value) for value in column.to_pylist()]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()
