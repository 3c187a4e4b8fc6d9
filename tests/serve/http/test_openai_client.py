"""The unchanged `openai` client, as an outsider uses it."""

# H height and W width of the picture

import asyncio
import base64
import io
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openai
import pytest
from edit_forms import alpha_mask, decoded, encoded, hole, picture
from paint_backend import Running, colour_of
from PIL import Image

from raygen.errors import EndpointError

IMAGE = encoded(picture(1, 77, 91))
MASK = alpha_mask(hole(77, 91))


def client(endpoint: Running, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{endpoint.url}/v1", **{"api_key": "none", **options})


def test_odd_sizes_come_back_as_they_were_but_for_the_hole(endpoint: Running) -> None:
    result = client(endpoint).images.edit(image=IMAGE, mask=MASK, prompt="a bird", extra_body={"seed": 7})
    assert result.data is not None
    picture_HWC = decoded(result.data[0].b64_json or "")
    mask_HW = hole(77, 91)
    assert picture_HWC.shape == (77, 91, 3)
    assert np.array_equal(picture_HWC[~mask_HW], picture(1, 77, 91)[~mask_HW])
    assert (picture_HWC[mask_HW] == colour_of(7)).all()
    assert result.data[0].seed == 7  # type: ignore[attr-defined]
    assert (result.size, result.output_format, result.background) == ("91x77", "png", "opaque")
    assert result.usage is not None
    assert (result.usage.input_tokens, result.usage.output_tokens, result.usage.total_tokens) == (2, 1, 3)


@pytest.mark.parametrize("kind", ["bytes", "file", "path", "tuple", "list", "stream"])
def test_every_way_to_give_a_file(endpoint: Running, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "../x y.png"
    (tmp_path / "../x y.png").write_bytes(IMAGE)
    image: Any = {
        "bytes": IMAGE,
        "file": path.open("rb"),
        "path": path,
        "tuple": ("../../etc/passwd\0", IMAGE, "text/html"),
        "list": [IMAGE],
        "stream": io.BytesIO(IMAGE),
    }[kind]
    result = client(endpoint).images.edit(image=image, mask=MASK, prompt="a bird")
    assert result.data is not None
    assert decoded(result.data[0].b64_json or "").shape == (77, 91, 3)


def test_the_third_of_three_is_the_one_with_the_third_seed(endpoint: Running) -> None:
    def bodies(**more: Any) -> list[str | None]:
        result = client(endpoint).images.edit(image=IMAGE, mask=MASK, prompt="a bird", **more)
        return [data.b64_json for data in result.data or []]

    three = bodies(n=3, extra_body={"seed": 5})
    assert three[2:] == bodies(extra_body={"seed": 7})
    assert three == bodies(extra_body={"seeds": "5,6,7"})
    assert len({*three}) == 3


def test_stream(endpoint: Running) -> None:
    stream = client(endpoint).images.edit(
        image=IMAGE, mask=MASK, prompt="a bird", stream=True, partial_images=2, n=2, extra_body={"seed": 4}
    )
    events: list[Any] = list(stream)
    kinds = [event.type for event in events]
    assert kinds == [*["image_edit.partial_image"] * 2, "image_edit.completed"] * 2
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    done = events[2]
    assert type(done).__name__ == "ImageEditCompletedEvent"
    assert (done.usage.total_tokens, done.size, done.quality, done.seed) == (3, "91x77", "low", 4)
    assert (decoded(done.b64_json)[hole(77, 91)] == colour_of(4)).all()
    assert isinstance(done.created_at, int)


def test_a_failure_in_the_middle_of_a_stream_is_raised(endpoint: Running) -> None:
    endpoint.backend.failure = EndpointError("too late", code="deadline_exceeded")
    endpoint.backend.failure_after = 1
    stream = client(endpoint).images.edit(image=IMAGE, mask=MASK, prompt="a bird", stream=True, n=2)
    seen: list[Any] = []
    with pytest.raises(openai.APIError) as error:
        seen.extend(stream)
    assert len(seen) == 1
    assert (error.value.code, error.value.message) == ("deadline_exceeded", "too late")


def test_async(endpoint: Running) -> None:
    async def body() -> None:
        async with openai.AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key="none") as asking:
            results = await asyncio.gather(
                *[
                    asking.images.edit(image=IMAGE, mask=MASK, prompt="a bird", extra_body={"seed": seed})
                    for seed in range(4)
                ]
            )
            for seed, result in enumerate(results):
                assert result.data is not None
                assert (decoded(result.data[0].b64_json or "")[hole(77, 91)] == colour_of(seed)).all()
            stream = await asking.images.edit(image=IMAGE, mask=MASK, prompt="a bird", stream=True)
            assert [event.type async for event in stream] == ["image_edit.completed"]

    asyncio.run(body())


def test_models(endpoint: Running) -> None:
    (model,) = client(endpoint).models.list().data
    assert model.id == "tiny"
    assert client(endpoint).models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError) as error:
        client(endpoint).models.retrieve("sdxl")
    assert error.value.code == "model_not_found"


def test_errors_are_typed(endpoint: Running, keyed: Running) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        client(endpoint).images.edit(image=IMAGE, prompt="a bird")
    assert (error.value.code, error.value.param, error.value.type) == ("mask_required", "mask", "invalid_request_error")
    assert error.value.request_id
    with pytest.raises(openai.AuthenticationError):
        client(keyed).images.edit(image=IMAGE, mask=MASK, prompt="a bird")
    assert not keyed.backend.requests


@pytest.mark.parametrize(
    ("code", "sends"),
    [("deadline_exceeded", 1), ("out_of_memory", 1), ("non_finite_output", 1), ("prompt_too_long", 1)],
)
def test_what_cannot_succeed_is_sent_once(endpoint: Running, code: str, sends: int) -> None:
    endpoint.backend.failure = EndpointError("no", code=code)
    with pytest.raises(openai.APIStatusError):
        client(endpoint, max_retries=2).images.edit(image=IMAGE, mask=MASK, prompt="a bird")
    assert len(endpoint.backend.requests) == sends


def test_what_may_succeed_is_sent_again_after_its_wait(endpoint: Running) -> None:
    endpoint.backend.failure = EndpointError("full", code="server_is_overloaded", retry_after_s=1)
    start = time.monotonic()
    with pytest.raises(openai.InternalServerError) as error:
        client(endpoint, max_retries=1).images.edit(image=IMAGE, mask=MASK, prompt="a bird")
    assert error.value.code == "server_is_overloaded"
    assert len(endpoint.backend.requests) == 2
    assert time.monotonic() - start > 0.9


def test_the_clients_own_timeout_bounds_the_work(endpoint: Running) -> None:
    client(endpoint, timeout=33).images.edit(image=IMAGE, mask=MASK, prompt="a bird")
    assert endpoint.backend.requests[-1].timeout_s == 33
    client(endpoint, timeout=None).images.edit(image=IMAGE, mask=MASK, prompt="a bird")
    assert endpoint.backend.requests[-1].timeout_s == 300


def test_formats(endpoint: Running) -> None:
    kinds: tuple[Literal["jpeg", "webp", "png"], ...] = ("jpeg", "webp", "png")
    for kind in kinds:
        result = client(endpoint).images.edit(image=IMAGE, mask=MASK, prompt="a bird", output_format=kind)
        assert result.data is not None
        data = base64.b64decode(result.data[0].b64_json or "")
        assert Image.open(io.BytesIO(data)).format == kind.upper()
