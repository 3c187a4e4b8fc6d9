"""`raygen serve` as its user has it: what it prints, how it ends, and who else is on the cluster."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from raygen.errors import ResourceError
from serve.command import run_endpoint

RAYGEN = str(Path(sys.executable).with_name("raygen"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [RAYGEN, "serve", *arguments]
    # Offline: a model that is not there is not looked for in vain, with pauses between.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.mark.slow
def test_a_clean_run_prints_only_its_own_lines() -> None:
    port = free_port()
    process = started("--host", "::1", "--port", str(port), "--set", "num_ingress=1")
    assert process.stdout is not None
    assert process.stdout.readline() == "starting tiny …\n"
    url = f"http://[::1]:{port}"
    assert process.stdout.readline() == f"POST {url}/v1/images/edits (models: tiny); Ctrl-C ends it\n"
    assert httpx2.get(f"{url}/health/ready", trust_env=False, timeout=60).status_code == 200
    # By itself Ray Serve would have answered this after a millisecond, with plain text.
    hasty = httpx2.post(f"{url}/v1/images/edits", headers={"x-request-timeout-seconds": "0.001"}, trust_env=False)
    assert (hasty.status_code, hasty.json()["error"]["code"]) == (400, "invalid_value")
    for _ in range(2):  # `timeout` and wrappers signal the process, and then its group: it is one request
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    rest, _ = process.communicate(timeout=120)
    assert (rest, process.returncode) == ("finishing what is under way …\n", 0)
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", port))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_ends_it(number: signal.Signals) -> None:
    process = started("--port", str(free_port()))
    assert process.stdout is not None
    assert process.stdout.readline() == "starting tiny …\n"
    time.sleep(2)
    children = psutil.Process(process.pid).children(recursive=True)
    for _ in range(2):
        process.send_signal(number)
        time.sleep(0.3)
    rest, _ = process.communicate(timeout=120)
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert (rest, process.returncode) == (f"raygen: {word}\n", 128 + number)
    assert psutil.wait_procs(children, timeout=2)[1] == []


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([{"id": "x", "num_cpus": 64}], r"the endpoint needs .*models\.x"),
        ([{"id": "x", "num_cpus": 64, "min_replicas": 0}], r"the endpoint needs .*models\.x"),
        ([{"id": "x", "num_gpus": 1, "min_replicas": 0}], r"the endpoint needs .*models\.x"),
    ],
)
def test_a_model_that_no_node_holds_is_refused(models: list[dict[str, Any]], message: str) -> None:
    """One that starts with the first request too, which would wait for it in vain."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(ResourceError, match=message):
            run_endpoint({"models": models}, host="127.0.0.1", port=free_port(), say=lambda line: None)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "no-model"
    model = f"models=[{{id: x, inpainter: {{model: someone/{folder.name}}}}}]"
    process = started("--port", str(free_port()), "--set", model)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 2, out
    assert f"someone/{folder.name}" in out
    assert "Failed to update" not in out
    assert "Traceback" not in out
