"""A fit on workers of Ray: the same weights every time, also when a worker dies in its middle."""

import os
import shutil
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from raygen import algorithms, recipes
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.group_dro import GroupDroConfig
from raygen.algorithms.loop import LoopConfig
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier, save_classifier
from raygen.datasets.rows import RowIndex
from raygen.fits import classifiers, running
from raygen.fits.classifiers import FitRequest
from raygen.fits.running import FitConfig
from raygen.run.fit_steps import erm
from raygen.run.opened import Opened
from raygen.run.steps import Run
from raygen.storage import progress
from raygen.storage.run_folder import RunFolder, Step
from raygen.worker import Worker


def payload(data: Path, algorithm: LoopConfig) -> dict[str, Any]:
    request = FitRequest(
        data=str(data),
        classifier=ClassifierConfig(width=8).model_dump(mode="json"),
        algorithm=algorithm,
        seed=0,
        init=None,
        extra=None,
        max_failed_fraction=0.05,
    )
    return asdict(request)


ERM = ErmConfig(epochs=3, batch_size=32)
# A large step size, so that the groups' weights, which the workers must agree on, matter.
GROUP_DRO = GroupDroConfig(epochs=3, batch_size=32, eta=1.0)


def fit(
    body: running.Body,
    data: Path,
    folder: Path,
    *,
    algorithm: LoopConfig = ERM,
    say: progress.Say = progress.quiet,
    **resources: Any,
) -> bytes:
    """Weights of a fit."""
    folder.mkdir()
    config = FitConfig(num_cpus=0.5, num_threads=1, **resources)
    running.run(body, payload(data, algorithm), folder=folder, resources=config, engine="ray", say=say, every_s=0.01)
    return (folder / "model.safetensors").read_bytes()


def die_once(worker: Worker, payload: dict[str, Any]) -> None:
    """The fit, whose first worker is gone as soon as there is a checkpoint to go on from."""
    died = worker.folder / "died"

    def watch() -> None:
        while not (worker.folder / "checkpoint.pt").is_file():
            time.sleep(0.005)
        died.touch()
        os._exit(9)

    if not died.exists():
        threading.Thread(target=watch, daemon=True).start()
    classifiers.fit_on_worker(worker, payload)


@pytest.mark.usefixtures("ray_session")
def test_a_fit_whose_worker_dies_ends_with_the_same_weights(scenes_folder: Path, tmp_path: Path) -> None:
    heard: list[str] = []
    disturbed = fit(die_once, scenes_folder, tmp_path / "disturbed", max_failures=2, say=heard.append)
    assert (tmp_path / "disturbed" / "died").exists()
    assert not (tmp_path / "disturbed" / progress.FILE).exists()
    # How far the fit is reaches the driver from the worker's process; two epochs may pass between two looks.
    epochs = [line.partition(":")[0] for line in heard]
    assert epochs
    assert epochs == sorted({*epochs})
    assert {*epochs} <= {"epoch 1/3", "epoch 2/3", "epoch 3/3"}
    assert disturbed == fit(classifiers.fit_on_worker, scenes_folder, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("algorithm", [ERM, GROUP_DRO], ids=["erm", "group_dro"])
def test_two_workers_fit_the_same_weights_every_time(
    scenes_folder: Path, tmp_path: Path, algorithm: LoopConfig
) -> None:
    first, second = (
        fit(classifiers.fit_on_worker, scenes_folder, tmp_path / name, algorithm=algorithm, num_workers=2)
        for name in ("first", "second")
    )
    assert first == second


def fit_a_linear_classifier(worker: Worker, payload: dict[str, Any]) -> None:
    """Group DRO of a classifier without batch statistics, whose fit does not depend on how a batch is shared out."""
    index = RowIndex(Path(payload["data"]))
    train, val = (TrainingSet(index, split, size_px=16) for split in ("train", "val"))
    config = GroupDroConfig(epochs=2, batch_size=33, eta=1.0, learning_rate=1e-3, augment="none", select="last")
    torch.default_generator.manual_seed(0)  # every worker starts alike
    classifier = Classifier(ClassifierConfig(image_size_px=16), nn.Flatten(), num_features=3 * 16 * 16, num_classes=2)
    algorithms.of(config).fit(config, classifier, train, val, seed=0, worker=worker)
    if worker.leads:
        torch.save(classifier.state_dict(), worker.folder / "weights.pt")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_group_dro_on_two_workers_is_group_dro_on_one(scenes_folder: Path, tmp_path: Path) -> None:
    found = []
    for num_workers in (1, 2):
        folder = tmp_path / str(num_workers)
        folder.mkdir()
        resources = FitConfig(num_cpus=0.5, num_threads=1, num_workers=num_workers)
        asked = {"data": str(scenes_folder)}
        running.run(fit_a_linear_classifier, asked, folder=folder, resources=resources, engine="ray")
        state = torch.load(folder / "checkpoint.pt", weights_only=True)
        found.append((state["adaptive"]["q"], torch.load(folder / "weights.pt", weights_only=True)))
    (q_one, one), (q_two, two) = found
    # Float32 sums in another order; q itself moves by far more from where it began.
    torch.testing.assert_close(q_two, q_one, rtol=1e-4, atol=1e-6)
    assert (q_one - 0.25).abs().max() > 0.01
    for name in ("head.weight", "head.bias"):
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)


def test_other_weights_in_the_same_file_are_another_start(scenes_folder: Path, tmp_path: Path) -> None:
    """A file's name alone does not say what a fit starts from."""
    file = tmp_path / "weights.safetensors"
    fitted = []
    for seed in (0, 1, 1):
        save_classifier(build_classifier(ClassifierConfig(width=8), 2, seed=seed), tmp_path / str(seed))
        shutil.copy(tmp_path / str(seed) / "model.safetensors", file)
        data = {
            "recipe": "erm",
            "engine": "local",
            "erm": {"epochs": 1},
            "classifier": {"width": 8, "weights": str(file)},
        }
        folder = RunFolder(tmp_path / "run")
        rows = folder.step("data", {})
        if not rows.is_complete:
            shutil.copytree(scenes_folder, rows.folder)
            rows.finish({})
        said: list[str] = []
        run = Run(Opened(recipes.make_config(data, [], where="test")), folder, said.append, {"data": rows})
        fitted_erm = run.do(erm(run))
        fitted.append(((fitted_erm.folder / "model.safetensors").read_bytes(), said[0]))
    assert [line for _, line in fitted] == [
        "fit erm: fitting erm",
        "fit erm: made again, since what it depends on is not what it was",
        "fit erm: done before",
    ]
    assert fitted[0][0] != fitted[1][0] == fitted[2][0]


def test_a_checkpoint_of_another_fit_is_not_gone_on_from(scenes_folder: Path, tmp_path: Path) -> None:
    """A fit that was interrupted, and whose training set then changed, begins anew."""
    config = recipes.make_config({"recipe": "erm", "engine": "local", "erm": {"epochs": 1}}, [], where="test")
    folder = RunFolder(tmp_path / "run")
    data = folder.step("data", {})
    shutil.copytree(scenes_folder, data.folder)
    data.finish({})
    run = Run(Opened(config), folder, lambda line: None, {"data": data})
    first = run.do(erm(run))
    weights = (first.folder / "model.safetensors").read_bytes()
    # As if it had been interrupted with other dependencies: a checkpoint that would end the fit at once.
    other = Step(first.folder, {"something": "else"})
    (other.begin() / "checkpoint.pt").write_bytes(b"of another fit")
    again = run.do(erm(run))
    assert (again.folder / "model.safetensors").read_bytes() == weights
