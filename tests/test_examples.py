"""The examples that start from what users have: each from its first command to its last."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_pipelines import save_pipeline
from torchvision.datasets import ImageFolder

from raygen.classifier import ClassifierConfig, build_classifier, load_classifier
from raygen.classifier.framing import preprocess
from raygen.datasets.scene_rendering import CLASS_NAMES, render_scene

ROOT = Path(__file__).parents[1]
# Pictures of each class.
COUNTS = {"train": 16, "val": 8, "test": 8}
SMALL = ["--set", "engine=local", "--set", "algorithm.epochs=1", "--set", "measures.images=0"]
GENERATES = ["--set", "inpainter.num_inference_steps=1", "--set", "synthesis.k=4", "--set", "synthesis.prune=false"]
GENERATES += ["--set", "controls=[]", "--set", "unit_rows=8", "--set", "pools.inpainter.batch_size=4"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "inpaint", scheduler="dpm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures as a user has it."""
    root = tmp_path_factory.mktemp("birds")
    for path, scene in _scenes(root):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene).save(path)
    return root


def _scenes(root: Path) -> Iterator[tuple[Path, np.ndarray]]:
    for number, (split, count) in enumerate(COUNTS.items()):
        for label, name in enumerate(CLASS_NAMES):
            for i in range(count):
                seed = 1000 * number + 100 * label + i
                yield root / split / name / f"{i:03d}.png", render_scene(seed, label=label, attribute=label).image_HWC


def run_example(name: str, *arguments: str | Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    command = ["bash", str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_own_folder_ends_with_pictures_and_a_classifier(folder: Path, model: Path, tmp_path: Path) -> None:
    options = ["--set", "erm.epochs=1", *SMALL, "--", *GENERATES, "--set", f"inpainter.model={model}"]
    run_example("own_folder.sh", folder, tmp_path / "out", *options)
    out = tmp_path / "out"
    assert (out / "comparison.html").is_file()
    assert len(ImageFolder(str(out / "pictures" / "train"))) == 8
    fitted = load_classifier(out / "dbb" / "fit" / "dbb").state_dict()
    exported = load_file(out / "classifier" / "model.safetensors")
    assert fitted.keys() == exported.keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in fitted.items())
    # The first fit is not done twice.
    assert (out / "erm" / "erm" / "model.safetensors").samefile(out / "dbb" / "erm" / "model.safetensors")
    said = run_example("own_folder.sh", folder, out, *options)
    assert "fit/dbb: done before" in said or "dbb: done before" in said


@pytest.mark.slow
def test_own_classifier_is_before_and_another_is_after(folder: Path, model: Path, tmp_path: Path) -> None:
    own = build_classifier(ClassifierConfig(width=8), 2, seed=5).eval()
    wrapped = {f"module.{name}": tensor for name, tensor in own.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "my.pt")
    about = ["--set", "classifier.architecture=small_resnet", "--set", "classifier.width=8"]
    options = [*about, "--", *SMALL, *GENERATES, "--set", f"inpainter.model={model}"]
    run_example("own_classifier.sh", tmp_path / "my.pt", folder, tmp_path / "out", *options)
    out = tmp_path / "out"
    predictions = pq.read_table(out / "dbb" / "evaluation" / "predictions.parquet").to_pylist()
    pictures = {path.relative_to(folder).with_suffix("").as_posix(): scene for path, scene in _scenes(folder)}
    images = [pictures[row["image_id"]] for row in predictions]
    with torch.inference_mode():
        before_N = own(preprocess(images, own.frame)).argmax(1)
    assert [row["erm"] for row in predictions] == before_N.tolist()
    exported = load_file(out / "classifier" / "model.safetensors")
    assert any(not torch.equal(exported[name], tensor) for name, tensor in own.state_dict().items())
    frame = pd.read_parquet(out / "pictures" / "data")
    assert sorted(frame["label_name"]) == ["landbird"] * 4 + ["waterbird"] * 4


@pytest.mark.parametrize(
    ("name", "says"), [("own_folder.sh", "give a folder"), ("own_classifier.sh", "give a classifier")]
)
def test_without_arguments_they_say_what_to_give(name: str, says: str) -> None:
    done = subprocess.run(["bash", str(ROOT / "examples" / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == 1
