"""The benchmark: the same seed gives the same bytes, and the counts are what is asked for."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from raygen.config import validate
from raygen.datasets import open_dataset
from raygen.datasets.rows import RowIndex
from raygen.datasets.scene_rendering import render_scene
from raygen.datasets.scenes import ScenesConfig
from raygen.errors import ConfigError, DataError
from raygen.images import decode_image, decode_mask
from raygen.run.config import make_config

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


GROUPS = {
    "extreme": {"train": (3498, 184, 56, 1057), "val": (467, 466, 133, 133), "test": (2255, 2255, 642, 642)},
    "paper": {"train": (1942, 456, 455, 1942), "val": (467, 466, 133, 133), "test": (2255, 2255, 642, 642)},
}


@pytest.mark.parametrize("bias", GROUPS)
def test_each_level_of_bias_has_its_counts_and_the_first_number_of_images(bias: str, tmp_path: Path) -> None:
    config = validate(ScenesConfig, {"bias": bias, "scale": 0.02}, where="test")
    opened = open_dataset(config.model_copy(update={"scale": 1.0}))
    for split, counts in GROUPS[bias].items():
        found = opened.group_counts(split)
        assert found is not None
        assert found.flatten().tolist() == list(counts)
        assert sum(counts) == sum(GROUPS["extreme"][split])
    table = RowIndex(write(config, tmp_path / "a", 0)).split("train")
    written = np.bincount(table["label"].to_numpy() * 2 + table["attribute"].to_numpy())
    assert written.tolist() == [round(0.02 * count) for count in GROUPS[bias]["train"]]


def test_the_extreme_level_is_what_the_scenes_were_before_there_were_levels(tmp_path: Path) -> None:
    """Its counts written out, as configs of then have them, give the same bytes; nothing names the level."""
    config = validate(ScenesConfig, {"train_counts": [3498, 184, 56, 1057], "scale": 0.01}, where="test")
    assert config == ScenesConfig(bias="extreme", scale=0.01) == ScenesConfig(scale=0.01)
    assert "bias" not in config.deciding()
    index = RowIndex(write(config, tmp_path / "a", 0))
    told = "".join(f"{row['image_id']} {row['label']}{row['attribute']};" for row in index.table.to_pylist())
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == "ba2d41648e8f923d"


def test_levels_share_test_images_and_differ_in_training(tmp_path: Path) -> None:
    rows = {}
    for bias in GROUPS:
        index = RowIndex(write(validate(ScenesConfig, {"bias": bias, "scale": 0.01}, where="test"), tmp_path / bias, 0))
        ids = index.split("test")["image_id"].to_pylist()
        rows[bias] = index.fetch(ids, ["image_png", "label", "attribute"]).to_pylist()
    assert rows["paper"] == rows["extreme"]


def test_a_level_that_there_is_none_of_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.bias: .*'extreme' or 'paper'.*found 'papers'"):
        make_config({"recipe": "erm"}, ["dataset.bias=papers"], where="test")


def test_counts_of_another_level_are_refused_and_null_takes_those_of_the_level() -> None:
    written = json.loads(ScenesConfig(bias="paper").model_dump_json())  # as a run's config.yaml has it
    assert ScenesConfig(**written) == ScenesConfig(bias="paper")
    # Counts of a level have its name, whoever gave them.
    assert ScenesConfig(train_counts=written["train_counts"]).bias == "paper"
    for wrong in ({"bias": "extreme"}, {"train_counts": [10, 1, 1, 10]}):
        with pytest.raises(ConfigError, match=r"train_counts is .*leave train_counts out, or give null"):
            validate(ScenesConfig, {**written, **wrong}, where="test")
    assert ScenesConfig(**{**written, "bias": "extreme", "train_counts": None}) == ScenesConfig()
    assert ScenesConfig(train_counts=(10, 1, 1, 10)).bias == "extreme"  # counts of nobody's, as ever
