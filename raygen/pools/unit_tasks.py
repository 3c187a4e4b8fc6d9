"""Reading units and writing parts as Ray Data does it, in processes that have no model and never load torch."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from ray.data import DataContext, Datasink, Datasource, ReadTask
from ray.data.block import Block, BlockAccessor, BlockMetadata

from raygen.pools.units import Unit, load
from raygen.storage.parts import Parts


class UnitSource(Datasource):
    """Reads units: one task, one block, one unit.

    Args:
        units: What to read.
        columns: Dataset columns to fetch.
        unit_rows: Rows of every block; the last unit is padded.
    """

    def __init__(self, units: Sequence[Unit], columns: Sequence[str], unit_rows: int) -> None:
        self._units, self._columns, self._unit_rows = units, tuple(columns), unit_rows

    def estimate_inmemory_data_size(self) -> int | None:
        """Unknown before the pictures are read."""
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        """One task a unit, whatever parallelism is asked for."""
        metadata = BlockMetadata(num_rows=self._unit_rows, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(partial(_read_unit, unit, self._columns, self._unit_rows), metadata) for unit in self._units]


def _read_unit(unit: Unit, columns: tuple[str, ...], unit_rows: int) -> Iterable[pa.Table]:
    yield load(unit, columns, unit_rows)


class UnitSink(Datasink[None]):
    """Writes units as parts.

    Args:
        parts: Where they go.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def write(self, blocks: Iterable[Block], ctx: Any) -> None:
        """Writes each block as the part of its unit."""
        for block in blocks:
            table = BlockAccessor.for_block(block).to_arrow()
            numbers = set(table["unit"].to_pylist())
            assert len(numbers) == 1, f"a block holds rows of units {sorted(numbers)}"
            self._parts.write(table)
