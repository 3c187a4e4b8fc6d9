"""Pictures that a model's safety checker blocks, from the engine to a run that paints through the endpoint."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from memory_metrics import MemoryMetrics
from paint_backend import Running
from real_architectures import SD15_INPAINTING, narrowed, save_architecture, set_threshold

from raygen.endpoint.edits import EditedImage, EditEvent, EditRequest, EditResult, PartialImage
from raygen.endpoint.http import Transport, connect_http
from raygen.endpoint.wire import error_of
from raygen.errors import RowError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.served import ServedInpainter
from serve.config import ServedModelConfig
from serve.engine.engine import Engine
from serve.engine.tokens import TokenStore

SIDE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_architecture(narrowed(SD15_INPAINTING), tmp_path_factory.mktemp("model") / "sd15")
    return set_threshold(folder, -2.0)  # blocks everything


def request() -> EditRequest:
    repaint_HW = np.zeros((SIDE, SIDE), dtype=bool)
    repaint_HW[16:48, 8:40] = True
    image_HWC = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    return EditRequest(
        image_HWC=image_HWC, repaint_HW=repaint_HW, prompt="a bird", seeds=(1, 2), num_partial_images=1, timeout_s=120
    )


def events(folder: Path, *, safety_checker: bool) -> list[EditEvent]:
    config = InpainterConfig(model=str(folder), num_inference_steps=3, safety_checker=safety_checker)

    async def body() -> list[EditEvent]:
        engine = Engine(ServedModelConfig(id="m", inpainter=config), TokenStore(folder, "m"), MemoryMetrics())
        try:
            assert await engine.probe() is None  # that its picture is blocked is no illness
            return [event async for event in engine.stream(request())]
        finally:
            await engine.close()

    return asyncio.run(body())


def test_blocked_pictures_are_flagged_and_have_no_pixels_nor_previews(model: Path) -> None:
    found = events(model, safety_checker=True)
    pictures = [event for event in found if isinstance(event, EditedImage)]
    assert sorted((picture.seed, picture.flagged, picture.image_HWC) for picture in pictures) == [
        (1, True, None),
        (2, True, None),
    ]
    assert not any(isinstance(event, PartialImage) for event in found)
    assert isinstance(found[-1], EditResult)


def test_a_model_served_without_its_checker_gives_them(model: Path) -> None:
    found = events(model, safety_checker=False)
    pictures = [event for event in found if isinstance(event, EditedImage)]
    assert [(picture.flagged, picture.image_HWC is None) for picture in pictures] == [(False, False)] * 2
    assert sum(isinstance(event, PartialImage) for event in found) == 2


def served(endpoint: Transport) -> list[np.ndarray | RowError]:
    config = InpainterConfig(kind="served", url="http://127.0.0.1:1", model="tiny", resolution_px=SIDE)
    asked = request()
    return ServedInpainter(config, endpoint).inpaint(
        [asked.image_HWC] * 2, [asked.repaint_HW] * 2, prompts=["a bird"] * 2, seeds=[0, 1]
    )


class Fixed:
    """An endpoint whose facts are given, in front of another that paints."""

    def __init__(self, endpoint: Transport) -> None:
        self._endpoint = endpoint

    async def edit(self, request: EditRequest, model: str | None) -> EditResult:
        return await self._endpoint.edit(replace(request), model)

    async def facts(self, model: str | None) -> dict[str, object]:
        return {"digest": "sha256:0", "stride_px": 8, "resolution_px": SIDE}

    async def put_token(self, name: str, data: bytes, model: str) -> None:
        await self._endpoint.put_token(name, data, model)


def test_over_http_a_blocked_row_fails_alone(endpoint: Running) -> None:
    """A request of one picture that is blocked is answered by an error: it is about that row, not about the job."""
    endpoint.backend.flagged = {1}
    painted, blocked = served(Fixed(connect_http(endpoint.url)))
    assert isinstance(painted, np.ndarray)
    assert isinstance(blocked, RowError)
    assert str(blocked) == "the model's safety checker blocked every picture"


def test_the_error_is_not_asked_again() -> None:
    body = {"error": {"message": "blocked", "code": "content_policy_violation", "param": None}}
    assert not error_of(400, body, {}).retryable
