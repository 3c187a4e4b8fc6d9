"""Units: how a table of rows is cut, loaded, run through stages and written; no Ray here.

A unit is a fixed number of consecutive rows. It is loaded whole, goes through the stages whole and becomes one file
`part-<unit>.parquet`, written under a temporary name, synced and renamed: it is wholly there or not at all.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.config import PoolConfig, PoolsConfig
from raygen.errors import DataError, RunFolderError, TooManyFailedRowsError
from raygen.rows import Location, RowIndex, fetch_located
from raygen.schema import CANDIDATE, SCORE, SOURCE, cast
from raygen.stages.spec import Batch, Stage, StageSpec, object_column

logger = logging.getLogger(__name__)

_COLUMN_TYPES = {field.name: field.type for schema in (SOURCE, SCORE, CANDIDATE) for field in schema}


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit: its number, its rows (without pixels) and where their pixels are."""

    number: int
    rows: pa.Table
    locations: list[Location]


@dataclass(frozen=True, slots=True)
class Job:
    """One pass over a table.

    Attributes:
        table: Rows in their final order, with `image_id`, without pixels.
        data_folder: Dataset folder that holds the pixels.
        source_columns: Columns to fetch from the dataset, such as image_png.
        specs: Stages in order.
        pools: Actors and batch sizes.
        unit_rows: Rows of a unit.
        parts: Where the result goes.
    """

    table: pa.Table
    data_folder: Path
    source_columns: tuple[str, ...]
    specs: Sequence[StageSpec]
    pools: PoolsConfig
    unit_rows: int
    parts: "Parts"


def read_parts(folder: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """All parts of a finished pass, in order of unit.

    Raises:
        DataError: No part at all.
    """
    files = sorted(folder.glob("part-*.parquet"))
    if not files:
        raise DataError(f"{folder} holds no part-*.parquet")
    return pa.concat_tables([pq.read_table(path, columns=list(columns) if columns else None) for path in files])


def cut(job: Job) -> list[Unit]:
    """All units of a job."""
    index = RowIndex.open(job.data_folder)
    places = index.locate(job.table["image_id"].to_pylist())
    starts = range(0, job.table.num_rows, job.unit_rows)
    return [
        Unit(number, job.table.slice(start, job.unit_rows), places[start : start + job.unit_rows])
        for number, start in enumerate(starts)
    ]


def load(unit: Unit, columns: Sequence[str], unit_rows: int) -> pa.Table:
    """A unit with its pixels, padded to the full number of rows so that every block is one batch."""
    table = unit.rows.combine_chunks()
    for name in columns:
        if name in table.column_names:
            table = table.drop_columns([name])
    pixels = fetch_located(unit.locations, columns)
    for name in columns:
        table = table.append_column(SOURCE.field(name), pixels[name])
    padding = unit_rows - table.num_rows
    status = ["ok"] * table.num_rows + ["padding"] * padding
    if padding:
        table = pa.concat_tables([table, table.slice(0, 1).take([0] * padding)]).combine_chunks()
    table = table.append_column(pa.field("status", pa.string()), pa.array(status))
    table = table.append_column(pa.field("error", pa.string()), pa.nulls(unit_rows, pa.string()))
    return table.append_column(pa.field("unit", pa.int64()), pa.array([unit.number] * unit_rows, pa.int64()))


class PooledStage:
    """A stage dressed for a pool: builds the stage once, takes and gives Arrow tables, fixes the threads.

    Untouched columns stay as they are: through numpy a null integer would become NaN.
    """

    def __init__(self, spec: StageSpec, num_threads: int) -> None:
        self._spec, self._num_threads = spec, num_threads
        _set_threads(num_threads)
        self._stage: Stage = spec.stage(**spec.kwargs)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with the stage's columns."""
        _set_threads(self._num_threads)
        names = sorted(self._spec.reads | {"status", "error"})
        batch: Batch = {name: _to_numpy(table[name]) for name in names}
        result = self._stage(batch)
        for name in [*sorted(set(result) - set(names)), "status", "error"]:
            column = pa.array(list(result[name]), type=_COLUMN_TYPES.get(name))
            if name in table.column_names:
                table = table.set_column(table.column_names.index(name), name, column)
            else:
                table = table.append_column(name, column)
        return table


# Ray Data names its progress bars after the class: one class a pool.
class Scorer(PooledStage):
    """An actor of the scorer pool."""


class Masker(PooledStage):
    """An actor of the masker pool."""


class Inpainter(PooledStage):
    """An actor of the inpainter pool."""


class Pruner(PooledStage):
    """An actor of the pruner pool."""


ACTORS: dict[str, type[PooledStage]] = {
    "scorer": Scorer,
    "masker": Masker,
    "inpainter": Inpainter,
    "pruner": Pruner,
}


def _set_threads(num_threads: int) -> None:
    import torch

    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)


def num_threads(pool: PoolConfig) -> int:
    """Torch threads of one actor: its whole CPUs, at least one."""
    return max(1, int(pool.num_cpus))


def _to_numpy(column: pa.ChunkedArray) -> Any:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    is_number = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if is_number and not array.null_count:
        return array.to_numpy(zero_copy_only=False)
    return object_column(array.to_pylist())


def run_local(job: Job, units: Iterable[Unit]) -> None:
    """Runs units one after the other in this process."""
    stages = [ACTORS[spec.pool](spec, num_threads(getattr(job.pools, spec.pool))) for spec in job.specs]
    for unit in units:
        table = load(unit, job.source_columns, job.unit_rows)
        for stage in stages:
            table = stage(table)
        job.parts.write(table)


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of one pass.

    Attributes:
        folder: Existing folder.
        schema: Columns of a part.
        fingerprint: What the parts depend on, kept in each file; a part with another one is refused.
        num_rows: Rows of the whole pass.
        max_failed_fraction: More failed rows than this share of `num_rows` stop the pass.
    """

    folder: Path
    schema: pa.Schema
    fingerprint: str
    num_rows: int
    max_failed_fraction: float

    def write(self, table: pa.Table) -> None:
        """Writes one unit, without its padding.

        Raises:
            TooManyFailedRowsError: With this unit too many rows have failed; the part is written.
        """
        number = table["unit"][0].as_py()
        table = table.filter(pc.not_equal(table["status"], "padding"))
        num_failed = pc.sum(pc.equal(table["status"], "failed")).as_py() or 0
        path = self.folder / f"part-{number:06d}.parquet"
        result = cast(table, self.schema, what=path.name)
        metadata = {"fingerprint": self.fingerprint, "num_failed": str(num_failed)}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        pq.write_table(result.replace_schema_metadata(metadata), temporary, compression="zstd", use_dictionary=False)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        if num_failed:
            self.check_failures()

    def finished_units(self) -> set[int]:
        """Numbers of the units whose part is there; what a killed writer left is removed.

        Raises:
            RunFolderError: A part was made by another job.
        """
        for leftover in self.folder.glob(".part-*.tmp"):
            leftover.unlink()
        done = set()
        for path in self.folder.glob("part-*.parquet"):
            found = (pq.read_metadata(path).metadata or {}).get(b"fingerprint", b"").decode()
            if found != self.fingerprint:
                raise RunFolderError(
                    f"{path} was made with other settings (fingerprint {found or 'none'}, now {self.fingerprint}). "
                    f"Delete {self.folder} to make it again, or use another --out."
                )
            done.add(int(path.stem.removeprefix("part-")))
        return done

    def check_failures(self) -> Counter[str]:
        """Rows by status over the parts that are there.

        Raises:
            TooManyFailedRowsError: More than `max_failed_fraction` of the pass's rows failed.
        """
        num_failed = num_rows = 0
        for path in self.folder.glob("part-*.parquet"):
            metadata = pq.read_metadata(path)
            num_failed += int((metadata.metadata or {}).get(b"num_failed", b"0"))
            num_rows += metadata.num_rows
        if num_failed > self.max_failed_fraction * self.num_rows:
            table = read_parts(self.folder, columns=["status", "error"])
            reasons = Counter(table.filter(pc.equal(table["status"], "failed"))["error"].to_pylist())
            raise TooManyFailedRowsError(
                f"{num_failed} of {self.num_rows} rows failed; max_failed_fraction is {self.max_failed_fraction}. "
                "Commonest reasons:\n" + "\n".join(f"  {n} x {reason}" for reason, n in reasons.most_common(5))
            )
        return Counter(ok=num_rows - num_failed, failed=num_failed)
