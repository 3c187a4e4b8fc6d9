"""What a stage is: a class, its arguments, and the columns that it reads and writes.

A stage gets the rows of one model call (a dict of equally long columns), always as many as its pool's `batch_size`,
and gives the same rows back, in the same order, with its columns added: it never drops a row. A row that cannot be
processed gets status "failed" and a reason, and later stages leave it alone. Nothing here knows Ray: the same stages
run in a plain loop.
"""

# B rows of a model call

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from raygen.errors import RowError

Batch = dict[str, np.ndarray]
PoolName = Literal["scorer", "masker", "inpainter", "pruner"]

# Why a row fails that a classifier was asked about.
NOT_FINITE = "the classifier's output is not finite; did its training diverge?"


class Stage(Protocol):
    """One step of the pipeline; an actor builds it once and calls it once per model call."""

    reads: ClassVar[frozenset[str]]
    writes: ClassVar[frozenset[str]]

    def __call__(self, batch: Batch) -> Batch:
        """The rows with this stage's columns."""
        ...


@dataclass(frozen=True, slots=True)
class StageSpec:
    """A stage to be built by each actor of a pool.

    Attributes:
        stage: The class.
        pool: Which pool of the config runs it.
        kwargs: Its constructor's arguments: small plain data (paths, not weights).
    """

    stage: Callable[..., Stage]
    pool: PoolName
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads(self) -> frozenset[str]:
        """Columns that must be there."""
        return self.stage.reads  # type: ignore[attr-defined]

    @property
    def writes(self) -> frozenset[str]:
        """Columns that it adds."""
        return self.stage.writes  # type: ignore[attr-defined]


def check_columns(specs: Sequence[StageSpec], available: set[str]) -> set[str]:
    """Columns after the last stage.

    Raises:
        AssertionError: A stage reads a column that no earlier stage writes: a programmer's mistake, found before
            the cluster works.
    """
    columns = set(available)
    for spec in specs:
        missing = spec.reads - columns
        assert not missing, f"{spec.stage} reads {sorted(missing)}, which nobody writes; there is {sorted(columns)}"
        columns |= spec.writes
    return columns


def object_column(values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """A column of Python objects (bytes, str, None), (B,) object; never a 2-d array by accident."""
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column


def empty_column(num_rows: int) -> np.ndarray:
    """A column of None, (B,) object.

    Vectors go into it as lists of floats, cell by cell: numpy makes equally long ones into a 2-d array when
    they are assigned together, and Ray Data makes arrays into a tensor type that other readers of Parquet do
    not know.
    """
    return np.full(num_rows, None, dtype=object)


def ok_rows(batch: Batch) -> list[int]:
    """Positions of the rows that are still to be processed."""
    return [int(i) for i in np.flatnonzero(batch["status"] == "ok")]


def fail_row(batch: Batch, row: int, error: RowError | str) -> None:
    """Marks a row as failed with its reason (in place: `status` and `error` must be this batch's own copies)."""
    batch["status"][row] = "failed"
    batch["error"][row] = str(error)


def with_own_status(batch: Batch) -> Batch:
    """The batch with columns `status` and `error` that may be written to.

    Blocks that come from shared memory are read-only, so a stage copies what it changes.
    """
    return {**batch, "status": object_column(batch["status"]), "error": object_column(batch["error"])}


def fill_slots(rows: Sequence[int], num_slots: int) -> list[int]:
    """Which row's inputs go into each slot of a model call.

    Its own, or those of the first of `rows` where the slot's own row is not to be processed. A call then always has
    the same number of rows and a row is always in the same slot, so that its bits depend neither on which other rows
    failed nor on how many there are.

    Args:
        rows: Positions to process, in rising order; at least one.
        num_slots: Rows of the call.
    """
    chosen = set(rows)
    return [i if i in chosen else rows[0] for i in range(num_slots)]
