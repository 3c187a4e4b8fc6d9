from pathlib import Path

import pytest
from report_runs import write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dbb run on a few scenes. Tests that change it copy it first."""
    return write_run(tmp_path_factory.mktemp("runs") / "dbb")


@pytest.fixture(scope="session")
def erm_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of plain ERM without groups: no synthesis, no attributes."""
    return write_run(tmp_path_factory.mktemp("runs") / "erm", recipe="erm", has_attributes=False)


@pytest.fixture(scope="session")
def measured_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dbb run with measures."""
    return write_run(tmp_path_factory.mktemp("runs") / "measured", has_measures=True)
