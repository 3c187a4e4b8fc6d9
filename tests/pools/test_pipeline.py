"""One unit, one block, one part: whatever the engine, the actors or the interruptions."""

import hashlib
import os
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from raygen.datasets.rows import RowIndex
from raygen.errors import (
    DataError,
    ModelError,
    ResourceError,
    RowError,
    RunFolderError,
    StageError,
    TooManyFailedRowsError,
)
from raygen.images import decode_image
from raygen.pools import pipeline
from raygen.pools.config import PoolConfig, PoolsConfig
from raygen.pools.units import Pass
from raygen.stages.spec import Batch, StageSpec, fail_row, object_column, ok_rows, with_own_status
from raygen.storage.parts import Parts, read_parts

RESULT = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.int32()),
        ("cluster", pa.int32()),
        ("digest", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
    ]
)


class Digest:
    """Hashes each picture; fails the rows it is told to, and takes its process with it on deadly ones."""

    reads: ClassVar = frozenset({"image_id", "image_png", "status", "error"})
    writes: ClassVar = frozenset({"digest"})

    def __init__(self, *, bad: tuple[str, ...] = (), deadly: tuple[str, ...] = ()) -> None:
        self._bad, self._deadly = bad, deadly

    def __call__(self, batch: Batch) -> Batch:
        batch = with_own_status(batch)
        digests: list[str | None] = [None] * len(batch["status"])
        for i in ok_rows(batch):
            if batch["image_id"][i] in self._deadly:
                os._exit(1)
            if batch["image_id"][i] in self._bad:
                fail_row(batch, i, RowError("told to fail"))
            else:
                digests[i] = hashlib.sha256(decode_image(batch["image_png"][i]).tobytes()).hexdigest()
        return {**batch, "digest": object_column(digests)}


class NoModel:
    """A stage whose actors cannot start."""

    reads: ClassVar = frozenset({"status", "error"})
    writes: ClassVar = frozenset({"digest"})

    def __init__(self) -> None:
        raise ModelError("model 'x' is not there")

    def __call__(self, batch: Batch) -> Batch:
        return batch


def make_pass(data: Path, out: Path, **changes: Any) -> Pass:
    out.mkdir(parents=True, exist_ok=True)
    index = RowIndex(data)
    table = index.split("train").select(["image_id", "label"])
    cluster = pa.array([None if i % 3 else i for i in range(table.num_rows)], pa.int32())
    table = table.append_column("cluster", cluster)
    options = {
        "table": table,
        "index": index,
        "source_columns": ("image_png",),
        "specs": [StageSpec(Digest, "scorer")],
        "pools": PoolsConfig(scorer=PoolConfig(num_cpus=0.5)),
        "unit_rows": 24,  # 160 rows: the last unit is padded
        "parts": Parts(out, RESULT, "abc", table.num_rows, 0.05),
    }
    return Pass(**{**options, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_local_engine_writes_every_row_once(scenes_folder: Path, tmp_path: Path) -> None:
    work = make_pass(scenes_folder, tmp_path / "out")
    assert pipeline.run(work, engine="local") == {"ok": 160, "failed": 0}
    result = read_parts(tmp_path / "out")
    assert result["image_id"].to_pylist() == work.table["image_id"].to_pylist()
    assert result["cluster"].to_pylist() == work.table["cluster"].to_pylist()  # null stays null, never NaN
    pictures = RowIndex(scenes_folder).fetch(result["image_id"].to_pylist(), ["image_png"])["image_png"]
    expected = [hashlib.sha256(decode_image(data).tobytes()).hexdigest() for data in pictures.to_pylist()]
    assert result["digest"].to_pylist() == expected


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_how_many_rows_are_done_is_said(
    scenes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: Literal["local", "ray"]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)  # in a terminal Ray draws bars instead
    heard: list[str] = []
    pipeline.run(make_pass(scenes_folder, tmp_path / "out"), engine=engine, say=heard.append, every_s=0.001)
    done = [int(line.removesuffix(" of 160 rows")) for line in heard]
    assert done
    assert done == sorted({*done})
    assert {*done} <= {24, 48, 72, 96, 120, 144, 160}


@pytest.mark.usefixtures("ray_session")
def test_ray_writes_the_same_bytes_with_one_actor_and_with_three(scenes_folder: Path, tmp_path: Path) -> None:
    pipeline.run(make_pass(scenes_folder, tmp_path / "local"), engine="local")
    for actors in (1, 3):
        pools = PoolsConfig(scorer=PoolConfig(actors=actors, num_cpus=0.5))
        pipeline.run(make_pass(scenes_folder, tmp_path / f"ray{actors}", pools=pools), engine="ray")
        assert contents(tmp_path / f"ray{actors}") == contents(tmp_path / "local")


def test_resume_does_only_what_is_missing(scenes_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pipeline.run(make_pass(scenes_folder, out), engine="local")
    before = contents(out)
    kept = (out / "part-000000.parquet").stat().st_mtime_ns
    (out / "part-000003.parquet").unlink()
    (out / ".part-000004.parquet.99.tmp").write_bytes(b"half a part")
    pipeline.run(make_pass(scenes_folder, out), engine="local")
    assert contents(out) == before
    assert (out / "part-000000.parquet").stat().st_mtime_ns == kept


def test_parts_of_another_job_are_refused(scenes_folder: Path, tmp_path: Path) -> None:
    work = make_pass(scenes_folder, tmp_path / "out")
    pipeline.run(work, engine="local")
    other = make_pass(scenes_folder, tmp_path / "out", parts=Parts(tmp_path / "out", RESULT, "other", 160, 0.05))
    with pytest.raises(RunFolderError, match="made with other settings"):
        pipeline.run(other, engine="local")


def test_a_pass_without_all_of_its_parts_is_not_signed(scenes_folder: Path, tmp_path: Path) -> None:
    work = make_pass(scenes_folder, tmp_path / "out")
    pipeline.run(work, engine="local")
    assert work.parts.close(range(7)) == {"ok": 160, "failed": 0}
    (tmp_path / "out" / "part-000002.parquet").rename(tmp_path / "elsewhere.parquet")
    with pytest.raises(StageError, match=r"part-000002\.parquet was written and is not there"):
        work.parts.close(range(7), patience_s=0.0)
    with pytest.raises(StageError, match="hold 136 rows, the pass has 160"):
        work.parts.close([0, 1, 3, 4, 5, 6])


def test_a_part_that_comes_late_is_waited_for(scenes_folder: Path, tmp_path: Path) -> None:
    work = make_pass(scenes_folder, tmp_path / "out")
    pipeline.run(work, engine="local")
    part, hidden = tmp_path / "out" / "part-000002.parquet", tmp_path / "elsewhere.parquet"
    part.rename(hidden)
    threading.Timer(0.5, lambda: hidden.rename(part)).start()
    assert work.parts.close(range(7), patience_s=60) == {"ok": 160, "failed": 0}


def test_failed_rows_keep_their_place_and_reason(scenes_folder: Path, tmp_path: Path) -> None:
    bad = ("train-000003", "train-000007")
    work = make_pass(scenes_folder, tmp_path / "out", specs=[StageSpec(Digest, "scorer", {"bad": bad})])
    assert pipeline.run(work, engine="local") == {"ok": 158, "failed": 2}
    result = read_parts(tmp_path / "out")
    failed = result.filter(pc.equal(result["status"], "failed"))
    assert failed["image_id"].to_pylist() == list(bad)
    assert failed["error"].to_pylist() == ["told to fail"] * 2


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_too_many_failed_rows_stop_the_job_with_the_reasons(scenes_folder: Path, tmp_path: Path, engine: Any) -> None:
    bad = tuple(f"train-{i:06d}" for i in range(20))
    work = make_pass(scenes_folder, tmp_path / "out", specs=[StageSpec(Digest, "scorer", {"bad": bad})])
    with pytest.raises(TooManyFailedRowsError, match="20 x told to fail"):
        pipeline.run(work, engine=engine)


def test_a_pass_that_was_stopped_goes_on_with_a_higher_limit(scenes_folder: Path, tmp_path: Path) -> None:
    bad = tuple(f"train-{i:06d}" for i in range(20))
    specs = [StageSpec(Digest, "scorer", {"bad": bad})]
    with pytest.raises(TooManyFailedRowsError, match="go on with --set max_failed_fraction"):
        pipeline.run(make_pass(scenes_folder, tmp_path / "out", specs=specs), engine="local")
    done = contents(tmp_path / "out").keys()
    assert any(name.startswith("part-") for name in done), "what it made stays"
    parts = Parts(tmp_path / "out", RESULT, "abc", 160, 0.5)
    work = make_pass(scenes_folder, tmp_path / "out", specs=specs, parts=parts)
    assert pipeline.run(work, engine="local") == {"ok": 140, "failed": 20}
    assert not (tmp_path / "out" / ".work").exists()


@pytest.mark.usefixtures("ray_session")
def test_an_actor_that_cannot_start_gives_its_own_error(scenes_folder: Path, tmp_path: Path) -> None:
    work = make_pass(scenes_folder, tmp_path / "out", specs=[StageSpec(NoModel, "scorer")])
    with pytest.raises(ModelError, match="model 'x' is not there"):
        pipeline.run(work, engine="ray")


@pytest.mark.usefixtures("ray_session")
def test_a_gpu_that_the_cluster_does_not_have_is_refused_before_work(scenes_folder: Path, tmp_path: Path) -> None:
    pools = PoolsConfig(scorer=PoolConfig(num_gpus=1))
    with pytest.raises(ResourceError, match="need 1 GPUs and the cluster has 0"):
        pipeline.run(make_pass(scenes_folder, tmp_path / "out", pools=pools), engine="ray")
    assert not list((tmp_path / "out").iterdir())


def test_a_stage_that_reads_what_nobody_writes_is_a_bug(scenes_folder: Path, tmp_path: Path) -> None:
    work = make_pass(scenes_folder, tmp_path / "out", source_columns=())
    with pytest.raises(AssertionError, match="image_png"):
        pipeline.run(work, engine="local")


def test_an_empty_table_is_refused(scenes_folder: Path, tmp_path: Path) -> None:
    work = make_pass(scenes_folder, tmp_path / "out")
    empty = make_pass(scenes_folder, tmp_path / "out", table=work.table.slice(0, 0))
    with pytest.raises(DataError, match="nothing to do"):
        pipeline.run(empty, engine="local")


def test_a_part_is_readable_by_plain_pyarrow(scenes_folder: Path, tmp_path: Path) -> None:
    pipeline.run(make_pass(scenes_folder, tmp_path / "out"), engine="local")
    table = pq.read_table(tmp_path / "out" / "part-000006.parquet")
    assert table.num_rows == 160 - 6 * 24
    assert table.schema.equals(RESULT)
    assert np.all(table["status"].to_numpy(zero_copy_only=False) == "ok")


@pytest.mark.usefixtures("ray_session")
def test_a_row_that_kills_its_actor_is_left_out_and_the_job_goes_on(scenes_folder: Path, tmp_path: Path) -> None:
    pipeline.run(make_pass(scenes_folder, tmp_path / "without"), engine="local")
    deadly = ("train-000030",)
    work = make_pass(scenes_folder, tmp_path / "out", specs=[StageSpec(Digest, "scorer", {"deadly": deadly})])
    assert pipeline.run(work, engine="ray") == {"ok": 159, "failed": 1}
    result, expected = read_parts(tmp_path / "out"), read_parts(tmp_path / "without")
    failed = result.filter(pc.equal(result["status"], "failed"))
    assert failed["image_id"].to_pylist() == list(deadly)
    assert failed["error"].to_pylist() == ["the row kills its worker (pool scorer)"]
    others = pc.not_equal(expected["image_id"], deadly[0])
    assert result.filter(others).equals(expected.filter(others))
