"""What a stage is: a class, its arguments, and the columns that it reads and writes.

A stage gets the rows of one model call (a dict of equally long columns), always as many as its pool's `batch_size`,
and gives the same rows back, in the same order, with its columns added: it never drops a row. A row that cannot be
processed gets status "failed" and a reason, and later stages leave it alone. Nothing here knows Ray: the same stages
run in a plain loop.
"""

# B rows of a model call

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import numpy as np

from raygen.errors import RowError

Batch = dict[str, np.ndarray]
Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs")
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
class Prepared(Generic[Inputs]):
    """The rows of a call, as far as they can be got ready without the model.

    Attributes:
        batch: The rows, with columns `status` and `error` of their own.
        inputs: What the model works on, and what is needed afterwards.
        num_bytes: Of the pictures in `inputs`.
    """

    batch: Batch
    inputs: Inputs
    num_bytes: int = 0


class ModelStage(ABC, Generic[Inputs, Outputs]):
    """A stage in three phases, so that its model need not wait while pictures are decoded and encoded.

    A pool makes one call of `work` at a time, always in one thread, and meanwhile `prepare` of the calls to come and
    `finish` of those before, in other threads: only `work` may use the model.
    """

    reads: ClassVar[frozenset[str]]
    writes: ClassVar[frozenset[str]]

    @abstractmethod
    def prepare(self, batch: Batch) -> Prepared[Inputs]:
        """What the model works on."""

    @abstractmethod
    def work(self, prepared: Prepared[Inputs]) -> Outputs:
        """What the model makes of it."""

    @abstractmethod
    def finish(self, prepared: Prepared[Inputs], outputs: Outputs) -> Batch:
        """The rows with this stage's columns."""

    def __call__(self, batch: Batch) -> Batch:
        """The three phases one after the other."""
        prepared = self.prepare(batch)
        return self.finish(prepared, self.work(prepared))


class WholeStage(ModelStage[None, Batch]):
    """A stage that knows no phases: all of it is `work`.

    Args:
        stage: The stage.
    """

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def prepare(self, batch: Batch) -> Prepared[None]:
        """The rows as they are."""
        return Prepared(batch, None)

    def work(self, prepared: Prepared[None]) -> Batch:
        """The rows with the stage's columns."""
        return self._stage(prepared.batch)

    def finish(self, prepared: Prepared[None], outputs: Batch) -> Batch:
        """These."""
        return outputs


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
