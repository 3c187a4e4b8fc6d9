"""Files that the user may not read: said as such, and never called damaged, which ends in advice to delete them."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen.errors import RaygenError
from raygen.model_files import read_json
from raygen.report.collect import load_candidates, load_predictions, load_thresholds
from raygen.storage.parts import Parts
from raygen.storage.run_folder import MANIFEST, MARKER, RunFolder, read_manifest
from tune.records import read_outcome

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may enter and write to, which pytest's own are not."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As somebody whom permissions hold for; root reads everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def claim(run: Path) -> None:
    with RunFolder(run).claimed({}, identity={}, fresh=False):
        raise AssertionError("it was claimed")


READERS: list[tuple[str, Callable[[Path], object]]] = [
    (MANIFEST, read_manifest),
    (MARKER, claim),
    ("evaluation/predictions.parquet", load_predictions),
    ("candidates/part-000000.parquet", load_candidates),
    ("fit/thresholds.json", load_thresholds),
    ("outcome.json", read_outcome),
    ("config.json", lambda run: read_json(run / "config.json", run, layout="diffusers")),
    ("part-000000.parquet", lambda run: Parts(run, pa.schema([]), "f", 1, 1.0).open()),
]


@pytest.mark.parametrize(("name", "read"), READERS, ids=[name for name, _ in READERS])
def test_file_that_may_not_be_read_is_named_and_not_called_damaged(
    folder: Path, name: str, read: Callable[[Path], object]
) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"x": [1]}), path)
    else:
        path.write_text(json.dumps({}))
    path.chmod(0)
    with without_privileges(), pytest.raises(RaygenError) as caught:
        read(folder)
    assert str(path) in str(caught.value)
    assert "Permission denied" in str(caught.value)
    assert not {"damaged", "Delete", "delete"} & {*str(caught.value).split()}
