"""Paths of a config that are relative mean the directory that a run is started in, wherever its workers work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from partial_runs import run_until
from tiny_pipelines import save_pipeline

from raygen import recipes
from raygen.classifier import ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.config import load_yaml
from raygen.errors import ModelError
from raygen.fits import running
from raygen.model_files import find_model
from raygen.pools import local, pipeline
from raygen.run.opened import Opened
from raygen.run.steps import Run
from raygen.storage.parts import read_parts
from raygen.storage.progress import quiet
from raygen.storage.run_folder import RunFolder
from serve.app import for_replicas
from serve.config import ServeConfig, ServedModelConfig

TOKENS = {"num_images": 2, "num_steps": 1, "batch_size": 2, "initializers": ["l", "w"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs are started: models and weights of all kinds."""
    folder = tmp_path_factory.mktemp("home")
    save_pipeline(folder / "models" / "inpaint", scheduler="dpm")
    shutil.copytree(find_model("tiny", tiny="segmenter_weights").name, folder / "segmenter")
    save_classifier(build_classifier(ClassifierConfig(width=8), 2, seed=5), folder / "start")
    return folder


def config_of(**changes: Any) -> recipes.RunConfig:
    counts = {"train_counts": [14, 4, 4, 14], "val_counts": [4] * 4, "test_counts": [4] * 4}
    data = {
        "recipe": "dbb",
        "engine": "local",
        "dataset": {"name": "scenes", **counts},
        "classifier": {"width": 8, "weights": "start/model.safetensors"},
        "erm": {"epochs": 1},
        "algorithm": {"epochs": 1},
        "synthesis": {"k": 2, "prune": False, "language": {"model": "segmenter", "threshold": 0.01}},
        "inpainter": {"model": "models/inpaint", "num_inference_steps": 2},
        "textual_inversion": {
            "model": "models/inpaint",
            "num_images": 2,
            "num_steps": 1,
            "batch_size": 2,
            "initializers": ["l", "w"],
        },
        "pools": {name: {"num_cpus": 0.25, "batch_size": 4} for name in ("scorer", "masker", "inpainter", "pruner")},
        "fit": {"num_cpus": 1, "num_threads": 1},
        "unit_rows": 4,
        "controls": [],
        "max_failed_fraction": 1,
    }
    return recipes.make_config({**data, **changes}, [], where="test")


def run(config: recipes.RunConfig, out: Path) -> None:
    recipes.run(config, out, fresh=False, command="raygen run", say=quiet)


def test_workers_elsewhere_find_what_the_config_names_and_folders_keep_its_words(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker").mkdir()
    calls: list[str] = []

    def elsewhere(work: Callable[..., Any]) -> Callable[..., Any]:
        def moved(*args: Any, **options: Any) -> Any:
            calls.append(work.__name__)
            with monkeypatch.context() as there:
                there.chdir(tmp_path / "worker")
                return work(*args, **options)

        return moved

    monkeypatch.setattr(running, "run", elsewhere(running.run))
    monkeypatch.setattr(pipeline, "run_local", elsewhere(local.run_local))
    monkeypatch.chdir(home)
    run(config_of(), tmp_path / "run")
    # erm, tokens, dbb; scores, candidates, evaluation, measures.
    assert (calls.count("run"), calls.count("run_local")) == (3, 4)
    saved = load_yaml(tmp_path / "run" / "config.yaml")
    assert saved["classifier"]["weights"] == "start/model.safetensors"
    assert saved["inpainter"]["model"] == "models/inpaint"
    assert load_classifier(tmp_path / "run" / "erm").config.weights == "start/model.safetensors"
    rows = read_parts(tmp_path / "run" / "candidates").to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["model_id"] for row in rows} == {"models/inpaint"}
    assert b"models/inpaint@" in rows[0]["generated_png"]
    calls.clear()
    run(recipes.make_config(saved, [], where="config.yaml"), tmp_path / "run")
    assert not calls
    # Given back from another directory: what was looked for is said, before any work.
    monkeypatch.chdir(tmp_path / "worker")
    with pytest.raises(ModelError, match=str(tmp_path / "worker" / "start" / "model.safetensors")):
        run(config_of(), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("ray_session")
def test_a_worker_of_a_fit_starts_from_a_relative_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    config = config_of(recipe="erm", engine="ray", synthesis=None, textual_inversion=None)
    (tmp_path / "run").mkdir()
    with Run(Opened(config), RunFolder(tmp_path / "run"), quiet) as begun:
        run_until("erm", begun)
    assert load_classifier(tmp_path / "run" / "erm").config.weights == "start/model.safetensors"


def test_only_local_folders_get_another_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    found = {
        name: find_model(name, tiny="weights").for_workers for name in ("models/inpaint", "~/segmenter", "tiny", "a/b")
    }
    assert found == {
        "models/inpaint": str(home / "models" / "inpaint"),
        "~/segmenter": str(home / "segmenter"),
        "tiny": "tiny",
        "a/b": "a/b",
    }
    assert find_model(str(home / "start"), tiny=None).for_workers == str(home / "start")


@pytest.mark.parametrize(
    ("folder", "expected"), [("tokens", "{home}/tokens"), ("~/tokens", "~/tokens"), ("/x/tokens", "/x/tokens")]
)
def test_replicas_of_the_endpoint_get_paths_in_full(
    home: Path, monkeypatch: pytest.MonkeyPatch, folder: str, expected: str
) -> None:
    monkeypatch.chdir(home)
    models = (ServedModelConfig(id="m", inpainter={"model": "models/inpaint"}),)
    config = for_replicas(ServeConfig(models=models, tokens_folder=Path(folder)))
    assert config.models[0].id == "m"
    assert config.models[0].inpainter.model == str(home / "models" / "inpaint")
    assert str(config.tokens_folder) == expected.format(home=home)
