"""Folders of SOURCE shards that others wrote, or that came to harm: refused alike by check and run."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.datasets import open_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.folder import FolderConfig
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.images import encode_image

PICTURES = [encode_image(np.random.default_rng(i).integers(0, 256, (9, 7, 3), dtype=np.uint8)) for i in range(3)]
INFO = {"name": "birds", "class_names": ["a", "b"], "attribute_names": [], "prompts": ["x", "y"]}
COLUMNS: dict[str, Any] = {
    "image_id": ["1", "2", "3"],
    "image_png": PICTURES,
    "label": [0, 1, 0],
    "split": ["train", "val", "test"],
    "role": ["source"] * 3,
}


def make(root: Path, info: Any = INFO, **columns: Any) -> Path:
    root.mkdir()
    (root / "dataset.json").write_text(json.dumps(info))
    given = {**COLUMNS, **columns}
    pq.write_table(pa.table({name: given[name] for name in given if given[name] is not None}), root / "part-0.parquet")
    return root


def write(root: Path) -> RowIndex:
    out = root.with_name("rows")
    out.mkdir(exist_ok=True)
    open_dataset(FolderConfig(path=root)).write(out, run_seed=0)
    return RowIndex(out)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, None, 1]}, "column 'label' has 1 empty values"),
        ({"label": [0, 0.5, 1]}, "column 'label' is double; expected int32"),
        ({"label": ["a", "b", "a"]}, "column 'label' is string; expected int32"),
        ({"label": [0, 2**40, 0]}, "column 'label' is int64; expected int32"),
        ({"label": [0, 2, 0]}, r"label 2; expected 0\.\.1 \(a, b\)"),
        ({"attribute": [0, 0, 0]}, "attribute 0; expected"),
        ({"image_id": ["1", "1", "2"]}, "occurs twice"),
        ({"split": ["train", "dev", "test"]}, "split 'dev'"),
        ({"role": None}, "column 'role' .* is missing"),
        ({"image_png": [{"bytes": data} for data in PICTURES]}, r"column 'image_png' is struct<.*; expected binary"),
    ],
)
def test_rows_of_another_form_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    same(make(tmp_path / "data", **columns), message)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ([1], "dataset.json is damaged"),
        ({**INFO, "class_names": "ab"}, "dataset.json is damaged .*no list of words"),
        ({**INFO, "class_names": [1, 2]}, "dataset.json is damaged .*no list of words"),
        ({**INFO, "name": "\ud800"}, "dataset.json is damaged .*surrogates"),
        ({**INFO, "class_names": ["a", "a"]}, "has 'a' 2 times"),
    ],
)
def test_names_of_another_form_are_refused(tmp_path: Path, info: Any, message: str) -> None:
    same(make(tmp_path / "data", info), message)


def _cut(shard: Path) -> str:
    shard.write_bytes(shard.read_bytes()[:200])
    return "cannot be read as a shard"


def _damaged(shard: Path) -> str:
    # Labels and footer are whole: it shows when pictures are read.
    data = bytearray(shard.read_bytes())
    start = data.index(PICTURES[0][:8])
    data[start - 40 : start] = b"\xff" * 40
    shard.write_bytes(data)
    return "cannot be read as a shard"


def _pipe(shard: Path) -> str:
    shard.unlink()
    os.mkfifo(shard)
    return "is a named pipe, not a file"


def _dangling(shard: Path) -> str:
    shard.unlink()
    shard.symlink_to("/gone")
    return "is a link to /gone, which does not exist"


@pytest.mark.parametrize("spoil", [_cut, _damaged, _pipe, _dangling])
def test_a_shard_that_came_to_harm_is_refused(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    root = make(tmp_path / "data")
    same(root, spoil(root / "part-0.parquet"))


def same(root: Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write(root)
    try:
        found = "\n".join(check_dataset(root).problems)
    except DataError as error:
        found = str(error)
    with pytest.raises(DataError, match=message):
        raise DataError(found)


@pytest.mark.parametrize("gone", [True, False])
def test_a_picture_in_a_file_of_its_own_is_read_where_there_is_one(tmp_path: Path, gone: bool) -> None:
    path = tmp_path / "1.png"
    os.mkfifo(path) if gone else path.write_bytes(PICTURES[0])
    root = make(tmp_path / "data", image_png=[None, *PICTURES[1:]], path=[str(path), None, None])
    fetched = write(root).fetch(["1", "2"], ["image_png"])["image_png"].to_pylist()
    assert fetched == [None if gone else PICTURES[0], PICTURES[1]]
    expected = [f"1: {path} cannot be read: not a regular file"] if gone else []
    assert [problem for problem in check_dataset(root).problems if problem.startswith("1:")] == expected
