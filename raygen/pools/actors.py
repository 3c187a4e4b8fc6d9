"""Stages dressed for pools: a unit comes as an Arrow table, goes through in calls of fixed size, and leaves whole."""

# U rows of a unit, B rows of a call

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch

from raygen.errors import ResourceError
from raygen.pools.config import PoolConfig
from raygen.schema import CANDIDATE, SCORE, SOURCE, memory_type
from raygen.stages.spec import Batch, PoolName, Stage, StageSpec, fail_row, object_column, ok_rows, with_own_status
from raygen.storage.attempts import Attempts

_COLUMN_TYPES = {field.name: memory_type(field.type) for schema in (SOURCE, SCORE, CANDIDATE) for field in schema}


class PooledStage:
    """One actor's stage: built once, it takes and gives whole units, and fixes the threads.

    Untouched columns stay as they are: through numpy a null integer would become NaN.

    Args:
        spec: The stage.
        pool: Rows of a call, and threads.
        attempts_folder: Where workers note what they are about to do; see `raygen.storage.attempts`.
    """

    def __init__(self, spec: StageSpec, pool: PoolConfig, attempts_folder: Path) -> None:
        self._spec, self._pool, self._attempts_folder = spec, pool, attempts_folder
        torch.set_num_threads(pool.num_threads)
        try:
            self._stage: Stage = spec.stage(**spec.kwargs)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"pool {spec.pool} ran out of GPU memory while it loaded its model; give its actors a larger share of "
                f"a GPU (pools.{spec.pool}.num_gpus), or take a smaller dtype"
            ) from error

    def __call__(self, table: pa.Table) -> pa.Table:
        """The unit with the stage's columns.

        Raises:
            ResourceError: A GPU ran out of memory.
        """
        torch.set_num_threads(self._pool.num_threads)  # a library may have changed it
        names = sorted(self._spec.reads | {"status", "error"})
        unit: Batch = {name: _to_numpy(table[name]) for name in names}
        attempts = Attempts(self._attempts_folder, self._spec.pool, table["unit"][0].as_py())
        try:
            result = self._process(unit, attempts)
            # A stage that had to change its row count in the middle makes the whole unit anew with the new one.
            while len(set(result.get("unet_rows", ()))) > 1:
                result = self._process(unit, attempts)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"pool {self._spec.pool} ran out of GPU memory with {self._pool.batch_size} rows per call; lower "
                f"pools.{self._spec.pool}.batch_size, or give it a larger share of a GPU (num_gpus)"
            ) from error
        attempts.finish()
        for name in [*sorted(set(result) - set(names)), "status", "error"]:
            column = pa.array(list(result[name]), type=_COLUMN_TYPES.get(name))
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, column)
            else:
                table = table.append_column(name, column)
        return table

    def _process(self, unit: Batch, attempts: Attempts) -> Batch:
        num_rows = len(unit["status"])
        size = self._pool.batch_size
        results = []
        for start in range(0, num_rows, size):
            batch = _call(unit, start, size)
            if attempts.one_at_a_time(start):
                result = self._one_at_a_time(batch, start, attempts)
            else:
                attempts.begin(start)
                result = self._stage(batch)
            results.append({name: column[: num_rows - start] for name, column in result.items()})
        return {name: np.concatenate([result[name] for result in results]) for name in results[0]}

    def _one_at_a_time(self, batch: Batch, start: int, attempts: Attempts) -> Batch:
        """A call made row by row: as many slots as ever, all but one of them empty."""
        batch = with_own_status(batch)
        for row in ok_rows(batch):
            if start + row in attempts.killers:
                fail_row(batch, row, f"the row kills its worker (pool {self._spec.pool})")
        rows = ok_rows(batch)
        waiting = with_own_status(batch)
        waiting["status"][rows] = "waiting"
        result = self._stage(waiting)  # for the columns, which are empty so far
        result |= {name: object_column(list(column)) for name, column in result.items() if name not in batch}
        result |= {name: batch[name] for name in ("status", "error")}
        for row in rows:
            alone = with_own_status(waiting)
            alone["status"][row] = "ok"
            attempts.begin(start, start + row)
            done = self._stage(alone)
            for name in {*done} - {*batch} | {"status", "error"}:
                result[name][row] = done[name][row]
        return result


# Ray Data names its progress bars after the class: one class a pool.
ACTORS: dict[str, type[PooledStage]] = {name: type(name.title(), (PooledStage,), {}) for name in get_args(PoolName)}


def _call(unit: Batch, start: int, size: int) -> Batch:
    """Rows of one call, the last one of a unit padded to the full size with a row that is not to be processed."""
    rows = np.arange(start, start + size)
    padding_B = rows >= len(unit["status"])
    rows[padding_B] = start
    batch = {name: column[rows] for name, column in unit.items()}
    batch["status"][padding_B] = "padding"
    return batch


def _to_numpy(column: pa.ChunkedArray) -> Any:
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if is_number and not column.null_count:
        return column.to_numpy()
    return object_column(column.to_pylist())
