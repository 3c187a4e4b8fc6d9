from pathlib import Path

import pytest
from small_sweeps import small_sweep
from tiny_pipelines import save_pipeline

from tune.search import sweep


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "inpaint", scheduler="dpm")


@pytest.fixture(scope="session")
def finished_sweep(tmp_path_factory: pytest.TempPathFactory, model: Path, ray_session: None) -> Path:
    """A sweep of three trials, the run's own config first. Tests that change it copy it first."""
    out = tmp_path_factory.mktemp("sweeps") / "dbb"
    sweep(small_sweep(model), out, fresh=False, command="raygen tune dbb", say=lambda line: None)
    return out
