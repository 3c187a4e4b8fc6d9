"""What is asked for is checked against the cluster before any work starts."""

from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from raygen import cluster, recipes
from raygen.errors import UserError


def test_of_a_failure_the_last_line_is_told_and_of_used_up_memory_what_to_do() -> None:
    """Ray's own text of a process that it killed ends with references."""
    assert cluster.reason("Traceback:\n  File x\nValueError: no such thing\n\n") == "ValueError: no such thing"
    killed = ray.exceptions.OutOfMemoryError(
        "Task was killed due to the node running low on memory.\nMemory on the node was 22 GB / 23 GB.\n"
        "Refer to the documentation on how to address the out of memory issue: https://docs.ray.io."
    )
    for error in (killed, RuntimeError(f"a worker failed: {killed}")):
        assert "nearly all memory of its node was in use" in cluster.reason(error)


def config(**changes: Any) -> recipes.RunConfig:
    data: dict[str, Any] = {"recipe": "dbb", "dataset": {"name": "scenes", "scale": 0.01}}
    return recipes.make_config({**data, **changes}, [], where="test")


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pools": {"inpainter": {"num_gpus": 64}}}, r"the pools need 64 GPUs and the cluster has .*pools\.inpainter"),
        ({"pools": {"masker": {"actors": 400}}}, r"the pools need .* CPUs and the cluster has 4.*pools\.masker: 400"),
        ({"pools": {"scorer": {"num_gpus": 64}}}, r"the pools need 64 GPUs"),
        ({"fit": {"num_workers": 64, "num_gpus": 1}}, r"a fit needs 128 CPUs .*num_workers: 64"),
        ({"fit": {"num_cpus": 999}}, r"a fit needs 999 CPUs and the cluster has 4"),
        pytest.param(
            {"engine": "local", "pools": {"pruner": {"num_gpus": 1}}},
            r"no CUDA device that torch can use, but pools\.pruner",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        pytest.param(
            {"engine": "local", "pools": {"masker": {"device": "cuda"}}},
            r"no CUDA device that torch can use, but pools\.masker",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        ({"pools": {"scorer": {"device": "cuda"}}}, r"pools\.scorer\.device is cuda, but its num_gpus is 0"),
    ],
)
def test_more_than_there_is_is_refused_before_anything_is_written(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        recipes.run(config(**changes), tmp_path / "run", fresh=False, command="", say=lambda line: None)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "run").exists()
