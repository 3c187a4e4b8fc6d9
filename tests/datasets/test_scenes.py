"""The benchmark: the same seed gives the same bytes, and the counts are what is asked for."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from raygen.datasets import open_dataset
from raygen.datasets.rows import RowIndex
from raygen.datasets.scene_rendering import render_scene
from raygen.datasets.scenes import ScenesConfig
from raygen.errors import DataError
from raygen.images import decode_image, decode_mask

SMALL = ScenesConfig(train_counts=(8, 3, 2, 5), val_counts=(2, 2, 2, 2), test_counts=(3, 3, 3, 3))


def write(config: ScenesConfig, folder: Path, seed: int) -> Path:
    folder.mkdir()
    open_dataset(config).write(folder, run_seed=seed)
    return folder


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    a, b, c = (write(SMALL, tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    read = lambda folder: [path.read_bytes() for path in sorted(folder.iterdir())]  # noqa: E731
    assert read(a) == read(b)
    assert read(a) != read(c)


def test_groups_have_the_counts_asked_for(tmp_path: Path) -> None:
    table = RowIndex(write(SMALL, tmp_path / "a", 0)).split("train")
    group = table["label"].to_numpy() * 2 + table["attribute"].to_numpy()
    assert np.bincount(group).tolist() == [8, 3, 2, 5]


def test_default_counts_are_those_of_waterbirds() -> None:
    config = ScenesConfig()
    assert [sum(config.counts(split)) for split in ("train", "val", "test")] == [4795, 1199, 5794]
    assert ScenesConfig(scale=0.1).counts("train") == (350, 18, 6, 106)


def test_the_label_changes_the_bird_and_nothing_else() -> None:
    for seed in range(20):
        land, water = (render_scene(seed, label=label, attribute=0) for label in (0, 1))
        assert np.array_equal(land.object_HW, water.counterpart_HW)
        assert np.array_equal(land.counterpart_HW, water.object_HW)
        # The outline reaches one pixel beyond the mask of covered pixels.
        far = ~(land.object_HW | water.object_HW)
        far[1:] &= far[:-1].copy()
        far[:-1] &= far[1:].copy()
        far[:, 1:] &= far[:, :-1].copy()
        far[:, :-1] &= far[:, 1:].copy()
        assert np.array_equal(land.image_HWC[far], water.image_HWC[far])


def test_masks_are_where_the_bird_is(tmp_path: Path) -> None:
    index = RowIndex(write(SMALL, tmp_path / "a", 0))
    rows = index.fetch(index.table["image_id"].to_pylist(), ["image_png", "object_png"]).to_pylist()
    for row in rows:
        mask = decode_mask(row["object_png"])
        assert decode_image(row["image_png"]).shape == (64, 64, 3)
        assert 0.05 < mask.mean() < 0.4


def test_a_negative_count_and_an_empty_split_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="train_counts"):
        ScenesConfig(train_counts=(1, -1, 1, 1))
    with pytest.raises(DataError, match="at least one scene"):
        open_dataset(ScenesConfig(val_counts=(0, 0, 0, 0))).write(tmp_path, run_seed=0)
