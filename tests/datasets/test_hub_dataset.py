"""Hugging Face's datasets from folders: what save_to_disk, Parquet and ImageFolder hold, read by names and features."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raygen.datasets import named_config, open_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.hub_config import HubConfig
from raygen.datasets.hub_dataset import list_rows
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.images import decode_image, encode_image, encode_mask

# Not by a plain import: for type checkers the folder tests/datasets has the same name.
hub: Any = importlib.import_module("datasets")
NUM = 12
SPLITS = ("train", "validation", "test")
PICTURES = [np.full((6, 5, 3), 20 * i, dtype=np.uint8) for i in range(NUM)]


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(hub.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    hub.disable_progress_bars()
    yield
    hub.enable_progress_bars()


def rows(numbers: range, *, image: str = "image", label: str = "label") -> Any:
    columns = {
        image: [{"bytes": encode_image(PICTURES[i]), "path": None} for i in numbers],
        label: [i % 2 for i in numbers],
        "background": ["land" if i % 4 < 2 else "water" for i in numbers],
        "object": [{"bytes": encode_mask(np.eye(6, 5, dtype=bool)), "path": None} for _ in numbers],
    }
    features = {
        image: hub.Image(),
        label: hub.ClassLabel(names=["landbird", "waterbird"]),
        "background": hub.Value("string"),
        "object": hub.Image(),
    }
    return hub.Dataset.from_dict(columns, features=hub.Features(features))


def splits(**names: str) -> Any:
    return hub.DatasetDict({name: rows(range(i * 4, i * 4 + 4), **names) for i, name in enumerate(SPLITS)})


COLUMNS = {"attribute": "background", "mask": "object"}


def written(config: HubConfig, out: Path) -> list[tuple[Any, ...]]:
    out.mkdir()
    open_dataset(config).write(out, run_seed=0)
    index = RowIndex(out)
    names = ("image_id", "label", "attribute", "split")
    return list(zip(*(index.table[name].to_pylist() for name in names), strict=True))


EXPECTED = [
    (f"{SPLITS[i // 4]}/{i % 4:08d}", i % 2, int(i % 4 >= 2), ("train", "val", "test")[i // 4]) for i in range(NUM)
]


def test_a_saved_folder_is_read_with_its_names(tmp_path: Path) -> None:
    splits().save_to_disk(tmp_path / "saved")
    assert named_config(str(tmp_path / "saved"))["name"] == "hf"
    config = HubConfig(path=tmp_path / "saved", columns=COLUMNS)
    assert written(config, tmp_path / "out") == sorted(EXPECTED)
    opened = open_dataset(config)
    assert (opened.info.class_names, opened.info.attribute_names) == (("landbird", "waterbird"), ("land", "water"))
    assert opened.num_masks("train") == 4
    found = {row["image_id"]: decode_image(row["image_png"]) for row in list_rows(config).rows()}
    for i, (image_id, *_) in enumerate(EXPECTED):
        np.testing.assert_array_equal(found[image_id], PICTURES[i])
    assert check_dataset(tmp_path / "out").problems == []


def test_columns_are_found_by_their_features(tmp_path: Path) -> None:
    made = splits(image="photo", label="kind").remove_columns("object")
    made.save_to_disk(tmp_path / "saved")
    config = HubConfig(path=tmp_path / "saved", columns={"attribute": "background"})
    assert written(config, tmp_path / "out") == sorted(EXPECTED)


def test_parquet_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, table in splits().items():
        table.to_parquet(tmp_path / "data" / f"{name}.parquet")
    config = HubConfig(path=tmp_path / "data", columns=COLUMNS)
    assert written(config, tmp_path / "out") == sorted(EXPECTED)


def test_a_folder_of_classes_is_read(tmp_path: Path) -> None:
    for i in range(8):
        file = tmp_path / "data" / ("train", "validation")[i // 4] / ("cat", "dog")[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_image(PICTURES[i]))
    listing = list_rows(HubConfig(path=tmp_path / "data"))
    assert listing.info.class_names == ("cat", "dog")
    for row in listing.rows():
        brightness = int(decode_image(row["image_png"]).max())
        assert row["label"] == brightness // 20 % 2
        assert row["split"] == ("train", "val")[brightness // 80]


def test_a_split_is_named_or_drawn(tmp_path: Path) -> None:
    hub.DatasetDict({"train": rows(range(8)), "test": rows(range(8, 12))}).save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match=r"none of its splits is val; found train, test\. Name it: .*dataset\.split="):
        list_rows(HubConfig(path=tmp_path / "two"))
    named = list_rows(HubConfig(path=tmp_path / "two", splits={"val": "test"}))
    assert named.counts() == {("train", 0, None): 4, ("train", 1, None): 4, ("val", 0, None): 2, ("val", 1, None): 2}
    drawn = list_rows(HubConfig(path=tmp_path / "two", split=(0.5, 0.5, 0)))
    assert drawn.counts() == {(split, label, None): 3 for split in ("train", "val") for label in (0, 1)}
    rows(range(8)).save_to_disk(tmp_path / "one")
    assert list_rows(HubConfig(path=tmp_path / "one", split=(0.5, 0.25, 0.25))).missing_splits() == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": {"label": "kind"}}, "dataset.columns.label is 'kind', which is no column; found image, label"),
        ({"columns": {"image": "background"}}, "column 'background' is Value; the image needs the feature Image"),
        ({"splits": {"val": "dev"}}, "dataset.splits.val is 'dev', no split; found train, validation, test"),
        ({"class_names": ("a",)}, r"class_names has 1 names \(a\) for the ClassLabel label: landbird, waterbird"),
        ({"class_names": ("waterbird", "landbird")}, "'landbird' would be called 'waterbird'"),
    ],
)
def test_names_that_are_not_there_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    splits().save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=message):
        list_rows(HubConfig(path=tmp_path / "saved", **fields))


def test_a_label_that_is_not_known_is_named(tmp_path: Path) -> None:
    table = rows(range(8)).map(lambda row: {"label": -1 if row["background"] == "water" else row["label"]})
    table.save_to_disk(tmp_path / "saved")
    listing = list_rows(HubConfig(path=tmp_path / "saved", split=(0.5, 0.5, 0)))
    assert len(listing.problems) == 4
    assert "row train/00000002: it has no label" in listing.problems[0]


def test_without_a_network_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'nobody/birds' is no folder here, .*give the path of a folder"):
        list_rows(HubConfig(path=Path("nobody/birds")))
    with pytest.raises(DataError, match="is not there, or no folder"):
        list_rows(HubConfig(path=tmp_path / "gone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded by Hugging Face's datasets"):
        list_rows(HubConfig(path=tmp_path / "empty"))
