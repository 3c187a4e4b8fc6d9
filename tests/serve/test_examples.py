"""The examples that talk to an endpoint: the picture, or one line that says what is missing and no file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edit_forms import encoded, hole, picture, white_mask
from paint_backend import Running, colour_of
from PIL import Image

from raygen.errors import EndpointError

EXAMPLES = Path(__file__).parents[2] / "examples"
NOBODY = "http://127.0.0.1:9"
needs_curl = pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture whose name has what curl reads as its own, and its mask."""
    (tmp_path / 'a;b,"c".png').write_bytes(encoded(picture()))
    (tmp_path / "mask.png").write_bytes(white_mask(hole()))
    return tmp_path


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # A proxy that is not there: loopback must not be asked through it.
    whole = {**os.environ, "http_proxy": NOBODY, "PYTHONPATH": str(EXAMPLES.parent), **environment}
    return subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, check=False, timeout=120)


def edit(folder: Path, url: str, **changes: str) -> subprocess.CompletedProcess[str]:
    given = {"image": 'a;b,"c".png', "mask": "mask.png", "prompt": "a; b", "out": "out.png", **changes}
    return run(folder, shutil.which("bash") or "bash", str(EXAMPLES / "edit.sh"), *given.values(), RAYGEN_URL=url)


@needs_curl
def test_edit_sh_writes_the_picture(endpoint: Running, folder: Path) -> None:
    done = edit(folder, endpoint.url)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    painted = np.asarray(Image.open(folder / "out.png"))
    assert np.array_equal(painted, np.where(hole()[..., None], colour_of(7), picture()))


@needs_curl
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image": "none.png"}, "none.png is no file that can be read"),
        ({"mask": "."}, ". is no file that can be read"),
        ({"out": "none/out.png"}, "none/out.png cannot be written"),
        ({"prompt": ""}, "answered 400: prompt is empty"),
        ({"mask": 'a;b,"c".png', "image": "mask.png", "prompt": "x"}, ""),
    ],
)
def test_edit_sh_says_what_is_wrong(endpoint: Running, folder: Path, changes: dict[str, str], reason: str) -> None:
    done = edit(folder, endpoint.url, **changes)
    assert reason in done.stderr
    assert (done.returncode != 0) == bool(reason)
    assert (folder / "out.png").exists() != bool(reason)


@needs_curl
def test_edit_sh_without_an_endpoint_or_a_picture_leaves_no_file(endpoint: Running, folder: Path) -> None:
    done = edit(folder, NOBODY)
    assert done.returncode == 1
    assert f"no endpoint answers at {NOBODY}; start one with `raygen serve`" in done.stderr
    endpoint.backend.failure = EndpointError("it is full", code="server_is_overloaded")
    done = edit(folder, endpoint.url)
    assert (done.returncode, "answered 503: it is full" in done.stderr) == (1, True)
    assert sorted(path.name for path in folder.iterdir()) == ['a;b,"c".png', "mask.png"]


def test_edit_sh_names_the_program_that_is_not_there(folder: Path) -> None:
    (folder / "bin").mkdir()
    command = [shutil.which("bash") or "bash", str(EXAMPLES / "edit.sh"), "mask.png", "mask.png", "a", "out.png"]
    done = run(folder, *command, PATH=str(folder / "bin"))
    assert (done.returncode, "curl is not installed" in done.stderr) == (2, True)
    done = run(folder, *command[:3])
    assert (done.returncode, "give a picture, a mask, a prompt" in done.stderr) == (2, True)


@pytest.mark.slow  # torch, ray and openai are imported
@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("edit_openai.py", ["out.png"], f"no endpoint answers at {NOBODY}"),
        ("edit_openai.py", [], "give the picture to write"),
        ("repaint_one.py", [], "give the picture to write"),
        ("edit_from_job.py", [], "set RAY_ADDRESS to the endpoint's cluster"),
    ],
)
def test_the_python_examples_end_with_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: list[str], reason: str
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    done = run(folder, sys.executable, str(EXAMPLES / name), *arguments, RAYGEN_URL=NOBODY)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "out.png").exists()


@pytest.mark.slow
def test_edit_openai_paints_over_loopback_whatever_the_proxy(endpoint: Running, folder: Path) -> None:
    done = run(folder, sys.executable, str(EXAMPLES / "edit_openai.py"), "out.png", RAYGEN_URL=endpoint.url)
    assert done.stdout.count("largest difference outside the mask 0") == 3, done.stderr
    assert (folder / "out.png").exists()
