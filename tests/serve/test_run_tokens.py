"""A run's learned tokens at an endpoint: stored under a name of their own, and named so in requests."""

from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from paint_backend import Running

from raygen import recipes
from raygen.endpoint.edits import EditedImage, EditRequest, EditResult
from raygen.endpoint.http import HttpTransport
from raygen.errors import ConfigError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.served import ServedInpainter, served_name, store_tokens
from raygen.inpainters.token_files import read_tokens, token_bytes
from raygen.run.opened import Opened
from raygen.run.preflight import check

WIDTH = 4  # of the painting back end's facts; its own store takes any


def token_file(folder: Path, *, seed: int = 0) -> dict[str, str]:
    folder.mkdir()
    path = folder / "learned_embeds.safetensors"
    path.write_bytes(token_bytes("<landbird>", np.random.default_rng(seed).normal(size=WIDTH)))
    return {"<landbird>": str(path)}


def stored(endpoint: Running, headers: dict[str, str] | None = None) -> dict[str, str]:
    answer = httpx2.get(f"{endpoint.url}/v1/tokens", headers=headers).json()
    return {token["name"]: token["digest"] for token in answer["data"]}


def model_of(endpoint: Running, headers: dict[str, str] | None = None) -> str:
    return str(httpx2.get(f"{endpoint.url}/v1/models", headers=headers).json()["data"][0]["id"])


def test_runs_with_other_vectors_under_one_name_do_not_meet(endpoint: Running, tmp_path: Path) -> None:
    http, model = HttpTransport(endpoint.url, None), model_of(endpoint)
    files = [token_file(tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    for paths in [*files, files[0]]:  # the same again changes nothing
        store_tokens(http, paths, model)
    tokens = [read_tokens(paths)["<landbird>"] for paths in files]
    assert {served_name(token): token.digest for token in tokens}.items() <= stored(endpoint).items()
    assert len({served_name(token) for token in tokens}) == 2


def test_a_key_that_may_not_store_is_told_what_to_do(keyed: Running, tmp_path: Path, edit_key: dict[str, str]) -> None:
    key = edit_key["authorization"].removeprefix("Bearer ")
    with pytest.raises(ConfigError, match=r"<landbird>: .*RAYGEN_API_KEY needs the scope admin"):
        store_tokens(HttpTransport(keyed.url, key), token_file(tmp_path / "one"), model_of(keyed, edit_key))


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("dataset.prompts=['a <landbird> bird', 'a bird']", "dataset.prompts"),
        ("inpainter.negative_prompt=no <landbird>", "inpainter.negative_prompt"),
    ],
)
def test_a_run_that_learns_no_tokens_names_none_even_if_one_is_stored(
    endpoint: Running, tmp_path: Path, override: str, field: str
) -> None:
    model = model_of(endpoint)
    store_tokens(HttpTransport(endpoint.url, None), token_file(tmp_path / "one"), model)
    data = {
        "recipe": "dbb",
        "engine": "local",
        "dataset": {"name": "scenes"},
        "inpainter": {"kind": "served", "url": endpoint.url, "model": model},
    }
    check(Opened(recipes.make_config(data, [], where="test")))
    with pytest.raises(ConfigError, match=f"{field}: .* names the token <landbird>, which"):
        check(Opened(recipes.make_config(data, [override], where="test")))


class Listening:
    """An endpoint that keeps what it is asked for and paints nothing."""

    def __init__(self) -> None:
        self.asked: list[EditRequest] = []

    async def edit(self, request: EditRequest, model: str | None) -> EditResult:
        self.asked.append(request)
        image = EditedImage(index=0, seed=request.seeds[0], image_HWC=request.image_HWC)
        return EditResult(images=(image,), num_inference_steps=1, num_prompt_tokens=1, provenance={"bucket": 1})

    async def facts(self, model: str | None) -> dict[str, Any]:
        return {"digest": "sha256:0", "resolution_px": 32, "stride_px": 4}

    async def put_token(self, name: str, data: bytes, model: str) -> None:
        raise AssertionError("actors store nothing")


@pytest.mark.parametrize("has_tokens", [True, False])
def test_requests_name_the_stored_token_and_plain_runs_name_none(tmp_path: Path, has_tokens: bool) -> None:
    learned = read_tokens(token_file(tmp_path / "one")) if has_tokens else {}
    config = InpainterConfig(
        kind="served",
        url="http://127.0.0.1:1",
        model="m",
        negative_prompt="no <landbird>",
        scheduler="DDIMScheduler",
    )
    listening = Listening()
    repaint_HW = np.ones((32, 32), dtype=bool)
    ServedInpainter(config, listening, learned).inpaint(
        [np.zeros((32, 32, 3), np.uint8)], [repaint_HW], prompts=["a <landbird> bird"], seeds=[3]
    )
    (request,) = listening.asked
    name = served_name(learned["<landbird>"]) if has_tokens else "<landbird>"
    assert (request.prompt, request.negative_prompt) == (f"a {name} bird", f"no {name}")
    assert request.literal_tokens is not has_tokens
    assert request.scheduler == "DDIMScheduler"
