"""Every recipe on three classes and three attributes, from its pictures to its page; the registries say which."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from raygen import recipes
from raygen.datasets import open_dataset
from raygen.datasets.rows import RowIndex
from raygen.datasets.scenes3 import Scenes3Config
from raygen.report.collect import write_summary
from raygen.report.html import write_report
from raygen.run.names import known_recipes
from raygen.synthesis import SYNTHESES

COUNTS = {"train_counts": [20, 3, 3, 3, 20, 3, 3, 3, 20], "val_counts": [6] * 9, "test_counts": [3] * 9}
# What a tiny run needs that its defaults are not: little to fit, and models that are there.
TINY = {
    "engine": "local",
    "dataset": {"name": "scenes3", **COUNTS},
    # Not 8 wide: oneDNN's gradient of so narrow a network writes beyond its buffer for some sizes of a last batch.
    "classifier": {"image_size_px": 32},
    "erm": {"epochs": 2},
    "inpainter": {"model": "tiny", "num_inference_steps": 1, "guidance_scale": 1},
    "unit_rows": 16,
    "max_failed_fraction": 1,
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
    synthesis = known_recipes()[recipe].synthesis
    if synthesis is None:
        return
    table = pq.read_table(tmp_path / "run" / "plan" / "plan.parquet")
    assert {*table["target_label"].to_pylist()} <= {0, 1, 2}
    assert {*table["source_label"].to_pylist()} == {0, 1, 2}
    assert {f"control_{kind}" for kind in SYNTHESES[synthesis].Config.controls} <= {*summary["results"]}


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
