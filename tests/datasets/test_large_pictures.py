"""Pictures of which a few hundred are more than 2 GiB, and more than should be in memory at once."""

import hashlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.algorithms.training_set import TrainingSet
from raygen.datasets.check import check_dataset
from raygen.datasets.folder import FolderConfig, open_folder
from raygen.datasets.rows import RowIndex
from raygen.datasets.table import DatasetInfo, write_source
from raygen.errors import DataError
from raygen.images import encode_image
from raygen.pools import pipeline
from raygen.pools.config import PoolConfig, PoolsConfig
from raygen.pools.units import Pass
from raygen.run.evaluation import rows_of_unit
from raygen.schema import SOURCE, by_bytes
from raygen.stages.spec import Batch, StageSpec, object_column
from raygen.storage.parts import Parts, each_part

INFO = DatasetInfo("d", ("a", "b"), ("x", "y"), ("", ""))


def source_rows(sizes: list[int]) -> Iterator[dict[str, Any]]:
    """Rows whose pictures have so many random bytes; every fifth has no attribute, every third an object mask."""
    rng = np.random.default_rng(0)
    for i, size in enumerate(sizes):
        yield {
            "image_id": f"{i:06d}",
            "image_png": rng.bytes(size),
            "label": i % 2,
            "attribute": None if i % 5 == 0 else 1,
            "split": ("train", "val", "test")[i % 3],
            "role": "source",
            "object_png": rng.bytes(7) if i % 3 == 0 else None,
        }


def make(folder: Path, sizes: list[int], **options: Any) -> list[dict[str, Any]]:
    folder.mkdir()
    write_source(source_rows(sizes), INFO, folder, **options)
    return list(source_rows(sizes))


def group_rows(shard: Path) -> list[int]:
    metadata = pq.read_metadata(shard)
    return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]


def test_shards_of_usual_pictures_are_the_bytes_that_a_whole_table_gives(tmp_path: Path) -> None:
    expected = make(tmp_path / "data", [(i * 37) % 1500 + 1 for i in range(2100)])
    for number, part in enumerate((expected[:2048], expected[2048:])):
        columns = {field.name: [row.get(field.name) for row in part] for field in SOURCE}
        whole = pa.table(columns).cast(SOURCE)
        pq.write_table(whole, tmp_path / "whole", row_group_size=32, compression="none", use_dictionary=False)
        assert (tmp_path / "data" / f"part-{number:05d}.parquet").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len(list((tmp_path / "data").iterdir())) == 3  # and dataset.json


def test_a_row_group_ends_before_its_pictures_are_too_many_bytes(tmp_path: Path) -> None:
    # A mask of 7 bytes is in rows 0, 3, 6, ...: 407 + 400, 700, 2007 alone, 993 + 0, 8 + 1 + 900, 99 + 5.
    make(tmp_path / "data", [400, 400, 700, 2000, 993, 0, 1, 1, 900, 92, 5], array_bytes=1000)
    assert group_rows(tmp_path / "data" / "part-00000.parquet") == [2, 1, 1, 2, 3, 2]


def test_only_the_pictures_of_one_row_group_are_held_while_a_shard_is_written(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    tracemalloc.start()
    write_source(source_rows([100_000] * 320), INFO, tmp_path / "data")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "data" / "part-00000.parquet").stat().st_size > 32_000_000
    assert peak < 8_000_000  # 32 pictures are 3.2 MB


def test_a_file_that_no_shard_can_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image '000002': picture and mask have 1,001 bytes; at most 1,000"):
        make(tmp_path / "data", [1000 - 7, 1000, 1001], max_file_bytes=1000)
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize(
    ("sizes", "most", "most_bytes", "expected"),
    [
        ([], 3, 10, []),
        ([1, 1, 1, 1], 3, 10, [[1, 1, 1], [1]]),
        ([5, 5, 5], 3, 10, [[5, 5], [5]]),
        ([11, 1, 12, 13], 3, 10, [[11], [1], [12], [13]]),
        ([0, 0, 10, 0, 1], 9, 10, [[0, 0, 10, 0], [1]]),
    ],
)
def test_lists_end_by_number_and_by_bytes(
    sizes: list[int], most: int, most_bytes: int, expected: list[list[int]]
) -> None:
    assert list(by_bytes(sizes, lambda size: size, most=most, most_bytes=most_bytes)) == expected


def test_rows_come_a_few_at_a_time_whatever_their_order(tmp_path: Path) -> None:
    expected = make(tmp_path / "data", [1000] * 200)  # row groups of 32,000 bytes
    index = RowIndex(tmp_path / "data")
    ids = [row["image_id"] for row in expected]
    assert [t.num_rows for t in index.each(ids, ["image_png"])] == [200]
    index = RowIndex(tmp_path / "data", each_bytes=70_000)
    assert [t.num_rows for t in index.each(ids, ["image_png"])] == [64, 64, 64, 8]
    mixed = [ids[i] for i in (150, 3, 3, 4, 151, 199, 70)]
    tables = list(index.each(mixed, ["image_id", "image_png"]))
    assert max(t.num_rows for t in tables) < len(mixed)
    found = [(row["image_id"], row["image_png"]) for t in tables for row in t.to_pylist()]
    pictures = {row["image_id"]: row["image_png"] for row in expected}
    assert found == [(image_id, pictures[image_id]) for image_id in mixed]


def test_pictures_in_files_of_their_own_count_too(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(bytes([i]) * 1000)
    own = ({**row, "image_png": None, "path": str(tmp_path / f"{i}.png")} for i, row in enumerate(source_rows([0] * 6)))
    write_source(own, INFO, tmp_path / "data")
    index = RowIndex(tmp_path / "data")
    ids = index.table["image_id"].to_pylist()
    assert index.mean_bytes(ids) == pytest.approx(1000, rel=0.1)
    assert index.fetch(ids, ["image_png"])["image_png"].to_pylist() == [bytes([i]) * 1000 for i in range(6)]
    (tmp_path / "3.png").unlink()
    assert index.fetch(ids, ["image_png"])["image_png"][3].as_py() is None
    assert index.mean_bytes(ids) == pytest.approx(5000 / 6, rel=0.1)


def test_a_training_set_and_a_check_are_the_same_in_small_pieces(scenes_folder: Path) -> None:
    def images(**options: int) -> bytes:
        train = TrainingSet(RowIndex(scenes_folder, **options), "train", size_px=16)
        (found,) = train.batches([np.arange(len(train))])
        return found.numpy().tobytes()

    whole, lines = images(), check_dataset(scenes_folder).lines()
    assert images(each_bytes=1) == whole
    assert check_dataset(scenes_folder, chunk_bytes=20_000).lines() == lines


@pytest.mark.parametrize(
    ("batch_size", "mean_bytes", "expected"),
    [(64, 0.0, 512), (64, 100_000.0, 512), (64, 1 << 20, 512), (64, 4 << 20, 128), (64, 190e6, 64), (1, 190e6, 2)],
)
def test_a_unit_of_predictions_has_fewer_calls_of_large_pictures(
    batch_size: int, mean_bytes: float, expected: int
) -> None:
    assert rows_of_unit(batch_size, mean_bytes=mean_bytes) == expected


class Copy:
    """The source as the generated picture."""

    reads: ClassVar = frozenset({"image_png", "status", "error"})
    writes: ClassVar = frozenset({"generated_png"})

    def __call__(self, batch: Batch) -> Batch:
        return {**batch, "generated_png": object_column(batch["image_png"])}


RESULT = pa.schema([("key", pa.int32()), ("image_id", pa.string()), ("generated_png", pa.binary())])


def copy_pass(data: Path, out: Path, image_ids: list[str], **options: Any) -> Pass:
    out.mkdir()
    own = pa.table({"key": pa.array(range(len(image_ids)), pa.int32()), "image_id": image_ids})
    return Pass(
        own,
        RowIndex(data),
        ("image_png",),
        [StageSpec(Copy, "pruner")],
        PoolsConfig(pruner=PoolConfig(batch_size=2)),
        8,
        Parts(out, RESULT, "abc", own.num_rows, 0.05, **options),
    )


def test_a_part_is_written_in_arrays_that_arrow_can_join(tmp_path: Path) -> None:
    expected = make(tmp_path / "data", [300, 900, 5000, 100, 100, 20])
    ids = [row["image_id"] for row in expected]
    work = copy_pass(tmp_path / "data", tmp_path / "out", ids, array_bytes=1000)
    assert pipeline.run(work, engine="local")["ok"] == 6
    (part,) = each_part(tmp_path / "out")
    assert part["generated_png"].to_pylist() == [row["image_png"] for row in expected]
    assert part.schema.field("generated_png").type == pa.binary()


@pytest.mark.slow
def test_more_than_two_gibibytes_of_pictures_are_fetched_and_written(tmp_path: Path) -> None:
    # Eight pictures made from one source, as a plan may ask for: 8 x 280 MB.
    (row,) = make(tmp_path / "data", [280 << 20])
    digest = hashlib.blake2b(row["image_png"]).digest()
    ids = [row["image_id"]] * 8
    fetched = RowIndex(tmp_path / "data").fetch(ids, ["image_id", "image_png"])
    assert fetched["image_png"].nbytes > 2 << 30
    assert hashlib.blake2b(fetched["image_png"][7].as_py()).digest() == digest
    del fetched
    assert pipeline.run(copy_pass(tmp_path / "data", tmp_path / "out", ids), engine="local")["ok"] == 8
    (part,) = each_part(tmp_path / "out")
    kept = part.filter(pa.array([True] * 8))
    assert {hashlib.blake2b(data.as_py()).digest() for data in kept["generated_png"]} == {digest}


def test_listings_of_shards_read_few_large_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = make(tmp_path / "data", [1000] * 70)
    sizes: list[int] = []
    real = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, *args: Any, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in real(self, *args, **options):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    listed = open_folder(FolderConfig(path=tmp_path / "data"))
    assert [row["image_png"] for row in listed.rows(read_bytes=10_000)] == [row["image_png"] for row in expected]
    assert max(sizes) < 10


def test_a_picture_is_still_a_picture(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    picture_HWC = np.random.default_rng(0).integers(256, size=(5, 7, 3)).astype(np.uint8)
    (row,) = source_rows([0])
    write_source([{**row, "image_png": encode_image(picture_HWC)}], INFO, tmp_path / "data")
    train = TrainingSet(RowIndex(tmp_path / "data"), "train", size_px=16)
    assert len(train) == 1
