import itertools
from pathlib import Path

import pyarrow as pa
import pytest

from raygen.errors import DataError
from raygen.schema import CANDIDATE, PLAN, SCORE, SOURCE, cast, plan_key

NUMBERS = pa.schema([pa.field("number", pa.int32(), nullable=False), pa.field("word", pa.string())])


def test_columns_are_cast_ordered_and_filled() -> None:
    table = pa.table({"extra": [1], "word": pa.array(["a"]).dictionary_encode(), "number": pa.array([3], pa.int64())})
    result = cast(table, NUMBERS, what="table")
    assert result.schema == NUMBERS
    assert result.to_pylist() == [{"number": 3, "word": "a"}]
    assert cast(pa.table({"number": [1]}), NUMBERS, what="table")["word"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"word": ["a"]}), "'number'.*missing"),
        (pa.table({"number": [1.5]}), "expected int32"),
        (pa.table({"number": [float("nan")]}), "expected int32"),
        (pa.table({"number": [2**40]}), "not in range"),
        (pa.table({"number": ["x"]}), "expected int32"),
        (pa.table({"number": [[1]]}), "expected int32"),
        (pa.table({"number": pa.array([1, None], pa.int32())}), "1 empty values"),
        (pa.table([pa.array([1]), pa.array([2])], names=["number", "number"]), "occurs 2 times"),
        (pa.table({"number": [1], "word": [b"\xff"]}), "expected string"),
    ],
)
def test_wrong_columns_are_named(table: pa.Table, message: str) -> None:
    with pytest.raises(DataError, match=f"shard 7: column.*{message}|shard 7: {message}"):
        cast(table, NUMBERS, what="shard 7")


def test_null_stays_null() -> None:
    table = pa.table({"number": [1, 2], "word": pa.array([None, "b"])})
    assert cast(table, NUMBERS, what="table")["word"].to_pylist() == [None, "b"]


def test_no_row_is_a_table_too() -> None:
    assert cast(NUMBERS.empty_table(), NUMBERS, what="table").num_rows == 0


@pytest.mark.parametrize("schema", [SOURCE, SCORE, PLAN, CANDIDATE])
def test_schemas_have_unique_columns_and_survive_parquet(schema: pa.Schema, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    assert len(set(schema.names)) == len(schema.names)
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    assert pq.read_schema(tmp_path / "empty.parquet").remove_metadata() == schema


def test_candidate_holds_every_plan_column() -> None:
    assert CANDIDATE.names[: len(PLAN)] == PLAN.names


def test_keys_are_unique_even_if_ids_look_like_keys() -> None:
    ids = ["a", "a/1", "a/1/0000", "a/1/0000/1"]
    keys = {plan_key(i, target_label=t, sample=s) for i in ids for t in (0, 1) for s in (0, 1, 10_000)}
    assert len(keys) == len(ids) * 2 * 3


def test_keys_of_one_image_stay_together_when_sorted() -> None:
    ids = ["img", "img-2", "img2", "img 2"]
    keys = sorted(plan_key(i, target_label=t, sample=s) for i in ids for t in (0, 1) for s in range(3))
    order = [key.rsplit("/", 2)[0] for key in keys]
    changes = sum(left != right for left, right in itertools.pairwise(order))
    assert changes == len(ids) - 1
