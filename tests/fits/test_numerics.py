"""How a fit computes: what needs a GPU or a compiler is refused before any work where there is none."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raygen import recipes
from raygen.errors import ConfigError
from raygen.worker import Numerics

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"precision": "float16"}, "precision is float16, .*take bfloat16, or fit on GPUs"),
        ({"compile": True}, "compile is true, .*leave it false, or fit on GPUs"),
        ({"sync_batch_norm": True, "num_workers": 2}, "sync_batch_norm is true, .*leave it false, or fit on GPUs"),
        ({"precision": "float8"}, "precision: "),
        ({"loader_processes": 1000}, "loader_processes: .*256"),
    ],
)
def test_what_needs_a_gpu_is_refused_on_a_cpu(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.make_config({"recipe": "erm", "fit": fields}, [], where="test")


def test_on_a_gpu_all_are_taken() -> None:
    fields = {"precision": "float16", "compile": True, "sync_batch_norm": True, "num_gpus": 1}
    config = recipes.make_config({"recipe": "erm", "fit": fields}, [], where="test")
    assert config.fit.numerics == Numerics("float16", compile=True, sync_batch_norm=True)
    assert recipes.make_config({"recipe": "erm"}, [], where="test").fit.numerics == Numerics()


@pytest.mark.slow
def test_a_machine_without_a_compiler_says_so() -> None:
    code = "from raygen.algorithms.compilation import check_compiler; check_compiler('cpu')"
    environment = {**os.environ, "CXX": "/nowhere/g++", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "raygen.errors.ResourceError: fit.compile is true, but torch.compile does not work here" in done.stderr
    assert "set fit.compile=false" in done.stderr
