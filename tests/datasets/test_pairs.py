"""The same object before another background: of the scenes, rendered; of a folder, listed in pairs.csv."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygen.datasets import open_dataset
from raygen.datasets.folder import FolderConfig
from raygen.datasets.rows import RowIndex
from raygen.datasets.scenes import ScenesConfig
from raygen.errors import DataError
from raygen.images import decode_image, decode_mask

SCENES = ScenesConfig(train_counts=(2, 1, 1, 2), val_counts=(1, 1, 1, 1), test_counts=(3, 3, 3, 3))


def test_a_scenes_pair_has_another_background_and_the_same_bird(tmp_path: Path) -> None:
    """The finish scales and grains either picture alike, so that pixels that are all bird stay what they are."""
    scenes = open_dataset(SCENES)
    scenes.write(tmp_path, run_seed=5)
    index = RowIndex(tmp_path)
    test = index.split("test")
    ids, groups = (
        test["image_id"].to_pylist(),
        list(zip(*(test[c].to_pylist() for c in ("label", "attribute")), strict=True)),
    )
    pairs = scenes.pairs(ids, groups, run_seed=5)
    pixels = index.fetch(ids, ["image_png", "object_png"]).to_pylist()
    shares = []
    for (label, attribute), row, pair in zip(groups, pixels, pairs, strict=True):
        assert pair is not None
        assert pair.image_png is not None
        same_HW = (decode_image(row["image_png"]) == decode_image(pair.image_png)).all(axis=2)
        object_HW = decode_mask(row["object_png"])
        shares.append((same_HW[object_HW].mean(), same_HW[~object_HW].mean()))
        assert pair.is_next_class == (label == attribute)
    inside, outside = np.mean(shares, axis=0)
    assert inside > 0.6  # all but its edges, where background shows through
    assert outside < 0.1
    assert pairs == scenes.pairs(ids, groups, run_seed=5)
    assert pairs != scenes.pairs(ids, groups, run_seed=6)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str | bytes | None], FolderConfig]:
    for name in ("a.png", "b.png", "c.png", "t.png", "others/a.png", "others/b.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 0, 0)).save(path)
    rows = ["img_filename,y,split", "a.png,0,test", "b.png,1,test", "c.png,1,val", "t.png,0,train"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))

    def with_pairs(text: str | bytes | None) -> FolderConfig:
        if text is not None:
            (tmp_path / "pairs.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return FolderConfig(path=tmp_path)

    return with_pairs


def test_a_folders_pairs_are_those_of_its_file(folder: Callable[[str | bytes | None], FolderConfig]) -> None:
    config = folder("﻿img_filename, pair_filename ,next_class\na.png,others/a.png,1\n b.png , others/b.png,\n")
    dataset = open_dataset(config)
    first, second, none = dataset.pairs(["a", "b", "c"], [(0, None), (1, None), (1, None)], run_seed=0)
    assert first is not None
    assert second is not None
    assert (first.image_png, first.is_next_class) == ((Path(config.path) / "others/a.png").read_bytes(), True)
    assert (second.image_png, second.is_next_class) == ((Path(config.path) / "others/b.png").read_bytes(), False)
    assert none is None
    before = dataset.pairs_state()
    assert before == open_dataset(config).pairs_state() is not None
    (Path(config.path) / "others/b.png").write_bytes(b"changed")
    assert open_dataset(config).pairs_state() != before


def test_pairs_decide_no_row(folder: Callable[[str | bytes | None], FolderConfig]) -> None:
    without = open_dataset(folder(None))
    assert (without.pairs_state(), without.pairs(["a"], [(0, None)], run_seed=0)) == (None, [None])
    with_them = open_dataset(folder("img_filename,pair_filename\na.png,others/a.png\n"))
    assert with_them.state(run_seed=0) == without.state(run_seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("img_filename,other\na.png,b.png\n", r"pairs\.csv: column 'pair_filename' is missing; found img_filename, ot"),
        ("", r"pairs\.csv: column 'img_filename' is missing; found nothing"),
        (
            "img_filename,pair_filename\nz.png,others/a.png\n",
            r"line 2: img_filename 'z\.png' is no picture of the data",
        ),
        ("img_filename,pair_filename\na.png,others/z.png\n", r"line 2: pair_filename 'others/z\.png' does not exist"),
        ("img_filename,pair_filename\na.png\n", r"line 2: pair_filename '' is empty"),
        ("img_filename,pair_filename\na.png,others\n", r"line 2: pair_filename 'others' is a folder, not a file"),
        ("img_filename,pair_filename,next_class\na.png,others/a.png,yes\n", r"line 2: next_class is 'yes'; expected"),
        (
            "img_filename,pair_filename\na.png,others/a.png\na.png,others/b.png\n",
            r"line 3: .*'a\.png' has a pair alrea",
        ),
        ("img_filename,pair_filename\na.png,others/a.png,0,1\n", r"line 2: it has more cells than the header"),
        (b"img_filename,pair_filename\n\xff\xfe,b\n", r"pairs\.csv cannot be read as CSV in UTF-8"),
    ],
)
def test_wrong_pairs_are_named_before_any_work(
    folder: Callable[[str | bytes | None], FolderConfig], text: str | bytes, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(folder(text))
