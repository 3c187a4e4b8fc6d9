"""Stages dressed for pools: a unit comes as an Arrow table, goes through in calls of fixed size, and leaves whole.

While the model works on one call, threads beside it decode the pictures of the next and encode those of the one before,
across the border of two units too: an actor takes two at a time (`UNITS_AT_ONCE`), which have the model one after the
other. Pillow and Arrow leave Python's lock while they work.
"""

# U rows of a unit, B rows of a call

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import torch

from raygen.errors import ResourceError
from raygen.pools.config import PoolConfig
from raygen.schema import CANDIDATE, SCORE, SOURCE, memory_type
from raygen.stages.spec import (
    Batch,
    ModelStage,
    PoolName,
    Prepared,
    StageSpec,
    WholeStage,
    fail_row,
    object_column,
    ok_rows,
    with_own_status,
)
from raygen.storage.attempts import Attempts

# Units that an actor is given at once: the second is ready when the first leaves the model.
UNITS_AT_ONCE = 2
# Threads of an actor that decode and encode.
THREADS_BESIDE = 2
# A call whose decoded pictures have more bytes is not overlapped: there would be four of them in memory.
MAX_BYTES_BESIDE = 256 << 20
_COLUMN_TYPES = {field.name: memory_type(field.type) for schema in (SOURCE, SCORE, CANDIDATE) for field in schema}


class PooledStage:
    """One actor's stage: built once, it takes and gives whole units, and fixes the threads.

    Untouched columns stay as they are: through numpy a null integer would become NaN.

    Args:
        spec: The stage.
        pool: Rows of a call, and threads.
        attempts_folder: Where workers note what they are about to do; see `raygen.storage.attempts`.
        own_thread: Let the model work in a thread of its own. Units that come from several threads need it: CUDA's
            libraries keep handles, memory and plans for each thread.
    """

    def __init__(self, spec: StageSpec, pool: PoolConfig, attempts_folder: Path, *, own_thread: bool = False) -> None:
        self._spec, self._pool, self._attempts_folder = spec, pool, attempts_folder
        torch.set_num_threads(pool.num_threads)
        try:
            stage = spec.stage(**spec.kwargs)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"pool {spec.pool} ran out of GPU memory while it loaded its model; give its actors a larger share of "
                f"a GPU (pools.{spec.pool}.num_gpus), or take a smaller dtype"
            ) from error
        self._stage: ModelStage[Any, Any] = stage if isinstance(stage, ModelStage) else WholeStage(stage)
        threads = partial(ThreadPoolExecutor, initializer=torch.set_num_threads, initargs=(pool.num_threads,))
        self._beside = threads(THREADS_BESIDE, thread_name_prefix=f"{spec.pool}-pictures")
        self._model = threads(1, thread_name_prefix=f"{spec.pool}-model") if own_thread else None
        self._turn, self._units = threading.Lock(), _Units()
        self._is_large = False

    def __call__(self, table: pa.Table) -> pa.Table:
        """The unit with the stage's columns; from several threads at once, where the model has a thread of its own.

        Raises:
            ResourceError: A GPU ran out of memory.
        """
        names = sorted(self._spec.reads | {"status", "error"})
        unit: Batch = {name: _to_numpy(table[name]) for name in names}
        attempts = Attempts(self._attempts_folder, self._spec.pool, table["unit"][0].as_py())
        process = self._one_after_the_other if attempts.has_deaths else self._overlapped
        with self._units.inside(alone=attempts.has_deaths), self._memory_errors():
            result = process(unit, attempts)
            # A stage that had to change its row count in the middle makes the whole unit anew with the new one.
            while len(set(result.get("unet_rows", ()))) > 1:
                result = process(unit, attempts)
        attempts.finish()
        for name in [*sorted(set(result) - set(names)), "status", "error"]:
            column = pa.array(list(result[name]), type=_COLUMN_TYPES.get(name))
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, column)
            else:
                table = table.append_column(name, column)
        return table

    def close(self) -> None:
        """Ends the threads."""
        self._beside.shutdown()
        if self._model is not None:
            self._model.shutdown()

    @contextlib.contextmanager
    def _memory_errors(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"pool {self._spec.pool} ran out of GPU memory with {self._pool.batch_size} rows per call; lower "
                f"pools.{self._spec.pool}.batch_size, or give it a larger share of a GPU (num_gpus)"
            ) from error

    def _overlapped(self, unit: Batch, attempts: Attempts) -> Batch:
        """The columns of a unit; pictures of the calls beside the model's are decoded and encoded meanwhile."""
        num_rows, size = len(unit["status"]), self._pool.batch_size
        finished: list[Future[Batch]] = []
        ahead: Future[Prepared[Any]] | None = None

        def prepare(start: int) -> Prepared[Any]:
            attempts.begin_beside(start)
            return self._stage.prepare(_call(unit, start, size))

        def finish(start: int, prepared: Prepared[Any], outputs: Any) -> Batch:
            result = self._stage.finish(prepared, outputs)
            attempts.end_beside(start)
            return result

        try:
            if not self._is_large:
                ahead = self._beside.submit(prepare, 0)
            with self._turn:
                for start in range(0, num_rows, size):
                    if ahead is None:
                        wait(finished)  # so that large pictures of one call only are in memory
                        ahead = self._beside.submit(prepare, start)
                    prepared, ahead = ahead.result(), None
                    self._is_large = prepared.num_bytes > MAX_BYTES_BESIDE
                    if start + size < num_rows and not self._is_large:
                        ahead = self._beside.submit(prepare, start + size)
                    outputs = self._work(prepared)
                    finished.append(self._beside.submit(finish, start, prepared, outputs))
                    del prepared, outputs  # the thread alone holds them now
                    if len(finished) > 1:
                        finished[-2].result()
            return _joined([future.result() for future in finished], num_rows)
        except BaseException:
            waiting: list[Future[Any]] = [*finished, *([] if ahead is None else [ahead])]
            for future in waiting:
                future.cancel()
            wait(waiting)
            raise

    def _one_after_the_other(self, unit: Batch, attempts: Attempts) -> Batch:
        """The columns of a unit whose worker has died: a call begins when the one before is through."""
        size = self._pool.batch_size
        results = []
        for start in range(0, len(unit["status"]), size):
            batch = _call(unit, start, size)
            if attempts.one_at_a_time(start):
                results.append(self._row_after_row(batch, start, attempts))
            else:
                attempts.begin(start)
                results.append(self._call_whole(batch))
        return _joined(results, len(unit["status"]))

    def _row_after_row(self, batch: Batch, start: int, attempts: Attempts) -> Batch:
        """A call made row by row: as many slots as ever, all but one of them empty."""
        batch = with_own_status(batch)
        for row in ok_rows(batch):
            if start + row in attempts.killers:
                fail_row(batch, row, f"the row kills its worker (pool {self._spec.pool})")
        rows = ok_rows(batch)
        waiting = with_own_status(batch)
        waiting["status"][rows] = "waiting"
        result = self._call_whole(waiting)  # for the columns, which are empty so far
        result |= {name: object_column(list(column)) for name, column in result.items() if name not in batch}
        result |= {name: batch[name] for name in ("status", "error")}
        for row in rows:
            alone = with_own_status(waiting)
            alone["status"][row] = "ok"
            attempts.begin(start, start + row)
            done = self._call_whole(alone)
            for name in {*done} - {*batch} | {"status", "error"}:
                result[name][row] = done[name][row]
        return result

    def _call_whole(self, batch: Batch) -> Batch:
        prepared = self._stage.prepare(batch)
        return self._stage.finish(prepared, self._work(prepared))

    def _work(self, prepared: Prepared[Any]) -> Any:
        if self._model is None:
            return self._work_here(prepared)
        return self._model.submit(self._work_here, prepared).result()

    def _work_here(self, prepared: Prepared[Any]) -> Any:
        torch.set_num_threads(self._pool.num_threads)  # a library may have changed it
        return self._stage.work(prepared)


class _Units:
    """The units that are in an actor: one that must be alone waits until all have left, and lets nobody in."""

    def __init__(self) -> None:
        self._changed, self._num_inside, self._is_closed = threading.Condition(), 0, False

    @contextlib.contextmanager
    def inside(self, *, alone: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_closed)
            if alone:
                self._is_closed = True
                self._changed.wait_for(lambda: not self._num_inside)
            self._num_inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_inside -= 1
                self._is_closed = self._is_closed and not alone
                self._changed.notify_all()


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


def _joined(results: list[Batch], num_rows: int) -> Batch:
    """The columns of all calls of a unit, without what filled up the last."""
    return {name: np.concatenate([result[name] for result in results])[:num_rows] for name in results[0]}


def _to_numpy(column: pa.ChunkedArray) -> Any:
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if is_number and not column.null_count:
        return column.to_numpy()
    return object_column(column.to_pylist())
