"""Rows by id: what a dict of them would say."""

import numpy as np
import pyarrow as pa
import pytest

from raygen.datasets.rows_by_id import RowsById

IDS = [f"{'äxb'[i % 3]}{i:04d}" for i in range(300)]


@pytest.mark.parametrize("ids", [sorted(IDS), IDS, ["one"], []], ids=["sorted", "mixed", "one", "none"])
@pytest.mark.parametrize("num_asked", [1, 200])
def test_rows_are_those_of_a_dict(ids: list[str], num_asked: int) -> None:
    rows, expected = RowsById(pa.chunked_array([ids], pa.string())), {text: row for row, text in enumerate(ids)}
    assert rows.num_repeated == 0
    asked = [ids[i] for i in np.random.default_rng(0).integers(len(ids), size=num_asked)] if ids else []
    assert rows.rows(asked) == [expected[text] for text in asked]
    for absent in ("", "m", "ü"):
        with pytest.raises(KeyError, match=f"'{absent}'"):
            rows.rows([*asked, absent])


def test_repeated_ids_are_counted() -> None:
    assert RowsById(pa.chunked_array([["b", "a", "b", "b"]])).num_repeated == 2
    assert RowsById(pa.chunked_array([["a", "a"], ["b"]])).num_repeated == 1
