"""Calls of fixed size, rows that kill their worker, and memory that runs out: a stage dressed for its pool."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch

from raygen.errors import ModelError, ResourceError, RowError
from raygen.pools.actors import PooledStage
from raygen.pools.config import PoolConfig
from raygen.stages.spec import (
    Batch,
    ModelStage,
    Prepared,
    StageSpec,
    fail_row,
    fill_slots,
    object_column,
    ok_rows,
    with_own_status,
)
from raygen.storage.attempts import Attempts

NUM_ROWS, CALL = 10, 4
MOST_DEATHS = 10
SLOW_UNIT, SLOW_S = 8, 0.4
TIMEOUT_S = 10.0


class Echo(ModelStage[list[int], list[int]]):
    """Writes the row's number; dies on `deadly` rows in a phase, in one unit only if told so, and fails `bad` ones."""

    reads: ClassVar = frozenset({"number", "unit", "status", "error"})
    writes: ClassVar = frozenset({"seen"})

    def __init__(
        self,
        *,
        bad: tuple[int, ...] = (),
        deadly: tuple[int, ...] = (),
        phase: str = "work",
        only_in: int | None = None,
    ) -> None:
        self._bad, self._deadly, self._phase, self._only_in = bad, deadly, phase, only_in

    def prepare(self, batch: Batch) -> Prepared[list[int]]:
        assert len(batch["status"]) == CALL, "every call has as many rows"
        batch = with_own_status(batch)
        numbers = [int(batch["number"][i]) for i in ok_rows(batch)]
        self._die("prepare", batch, numbers)
        return Prepared(batch, numbers)

    def work(self, prepared: Prepared[list[int]]) -> list[int]:
        time.sleep(SLOW_S if prepared.batch["unit"][0] == SLOW_UNIT else 0.02)
        self._die("work", prepared.batch, prepared.inputs)
        return prepared.inputs

    def finish(self, prepared: Prepared[list[int]], outputs: list[int]) -> Batch:
        batch = prepared.batch
        self._die("finish", batch, outputs)
        seen: list[int | None] = [None] * CALL
        for i, number in zip(ok_rows(batch), outputs, strict=True):
            if number in self._bad:
                fail_row(batch, i, "told to fail")
            else:
                seen[i] = number
        return {**batch, "seen": object_column(seen)}

    def _die(self, phase: str, batch: Batch, numbers: list[int]) -> None:
        is_meant = self._only_in in {None, int(batch["unit"][0])}
        if phase == self._phase and is_meant and {*numbers} & {*self._deadly}:
            time.sleep(0 if self._only_in is None else SLOW_S / 2)  # the unit beside this one is in the model by then
            os._exit(13)


class Rendezvous(ModelStage[int, int]):
    """Its model is done with a call only once the next has begun to be got ready, and the one before to be finished.

    And that is finished only once the model is at the next.
    """

    reads: ClassVar = frozenset({"number", "status", "error"})
    writes: ClassVar = frozenset({"seen"})

    def __init__(self, *, num_calls: int) -> None:
        self._num_calls, self._begun = num_calls, {"prepare": 0, "work": 0, "finish": 0}
        self._changed, self._model = threading.Condition(), threading.Lock()
        self.threads: list[int] = []

    def prepare(self, batch: Batch) -> Prepared[int]:
        self._begin("prepare")
        return Prepared(batch, 0)

    def work(self, prepared: Prepared[int]) -> int:
        assert self._model.acquire(blocking=False), "two calls are in the model"
        done, begun = self._begin("work"), self._begun
        self._wait(lambda: begun["prepare"] >= min(done + 2, self._num_calls) and begun["finish"] >= done)
        self.threads.append(threading.get_ident())
        self._model.release()
        return 0

    def finish(self, prepared: Prepared[int], outputs: int) -> Batch:
        done, begun = self._begin("finish"), self._begun
        self._wait(lambda: begun["work"] >= min(done + 2, self._num_calls))
        return {**prepared.batch, "seen": prepared.batch["number"]}

    def _wait(self, until: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(until, TIMEOUT_S), f"somebody stands still: {self._begun}"

    def _begin(self, phase: str) -> int:
        with self._changed:
            self._begun[phase] += 1
            self._changed.notify_all()
            return self._begun[phase] - 1


class Large(Echo):
    """Its pictures have a terabyte a call; counts the calls that are in memory at once."""

    in_memory: ClassVar = 0
    most: ClassVar = 0

    def prepare(self, batch: Batch) -> Prepared[list[int]]:
        Large.in_memory += 1
        Large.most = max(Large.most, Large.in_memory)
        return replace(super().prepare(batch), num_bytes=1 << 40)

    def finish(self, prepared: Prepared[list[int]], outputs: list[int]) -> Batch:
        time.sleep(0.05)  # so that the next call could come
        result = super().finish(prepared, outputs)
        Large.in_memory -= 1
        return result


class Fails(Echo):
    """Raises an error in a phase of the middle call."""

    def __init__(self, *, error: Exception, phase: str) -> None:
        super().__init__()
        self._error, self._wrong = error, phase

    def _die(self, phase: str, batch: Batch, numbers: list[int]) -> None:
        if phase == self._wrong and CALL in numbers and batch["unit"][0] == 7:
            raise self._error


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


def unit(num_rows: int = NUM_ROWS, *, number: int = 7, first: int = 0) -> pa.Table:
    return pa.table(
        {
            "number": pa.array(range(first, first + num_rows), pa.int64()),
            "note": pa.array([None, *range(1, num_rows)], pa.int32()),
            "status": ["ok"] * num_rows,
            "error": pa.nulls(num_rows, pa.string()),
            "unit": [number] * num_rows,
        }
    )


def stage(folder: Path, kind: Any = Echo, *, own_thread: bool = False, **kwargs: Any) -> PooledStage:
    return PooledStage(StageSpec(kind, "masker", kwargs), PoolConfig(batch_size=CALL), folder, own_thread=own_thread)


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


@dataclass(frozen=True)
class Ward:
    """Units that are given to workers together until all are through, each worker in a process of its own.

    Attributes:
        deadly: Rows that kill their worker.
        phase: Where they do so.
        only_in: In which unit; None: in each.
        units: Numbers of the units.
        statuses: Exit status of each worker.
        rows: Results by unit.
    """

    deadly: tuple[int, ...]
    phase: str = "work"
    only_in: int | None = None
    units: tuple[int, ...] = (7,)
    statuses: list[int] = field(default_factory=list)
    rows: dict[int, list[dict[str, Any]]] = field(default_factory=dict)


WARDS = {
    "prepare": Ward((5,), phase="prepare"),
    "work": Ward((5,)),
    "finish": Ward((5,), phase="finish"),
    "two rows": Ward((4, 6)),
    # The unit without a deadly row is in the model whenever the other's kills the worker.
    "two units": Ward((1,), phase="prepare", only_in=7, units=(7, SLOW_UNIT)),
}


@pytest.fixture(scope="module")
def wards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ward]:
    """All of them, when their workers have died or are through."""
    folder = tmp_path_factory.mktemp("wards")
    code = "import sys, test_actors as t; t.nurse_all(sys.argv[1])"
    command = [sys.executable, "-c", code, str(folder)]
    subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=120)
    for name, ward in WARDS.items():
        ward.statuses[:] = json.loads((folder / name / "statuses.json").read_text())
        ward.rows.update({unit: json.loads((folder / name / f"{unit}.json").read_text()) for unit in ward.units})
    return WARDS


def nurse_all(folder: str) -> None:
    """Runs in a process that has read torch; its children are the workers."""
    for name, ward in WARDS.items():
        (Path(folder) / name).mkdir()
        statuses = []
        for _ in range(MOST_DEATHS):
            pid = os.fork()
            if not pid:
                work(Path(folder) / name, ward)
                os._exit(0)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            if not statuses[-1]:
                break
        (Path(folder) / name / "statuses.json").write_text(json.dumps(statuses))


def work(folder: Path, ward: Ward) -> None:
    actor = stage(folder / "attempts", own_thread=True, deadly=ward.deadly, phase=ward.phase, only_in=ward.only_in)

    def process(number: int) -> None:
        rows = actor(unit(number=number)).select(["seen", "status", "error"]).to_pylist()
        (folder / f"{number}.json").write_text(json.dumps(rows))

    # What is written Ray does not ask for again.
    todo = [number for number in ward.units if not (folder / f"{number}.json").is_file()]
    with ThreadPoolExecutor(len(todo)) as threads:
        list(threads.map(process, todo))


@pytest.mark.parametrize("phase", ["prepare", "work", "finish"])
def test_a_row_that_kills_its_worker_is_left_out_and_its_neighbours_are_not(wards: dict[str, Ward], phase: str) -> None:
    # Once beside the calls before and after, once in its own call, twice alone; the fifth worker leaves it out.
    assert wards[phase].statuses == [13, 13, 13, 13, 0]
    rows = wards[phase].rows[7]
    assert [row["seen"] for row in rows] == [0, 1, 2, 3, 4, None, 6, 7, 8, 9]
    assert [row["error"] for row in rows if row["status"] == "failed"] == ["the row kills its worker (pool masker)"]


def test_two_deadly_rows_of_one_call_are_both_found(wards: dict[str, Ward]) -> None:
    # Two deaths together, two of each row alone.
    assert wards["two rows"].statuses == [13] * 6 + [0]
    rows = wards["two rows"].rows[7]
    assert [row["seen"] for row in rows if row["status"] == "failed"] == [None, None]
    assert [row["seen"] for row in rows if row["status"] == "ok"] == [0, 1, 2, 3, 5, 7, 8, 9]


def test_a_unit_does_not_suffer_from_the_one_beside_it(wards: dict[str, Ward]) -> None:
    assert wards["two units"].statuses == [13, 13, 13, 13, 0]
    assert [row["status"] for row in wards["two units"].rows[SLOW_UNIT]] == ["ok"] * NUM_ROWS
    assert [i for i, row in enumerate(wards["two units"].rows[7]) if row["status"] == "failed"] == [1]


@pytest.mark.parametrize("own_thread", [True, False])
def test_the_model_works_while_pictures_before_and_after_are_in_hand(tmp_path: Path, own_thread: bool) -> None:
    found: dict[str, Any] = {}

    def made(**kwargs: Any) -> Rendezvous:
        return found.setdefault("stage", Rendezvous(**kwargs))

    made.reads, made.writes = Rendezvous.reads, Rendezvous.writes  # type: ignore[attr-defined]
    num_units = 2 if own_thread else 1
    with closing(stage(tmp_path, made, own_thread=own_thread, num_calls=2 * num_units)) as actor:
        tables = [unit(2 * CALL, number=i, first=2 * CALL * i) for i in range(num_units)]
        with ThreadPoolExecutor(num_units) as threads:
            done = list(threads.map(actor, tables))
    assert [table["seen"].to_pylist() for table in done] == [table["number"].to_pylist() for table in tables]
    assert len(found["stage"].threads) == 2 * num_units
    assert len({*found["stage"].threads}) == 1, "the model has one thread"


def test_large_pictures_of_one_call_only_are_in_memory(tmp_path: Path) -> None:
    assert stage(tmp_path, Large)(unit())["seen"].to_pylist() == list(range(NUM_ROWS))
    assert Large.most == 1


@pytest.mark.parametrize("phase", ["prepare", "work", "finish"])
@pytest.mark.parametrize("error", [ModelError("no such model"), ZeroDivisionError("a mistake"), RowError("not a row")])
def test_an_error_in_any_thread_is_what_it_was_and_nothing_hangs(tmp_path: Path, phase: str, error: Exception) -> None:
    before = {*threading.enumerate()}
    with closing(stage(tmp_path, Fails, own_thread=True, error=error, phase=phase)) as actor:
        with pytest.raises(type(error), match=str(error)):
            actor(unit())
        assert actor(unit(number=SLOW_UNIT))["seen"].to_pylist() == list(range(NUM_ROWS))
    assert {*threading.enumerate()} <= before, "a thread is left"


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
