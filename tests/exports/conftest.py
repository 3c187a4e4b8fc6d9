import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_runs import write_run

from raygen.schema import ROLE
from raygen.storage.run_folder import Step


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dbb run: of seven candidates two are kept, four pruned, and one failed. Not to be changed."""
    run = write_run(tmp_path_factory.mktemp("runs") / "dbb")
    Step(run / "candidates", {}).finish({})
    return run


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def infill_run(own_run: Path) -> Path:
    """The same with roles: every other picture shows anything but its label; without thresholds that prune."""
    for path in (own_run / "candidates").glob("part-*.parquet"):
        table = pq.read_table(path)
        roles = ["counterfactual" if i % 2 == 0 else "factual" for i in range(table.num_rows)]
        pq.write_table(table.append_column(ROLE, pa.array(roles)), path)
    Step(own_run / "candidates", {}).finish({})
    none: dict[str, dict[str, float]] = {"source_probability_below": {}, "attribution_above": {}}
    (own_run / "fit" / "thresholds.json").write_text(json.dumps(none), encoding="utf-8")
    return own_run
