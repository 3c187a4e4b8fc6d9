"""A fit on Ray Train: the same weights every time, also when a worker dies in its middle."""

import os
import shutil
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from raygen import fits, recipes, training
from raygen.algorithms.erm import ErmConfig
from raygen.classifier import ClassifierConfig
from raygen.fits import FitRequest
from raygen.runs import RunFolder, Step
from raygen.steps import Steps
from raygen.training import FitConfig
from raygen.worker import Worker


def payload(data: Path) -> dict[str, Any]:
    request = FitRequest(
        data=str(data),
        classifier=ClassifierConfig(width=8).model_dump(mode="json"),
        algorithm=ErmConfig(epochs=3, batch_size=32).model_dump(mode="json"),
        seed=0,
        init=None,
        extra=None,
        max_failed_fraction=0.05,
    )
    return asdict(request)


def fit(job: training.Job, data: Path, folder: Path, **resources: Any) -> bytes:
    """Weights of a fit."""
    folder.mkdir()
    config = FitConfig(num_cpus=0.5, num_threads=1, **resources)
    training.run(job, payload(data), folder=folder, resources=config, engine="ray")
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
    fits.fit_job(worker, payload)


@pytest.mark.usefixtures("ray_session")
def test_a_fit_whose_worker_dies_ends_with_the_same_weights(scenes_folder: Path, tmp_path: Path) -> None:
    disturbed = fit(die_once, scenes_folder, tmp_path / "disturbed", max_failures=2)
    assert (tmp_path / "disturbed" / "died").exists()
    assert disturbed == fit(fits.fit_job, scenes_folder, tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_two_workers_fit_the_same_weights_every_time(scenes_folder: Path, tmp_path: Path) -> None:
    first, second = (fit(fits.fit_job, scenes_folder, tmp_path / name, num_workers=2) for name in ("first", "second"))
    assert first == second


def test_a_checkpoint_of_another_fit_is_not_gone_on_from(scenes_folder: Path, tmp_path: Path) -> None:
    """A fit that was interrupted, and whose training set then changed, begins anew."""
    config = recipes.make_config({"recipe": "erm", "engine": "local", "erm": {"epochs": 1}}, [], where="test")
    folder = RunFolder(tmp_path / "run")
    data = folder.step("data", {})
    shutil.copytree(scenes_folder, data.folder)
    data.finish({})
    job = Steps(config, folder, lambda line: None)
    erm = job.fit_erm(data)
    weights = (erm.folder / "model.safetensors").read_bytes()
    # As if it had been interrupted with other dependencies: a checkpoint that would end the fit at once.
    other = Step(erm.folder, {"something": "else"})
    (other.begin() / "checkpoint.pt").write_bytes(b"of another fit")
    again = job.fit_erm(data)
    assert (again.folder / "model.safetensors").read_bytes() == weights
