"""Units: how a table of rows is cut, loaded and run through stages; no Ray here.

A unit is a fixed number of consecutive rows. It is loaded whole, goes through the stages whole and becomes one file
(`raygen.storage.parts`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raygen.datasets.rows import Location, RowIndex, fetch_located
from raygen.pools.config import PoolConfig, PoolsConfig
from raygen.stages.spec import StageSpec
from raygen.storage.parts import Parts


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit: its number, its rows (without pixels) and where their pixels are."""

    number: int
    rows: pa.Table
    locations: list[Location]


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass of a table of rows through stages.

    Attributes:
        table: Rows in their final order, with `image_id`, without pixels.
        index: The dataset, which holds the pixels.
        source_columns: Columns to fetch from the dataset, such as image_png.
        specs: Stages in order.
        pools: Actors and batch sizes.
        unit_rows: Rows of a unit.
        parts: Where the result goes.
    """

    table: pa.Table
    index: RowIndex
    source_columns: tuple[str, ...]
    specs: Sequence[StageSpec]
    pools: PoolsConfig
    unit_rows: int
    parts: Parts

    def progress(self) -> str:
        """How many rows are done, as a line."""
        num_rows = self.table.num_rows
        return f"{min(self.parts.num_written() * self.unit_rows, num_rows):,} of {num_rows:,} rows"


def num_units(work: Pass) -> int:
    """How many units a pass has."""
    return -(-work.table.num_rows // work.unit_rows)


def cut(work: Pass, numbers: Iterable[int]) -> list[Unit]:
    """Units of a pass, by number."""
    table = work.table.combine_chunks()  # take from several chunks would copy them all, every time
    units = []
    for number in numbers:
        start = number * work.unit_rows
        # take, not slice: a slice drags the whole table along when it is sent to a worker.
        rows = table.take(np.arange(start, min(start + work.unit_rows, table.num_rows)))
        units.append(Unit(number, rows, work.index.locate(rows["image_id"].to_pylist())))
    return units


def load(unit: Unit, columns: Sequence[str], unit_rows: int) -> pa.Table:
    """A unit with its pixels, padded to the full number of rows so that every block is one batch."""
    table = unit.rows.combine_chunks()
    for name in columns:
        if name in table.column_names:
            table = table.drop_columns([name])
    padding = unit_rows - table.num_rows
    status = ["ok"] * table.num_rows + ["padding"] * padding
    if padding:
        table = pa.concat_tables([table, table.slice(0, 1).take([0] * padding)]).combine_chunks()
    pixels = fetch_located(unit.locations, columns)
    for name in columns:
        # Padding has no pictures: no stage looks at it, and copies of a large one would fill the memory.
        field = pixels.schema.field(name)
        table = table.append_column(field, pa.chunked_array([*pixels[name].chunks, pa.nulls(padding, field.type)]))
    table = table.append_column(pa.field("status", pa.string()), pa.array(status))
    table = table.append_column(pa.field("error", pa.string()), pa.nulls(unit_rows, pa.string()))
    return table.append_column(pa.field("unit", pa.int64()), pa.array([unit.number] * unit_rows, pa.int64()))


def actor_arguments(work: Pass, spec: StageSpec) -> tuple[StageSpec, PoolConfig, Path]:
    """What a stage's `PooledStage` is built from."""
    return spec, getattr(work.pools, spec.pool), work.parts.attempts_folder
