"""A model that is not there is found out in seconds, before any work, and the message says where it was looked for."""

import json
import shutil
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from huggingface_hub import constants

from raygen import recipes
from raygen.errors import ModelError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import check_model, find_painter
from raygen.maskers.clipseg import ClipsegConfig
from raygen.maskers.grounded_sam import GroundedSamConfig
from raygen.model_files import find_model, hub
from raygen.textual_inversion.class_tokens import load_tokenizer

COMMIT = "0" * 39 + "1"
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, on a machine that does not reach the hub; the working directory is empty too."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    point_at(NOBODY, monkeypatch)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "hub"
    hub.ask.cache_clear()


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.ask.cache_clear()
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def put(cache: Path, repo: str, tiny: str) -> Path:
    """A shipped model in the cache, as the hub's library lays it out."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    shutil.copytree(find_model("tiny", tiny=tiny).name, folder / "snapshots" / COMMIT)
    return folder / "snapshots" / COMMIT


class Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does."""

    answers: ClassVar[dict[str, tuple[int, str, Any]]] = {
        "acme/sdxl": (200, "", {"_class_name": "StableDiffusionXLPipeline"}),
        "acme/sd": (200, "", {"_class_name": "StableDiffusionInpaintPipeline"}),
        "acme/none": (404, "RepoNotFound", None),
        "acme/gated": (403, "GatedRepo", None),
        "acme/old": (404, "RevisionNotFound", None),
        "acme/lora": (404, "EntryNotFound", None),
    }

    def do_GET(self) -> None:
        repo = "/".join(self.path.split("/")[1:3])
        status, code, content = self.answers[repo]
        body = json.dumps(content).encode()
        self.send_response(status)
        headers = {"X-Repo-Commit": COMMIT, "ETag": '"1"', "Content-Length": str(len(body))}
        headers |= {"X-Error-Code": code} if code else {}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def served(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    point_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("model", "siblings", "message"),
    [
        ("models/sd2-inpainting", [], r"here/models/sd2-inpainting; .*here has no models\).*does not answer"),
        ("models/sd2-inpainting", ["models/sd2-inpaint", "models/x"], r"here/models has sd2-inpaint\)"),
        ("models/sd2-inpainting", ["model/sd2-inpainting"], r"here has model\)"),
        ("my models/sd", [], "it has not the form of one"),
        ("/no/such/folder", [], r"neither a folder nor a hub id .*/no/such/folder does not exist; / has no no"),
        ("../models/sd", [], "neither a folder nor a hub id"),
    ],
)
def test_a_mistyped_folder_is_told_in_seconds(cache: Path, model: str, siblings: list[str], message: str) -> None:
    for sibling in siblings:
        Path(sibling).mkdir(parents=True)
    start = time.monotonic()
    with pytest.raises(ModelError, match=message):
        check_model(find_painter(InpainterConfig(model=model)))
    assert time.monotonic() - start < 10


def test_an_offline_hub_is_not_asked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=f"not in the hub's cache .{cache}., and .* since HF_HUB_OFFLINE is set"):
        check_model(find_painter(InpainterConfig(model="acme/sd")))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("acme/sdxl", "names the pipeline 'StableDiffusionXLPipeline'"),
        ("acme/none", "the hub has no such model"),
        ("acme/gated", "accept its terms"),
        ("acme/old", "no revision 'v9'"),
        ("acme/lora", "has no model_index.json"),
        ("acme/sd", None),
    ],
)
@pytest.mark.usefixtures("served")
def test_the_hub_is_asked_what_a_model_is(model: str, message: str | None) -> None:
    found = find_painter(InpainterConfig(model=model, revision="v9"))
    if message is None:
        check_model(found)
        return
    with pytest.raises(ModelError, match=message):
        check_model(found)


def test_a_model_in_the_cache_works_without_the_hub(cache: Path) -> None:
    snapshot = put(cache, "acme/sd", "weights")
    found, tiny = find_painter(InpainterConfig(model="acme/sd")), find_painter(InpainterConfig())
    start = time.monotonic()
    check_model(found)
    # The library itself tries for minutes.
    assert load_tokenizer(found).get_vocab() == load_tokenizer(tiny).get_vocab()
    assert time.monotonic() - start < 15
    assert hub.loadable("acme/sd", None) == str(snapshot)
    with pytest.raises(ModelError, match="not in the hub's cache"):
        check_model(find_painter(InpainterConfig(model="acme/sd", revision="other")))
    (snapshot / "unet" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"not usable as it is in the hub's cache \(.*no unet/config.json"):
        check_model(found)


def test_what_masks_by_language_is_looked_for_too(cache: Path) -> None:
    put(cache, "acme/clipseg", "segmenter_weights")
    ClipsegConfig(model="acme/clipseg").check()
    with pytest.raises(ModelError, match=r"synthesis.language.model: there is no folder 'acme/clipsec'"):
        ClipsegConfig(model="acme/clipsec").check()
    with pytest.raises(ModelError, match="is of type 'clipseg', which cannot be used as a GroundingDINO detector"):
        GroundedSamConfig(detector="acme/clipseg", segmenter="acme/sam").check()


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        (["inpainter.model=models/sd"], "inpainter.model"),
        (["textual_inversion.num_images=2", "textual_inversion.model=models/sd"], "textual_inversion.model"),
        (["synthesis.mask=language", "synthesis.language.model=models/sd"], "synthesis.language.model"),
    ],
)
def test_nothing_is_written_before_a_run_has_its_models(
    cache: Path, tmp_path: Path, overrides: list[str], field: str
) -> None:
    data = {"recipe": "dbb", "engine": "local", "dataset": {"name": "scenes", "scale": 0.01}}
    config = recipes.make_config({**data, "synthesis": {"mask": "truth", "k": 1}}, overrides, where="test")
    with pytest.raises(ModelError, match=f"{field}: there is no folder 'models/sd'"):
        recipes.run(config, tmp_path / "run", fresh=False, command="", say=lambda line: None)
    assert not (tmp_path / "run").exists()
