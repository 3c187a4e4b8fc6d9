"""Recipes that fit a new last layer, whole runs on one small dataset that share one first fit."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tiny_pipelines import save_pipeline

from raygen import recipes
from raygen.algorithms import head_algorithms
from raygen.classifier import load_classifier
from raygen.datasets.rows import RowIndex
from raygen.datasets.scene_rendering import render_scene
from raygen.errors import ConfigError, DataError
from raygen.report.collect import write_summary
from raygen.report.html import write_report
from raygen.synthesis.folds import assign_folds

QUICK: dict[str, dict[str, Any]] = {
    "nsf": {"scale_free": True},
    "dfr": {"num_retrains": 2, "c_values": [1.0]},
    "afr": {"num_steps": 20},
    "evals": {"num_extremes": [5], "l1": [0.0, 0.1], "epochs": 5},
    "self": {"num_rows": [10], "num_steps": 20},
    "hsfm": {"epochs": 2, "num_support": 8},
}
# The folder of the classifier whose features are taken.
BASES = {"afr": "afr_features/{}"}


@pytest.fixture(scope="module")
def small(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., recipes.RunConfig]:
    model = save_pipeline(tmp_path_factory.mktemp("model") / "inpaint", scheduler="dpm")

    def config(recipe: str, **changes: Any) -> recipes.RunConfig:
        data = {
            "recipe": recipe,
            "engine": "local",
            "dataset": {"name": "folder", "path": str(scenes_folder)},
            "classifier": {"width": 8},
            "erm": {"epochs": 1, "batch_size": 32, "learning_rate": 0.02},
            "inpainter": {"model": str(model), "num_inference_steps": 1},
            "pools": {name: {"batch_size": 8} for name in ("scorer", "masker", "inpainter", "pruner")},
            "fit": {"num_threads": 1},
            "unit_rows": 8,
            "controls": [],
        }
        return recipes.make_config({**data, **changes}, [], where="test")

    return config


Small = Callable[..., recipes.RunConfig]


def run(config: recipes.RunConfig, out: Path, *reuse: Path) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    recipes.run(config, out, fresh=False, command="test", say=said.append, reuse=reuse)
    return write_summary(out), said


@pytest.fixture(scope="module")
def first(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ERM alone, which all others take over."""
    folder = tmp_path_factory.mktemp("first") / "run"
    run(small("erm"), folder)
    return folder


def counts(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())["counts"]
    return found


@pytest.mark.parametrize("name", sorted(head_algorithms()))
def test_a_head_goes_from_the_rows_to_the_report(small: Small, first: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    summary, said = run(small(name, algorithm=QUICK[name]), out, first)
    assert "erm: done before" in said or "fit erm: done before" in said
    assert set(summary["results"]) == {"erm", name}
    assert all(0 <= splits["test"]["worst_group"] <= 1 for splits in summary["results"].values())
    base = out / BASES.get(name, "erm").format(name)
    before, after = (load_classifier(folder).state_dict() for folder in (base, out / "fit" / name))
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert changed == {"head.weight", "head.bias"}
    phrase = {"nsf": None, "evals": "worst environment: what the first fit gets right, and wrong, of each class"}
    assert summary["selected_by"] == {"erm": None, name: phrase.get(name, "worst group")}
    words = phrase.get(name, "worst group")
    line = (
        f"As fitted: erm, {name}." if words is None else f"Selected on validation: {name} by {words}. As fitted: erm."
    )
    assert line in write_report(out).read_text(encoding="utf-8")
    _, said = run(small(name, algorithm=QUICK[name]), out)
    assert f"fit {name}: done before" in said
    if name == "self":
        assert counts(out / "self_early" / "self")["epochs"] == 1
    if name in ("nsf", "dfr"):
        return
    table = pq.read_table(out / "fit" / name / "roles.parquet")
    roles = Counter(zip(table["split"].to_pylist(), table["role"].to_pylist(), strict=True))
    halved = {("val", "fit"): 40, ("val", "select"): 40}
    assert roles == {
        "afr": {("train", "fit"): 32, ("val", "select"): 80},
        "hsfm": {("train", "fit"): 16, ("val", "fit and select"): 80},
    }.get(name, halved)
    if name == "afr":  # ERM has seen none of what the head is fitted on
        train = RowIndex(out / "data").split("train")
        fold_N = assign_folds(train["label"].to_numpy(), num_folds=5, seed=0)
        own = set(np.array(train["image_id"].to_pylist())[fold_N == 0])
        assert {row["image_id"] for row in table.to_pylist() if row["split"] == "train"} == own
        assert counts(base)["images"] == 128


@pytest.mark.parametrize("recipe", ["dbb+afr", "dbb+self"])
def test_after_a_synthesis_the_features_have_seen_the_pictures(
    small: Small, first: Path, tmp_path: Path, recipe: str
) -> None:
    name, out = recipe.partition("+")[2], tmp_path / "run"
    synthesis = {"k": 4, "mask": "truth", "prune": False}
    summary, _ = run(small(recipe, synthesis=synthesis, algorithm=QUICK[name]), out, first)
    assert set(summary["results"]) == {"erm", recipe}
    features = counts(out / f"{name}_features" / recipe)
    assert features["extra"] == 8
    assert features["images"] == (160 if name == "self" else 128) + 8
    if name == "self":
        assert counts(out / "self_early" / recipe)["extra"] == 8


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes without attributes."""
    folder = tmp_path_factory.mktemp("plain")
    lines = ["img_filename,y,split"]
    for split, num in (("train", 40), ("val", 24), ("test", 8)):
        for i in range(num):
            scene = render_scene(i, label=i % 2, attribute=i // 2 % 2)
            Image.fromarray(scene.image_HWC).save(folder / f"{split}{i}.png")
            lines.append(f"{split}{i}.png,{i % 2},{split}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def plain_first(small: Small, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain_first") / "run"
    run(small("erm", dataset={"name": "folder", "path": str(plain)}), folder)
    return folder


JTT = {"epochs": 2, "identification_epochs": 1, "learning_rate": 0.02}


@pytest.mark.parametrize(
    ("recipe", "algorithm", "words"),
    [
        ("jtt", JTT, "worst class"),
        ("jtt", {**JTT, "select_by": "environments"}, "worst environment: what the first fit gets right, and wrong"),
        (
            "jtt",
            {**JTT, "select_by": "inferred_groups"},
            "worst inferred group: two clusters",
        ),
        ("jtt", {**JTT, "select": "last", "select_by": "environments"}, None),
        ("evals", QUICK["evals"], "worst environment"),
        ("afr", QUICK["afr"], "worst class"),
    ],
)
def test_without_attributes_what_was_selected_by_is_said(
    small: Small,
    plain: Path,
    plain_first: Path,
    tmp_path: Path,
    recipe: str,
    algorithm: dict[str, Any],
    words: str | None,
) -> None:
    config = small(recipe, dataset={"name": "folder", "path": str(plain)}, algorithm=algorithm)
    summary, _ = run(config, tmp_path / "run", plain_first)
    found = summary["selected_by"][recipe]
    assert found is None if words is None else found.startswith(words)
    assert [group["attribute"] for group in summary["results"][recipe]["test"]["groups"]] == [None, None]
    line = f"As fitted: erm, {recipe}." if found is None else f"{recipe} by {found}.".replace("'", "&#39;")
    assert line in write_report(tmp_path / "run").read_text("utf-8")


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        ("jtt", {"algorithm": {"select_by": "groups"}}, "select_by is groups, which needs the attribute"),
        ("evals", {"algorithm": {"select_by": "groups"}}, "select_by is groups, which needs the attribute"),
        ("erm", {"erm": {"select": "best", "select_by": "groups"}}, "select_by is groups"),
        ("hsfm", {"algorithm": {"num_support": 21}}, "num_support is 21, and class 0 has 20 training image"),
    ],
)
def test_what_a_dataset_lacks_is_named_before_any_work(
    small: Small, plain: Path, tmp_path: Path, recipe: str, changes: dict[str, Any], message: str
) -> None:
    config = small(recipe, dataset={"name": "folder", "path": str(plain)}, **changes)
    with pytest.raises(DataError, match=message):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("recipe", "field", "numbers", "message"),
    [
        ("afr", "train_counts", [10, 10, 1, 0], "class 1 has 1 training image"),
        ("evals", "val_counts", [10, 10, 2, 1], r"class 1 has 3 validation image\(s\); it needs 4"),
        ("self", "val_counts", [10, 10, 1, 0], r"class 1 has 1 validation image\(s\); it needs 2"),
        ("nsf", "val_counts", [10, 10, 0, 0], "validation, which has no image of class 1"),
        ("hsfm", "val_counts", [10, 10, 0, 0], "validation, which has no image of class 1"),
    ],
)
def test_splits_that_are_too_small_are_named_before_any_work(
    small: Small, tmp_path: Path, recipe: str, field: str, numbers: list[int], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        run(small(recipe, dataset={"name": "scenes", field: numbers}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_first_fit_cannot_be_selected_by_what_a_fit_before_infers(small: Small) -> None:
    for by in ("environments", "inferred_groups"):
        with pytest.raises(ConfigError, match=f"erm.select_by is {by}, which a fit before tells apart"):
            small("erm", erm={"select": "best", "select_by": by})
