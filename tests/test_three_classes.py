"""Every recipe on three classes and three attributes, from its pictures to its page; the registries say which."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raygen import recipes
from raygen.datasets import open_dataset
from raygen.datasets.rows import RowIndex
from raygen.datasets.scenes3 import Scenes3Config
from raygen.errors import ConfigError, DataError
from raygen.report.collect import write_summary
from raygen.report.html import write_report
from raygen.run.names import known_recipes
from raygen.run.opened import Opened
from raygen.run.preflight import check, check_painter

COUNTS = {"train_counts": [20, 3, 3, 3, 20, 3, 3, 3, 20], "val_counts": [6] * 9, "test_counts": [3] * 9}
# What a tiny run needs that its defaults are not: little to fit, and models that are there.
TINY = {
    "engine": "local",
    "dataset": {"name": "scenes3", **COUNTS},
    # Not 8 wide: with some sizes of a last batch such a network has corrupted memory, as narrower ones do in oneDNN.
    "classifier": {"image_size_px": 32},
    "erm": {"epochs": 2},
    "inpainter": {"model": "tiny", "num_inference_steps": 1, "guidance_scale": 1},
    "unit_rows": 16,
    "max_failed_fraction": 1,
    "controls": ["flat"],
    "fit": {"num_threads": 1},
}
# The shipped segmenter has seen no owl, and a classifier of two epochs gets most of its images wrong.
SYNTHESIS: dict[str, dict[str, Any]] = {
    "dbb": {"mask": "truth", "k": 4, "prune": False},
    "scgs": {"gen_ratio": 0.05, "num_clusters": [1, 2, 1], "top_q": 0.4},
    "dac": {"quantile": 0.9, "knee_images": 16},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose dataset and ERM the others take."""
    folder = tmp_path_factory.mktemp("base") / "erm"
    run("erm", folder)
    return folder


def run(recipe: str, out: Path, *, reuse: list[Path] | None = None, **changes: Any) -> dict[str, Any]:
    """A tiny run, with its page; gives back its summary."""
    synthesis = known_recipes()[recipe].synthesis if recipe in known_recipes() else recipe.partition("+")[0]
    data = {**TINY, "recipe": recipe, **changes}
    if synthesis is not None:
        data["synthesis"] = {**SYNTHESIS.get(synthesis, {}), **changes.get("synthesis", {})}
    config = recipes.make_config(data, [], where="test")
    if "epochs" in type(config.algorithm).model_fields:
        config = recipes.make_config(data, ["algorithm.epochs=1"], where="test")
    recipes.run(config, out, fresh=False, command="test", say=lambda line: None, reuse=reuse or [])
    summary = write_summary(out)
    assert "owl" in write_report(out).read_text(encoding="utf-8")
    return summary


@pytest.mark.parametrize("recipe", sorted({*known_recipes()} - {"erm"}))
def test_every_recipe_takes_three_classes_and_attributes(recipe: str, base: Path, tmp_path: Path) -> None:
    summary = run(recipe, tmp_path / "run", reuse=[base])
    for name in ("erm", recipe):
        groups = summary["results"][name]["test"]["groups"]
        assert [group["group"] for group in groups] == [*range(9)]
        assert [group["n"] for group in groups] == [3] * 9
    if known_recipes()[recipe].synthesis is None:
        return
    table = pq.read_table(tmp_path / "run" / "plan" / "plan.parquet")
    assert {*table["target_label"].to_pylist()} <= {0, 1, 2}
    assert {*table["source_label"].to_pylist()} == {0, 1, 2}
    assert "control_flat" in summary["results"]


def test_scenes3_are_what_they_should_be(base: Path) -> None:
    index = RowIndex(base / "data")
    assert index.dataset.class_names == ("landbird", "waterbird", "owl")
    assert index.dataset.attribute_names == ("land", "water", "snow")
    train = index.split("train")
    groups = train["label"].to_numpy() * 3 + train["attribute"].to_numpy()
    assert np.bincount(groups).tolist() == COUNTS["train_counts"]
    config = Scenes3Config()
    assert [sum(config.counts(split)) for split in ("train", "val", "test")] == [3840, 900, 3600]
    assert open_dataset(config).class_counts("train") == {"landbird": 1280, "waterbird": 1280, "owl": 1280}


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("dbb", "synthesis.mask=language", "knows only the birds of 'scenes'"),
        ("dbb", "algorithm.gamma=[1, 2]", "expected 3 numbers, one per class"),
        ("dbb", "synthesis.target=[1, 0, 2]", "expected 3 entries, each another class"),
        ("scgs", "synthesis.num_clusters=[1, 2]", "2 entries, but the dataset has 3 classes"),
        ("dac", "textual_inversion.num_images=3", "recipe dac asks no model for pictures"),
        ("dac", "dataset.train_counts=[9, 9, 9, 9, 9, 9, 0, 0, 0]", "class 'owl' has no training image"),
        ("lisa", "dataset.train_counts=[9, 0, 0, 0, 9, 0, 0, 0, 9]", "a class and an attribute of its own"),
    ],
)
def test_what_does_not_fit_three_classes_is_refused_before_any_work(recipe: str, override: str, message: str) -> None:
    def begin() -> None:
        data = {**TINY, "recipe": recipe, "synthesis": SYNTHESIS.get(recipe)}
        check(Opened(recipes.make_config(data, [override], where="test")))

    with pytest.raises((ConfigError, DataError), match=re.escape(message)):
        begin()


def test_the_shipped_painter_is_not_taken_unless_it_is_named_but_dac_needs_none(tmp_path: Path) -> None:
    unnamed = {name: value for name, value in TINY.items() if name != "inpainter"}
    for recipe in ("dbb", "dac"):
        config = recipes.make_config({**unnamed, "recipe": recipe, "synthesis": SYNTHESIS[recipe]}, [], where="test")
        opened = Opened(config)
        if recipe == "dbb":
            with pytest.raises(ConfigError, match="paints only the birds of 'scenes', but the dataset is 'scenes3'"):
                check_painter(opened, tmp_path, fresh=False)
        else:
            check_painter(opened, tmp_path, fresh=False)
            check(opened)
            assert opened.painter is None
