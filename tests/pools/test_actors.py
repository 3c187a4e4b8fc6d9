"""Calls of fixed size, rows that kill their worker, and memory that runs out: a stage dressed for its pool."""

import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch

from raygen.errors import ResourceError
from raygen.pools.actors import PooledStage
from raygen.pools.config import PoolConfig
from raygen.stages.spec import Batch, StageSpec, fail_row, fill_slots, object_column, ok_rows, with_own_status
from raygen.storage.attempts import Attempts

NUM_ROWS, CALL = 10, 4


class Echo:
    """Writes the row's number and the rows that are processed with it; dies on `deadly`, fails `bad`."""

    reads: ClassVar = frozenset({"number", "status", "error"})
    writes: ClassVar = frozenset({"seen"})

    def __init__(self, *, bad: tuple[int, ...] = (), deadly: tuple[int, ...] = ()) -> None:
        self._bad, self._deadly = bad, deadly

    def __call__(self, batch: Batch) -> Batch:
        assert len(batch["status"]) == CALL, "every call has as many rows"
        batch = with_own_status(batch)
        seen: list[int | None] = [None] * CALL
        for i in ok_rows(batch):
            number = int(batch["number"][i])
            if number in self._deadly:
                import os

                os._exit(13)
            if number in self._bad:
                fail_row(batch, i, "told to fail")
            else:
                seen[i] = number
        return {**batch, "seen": object_column(seen)}


class Greedy:
    """Runs out of memory with more than `most` rows, and notes with how many it worked."""

    reads: ClassVar = frozenset({"number", "status", "error"})
    writes: ClassVar = frozenset({"unet_rows"})

    def __init__(self, *, most_by_call: tuple[int, ...]) -> None:
        self._most = list(most_by_call)
        self._rows = CALL

    def __call__(self, batch: Batch) -> Batch:
        if self._most:
            self._rows = min(self._rows, self._most.pop(0))
        if self._rows == 0:
            raise torch.OutOfMemoryError("no memory")
        return {**with_own_status(batch), "unet_rows": np.full(CALL, self._rows)}


def unit(num_rows: int = NUM_ROWS) -> pa.Table:
    return pa.table(
        {
            "number": pa.array(range(num_rows), pa.int64()),
            "note": pa.array([None, *range(1, num_rows)], pa.int32()),
            "status": ["ok"] * num_rows,
            "error": pa.nulls(num_rows, pa.string()),
            "unit": [7] * num_rows,
        }
    )


def stage(folder: Path, kind: Any = Echo, **kwargs: Any) -> PooledStage:
    return PooledStage(StageSpec(kind, "masker", kwargs), PoolConfig(batch_size=CALL), folder)


def test_a_unit_goes_through_in_calls_of_fixed_size_and_keeps_its_other_columns(tmp_path: Path) -> None:
    result = stage(tmp_path, bad=(3,))(unit())
    assert result["seen"].to_pylist() == [0, 1, 2, None, 4, 5, 6, 7, 8, 9]
    assert result["status"].to_pylist() == ["ok"] * 3 + ["failed"] + ["ok"] * 6
    assert result["error"][3].as_py() == "told to fail"
    assert result["note"].to_pylist() == unit()["note"].to_pylist(), "null stays null"
    assert list(tmp_path.iterdir()) == [], "a unit that went through leaves no note"


@pytest.mark.parametrize(("rows", "slots"), [([0, 2], [0, 0, 2, 0]), ([3], [3, 3, 3, 3]), ([0, 1, 2, 3], [0, 1, 2, 3])])
def test_a_row_has_its_own_slot_whatever_its_neighbours_do(rows: list[int], slots: list[int]) -> None:
    assert fill_slots(rows, 4) == slots


def die_on(folder: Path, deadly: tuple[int, ...]) -> int:
    """Runs a unit in a process of its own, as an actor does; gives back its exit status."""
    code = (
        "import sys, pathlib, test_actors as t\n"
        f"result = t.stage(pathlib.Path(sys.argv[1]), deadly={deadly})(t.unit())\n"
        "print(result.select(['seen', 'status', 'error']).to_pylist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        (folder / "result.txt").write_text(done.stdout)
    return done.returncode


def test_a_row_that_kills_its_worker_is_left_out_and_its_neighbours_are_not(tmp_path: Path) -> None:
    # Twice together with its neighbours, twice alone; the fifth worker leaves it out.
    assert [die_on(tmp_path, (5,)) for _ in range(5)] == [13, 13, 13, 13, 0]
    rows = eval((tmp_path / "result.txt").read_text())
    assert [row["seen"] for row in rows] == [0, 1, 2, 3, 4, None, 6, 7, 8, 9]
    assert [row["error"] for row in rows if row["status"] == "failed"] == ["the row kills its worker (pool masker)"]


def test_two_deadly_rows_of_one_call_are_both_found(tmp_path: Path) -> None:
    # Two deaths together, two of each row alone.
    assert [die_on(tmp_path, (4, 6)) for _ in range(7)] == [13] * 6 + [0]
    rows = eval((tmp_path / "result.txt").read_text())
    assert [row["seen"] for row in rows if row["status"] == "failed"] == [None, None]
    assert [row["seen"] for row in rows if row["status"] == "ok"] == [0, 1, 2, 3, 5, 7, 8, 9]


def test_one_death_is_nobodys_fault(tmp_path: Path) -> None:
    lost = Attempts(tmp_path, "masker", 7)
    lost.begin(4)  # and then its node is gone
    assert not Attempts(tmp_path, "masker", 7).one_at_a_time(4)
    assert stage(tmp_path)(unit())["seen"].to_pylist() == list(range(NUM_ROWS))


def test_one_death_alone_is_not_the_rows_fault_either(tmp_path: Path) -> None:
    for row in (None, None, 5):  # a node lost three times, the last time while row 5 was being processed alone
        Attempts(tmp_path, "masker", 7).begin(4, row)
    found = Attempts(tmp_path, "masker", 7)
    assert found.one_at_a_time(4)
    assert found.killers == []
    assert stage(tmp_path)(unit())["seen"].to_pylist() == list(range(NUM_ROWS))


def test_deaths_count_for_the_call_they_happened_in(tmp_path: Path) -> None:
    for start in (0, 4):  # the second worker got through the first call and died in the second
        attempts = Attempts(tmp_path, "masker", 7)
        attempts.begin(0)
        if start:
            attempts.begin(start)
    found = Attempts(tmp_path, "masker", 7)
    assert not found.one_at_a_time(0)
    assert not found.one_at_a_time(4)


def test_a_unit_is_made_anew_when_the_row_count_changes_in_its_middle(tmp_path: Path) -> None:
    result = stage(tmp_path, Greedy, most_by_call=(4, 2))(unit())
    assert set(result["unet_rows"].to_pylist()) == {2}, "one unit, one row count"


def test_memory_that_runs_out_is_a_resource_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        ResourceError, match=r"pool masker ran out of GPU memory with 4 rows.*pools\.masker\.batch_size"
    ):
        stage(tmp_path, Greedy, most_by_call=(0,))(unit())
