"""An endpoint by a handle: what becomes of a request whose replica dies, is full or fails, without a cluster."""

import asyncio
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from scripted_endpoints import PAINTED, REQUEST, RESULT, Handle, Script, refusal

from raygen.endpoint.edits import EditResult
from raygen.endpoint.handle import HandleTransport
from raygen.endpoint.retry import ask_blocking
from raygen.errors import EndpointError


def edit(handle: Handle, resent: list[None] | None = None) -> EditResult:
    counted = [] if resent is None else resent
    return ask_blocking(HandleTransport(handle, lambda: counted.append(None)).edit, REQUEST, None)


def test_after_a_death_the_same_request_is_sent_again_with_the_time_that_is_left() -> None:
    handle, resent = Handle(Script(ActorDiedError(), ActorDiedError(), RESULT)), list[None]()
    (image,) = edit(handle, resent).images
    assert image.image_HWC is not None
    assert np.array_equal(image.image_HWC, PAINTED)
    assert len(resent) == 2
    times_s = [request.timeout_s for request in handle.requests]
    assert times_s == sorted(times_s, reverse=True)
    assert times_s[0] - times_s[2] >= 0.2 + 0.4  # the pauses
    assert {request.seeds for request in handle.requests} == {REQUEST.seeds}


def test_pictures_are_the_callers_own() -> None:
    (image,) = edit(Handle(Script(RESULT))).images
    assert image.image_HWC is not None
    image.image_HWC[:] = 0
    assert PAINTED.any()


@pytest.mark.parametrize(
    ("answer", "code", "retry_after_s", "sends"),
    [
        (ActorDiedError(), "service_unavailable", 5, 4),
        (BackPressureError(9, 8), "server_is_overloaded", 2, 1),
        (RayTaskError("edit", "Traceback", ValueError("secret")), "internal_error", None, 1),
        (refusal(), "service_unavailable", 0.1, 1),
    ],
)
def test_what_the_caller_sees(answer: Exception, code: str, retry_after_s: float | None, sends: int) -> None:
    script = Script(answer)
    with pytest.raises(EndpointError) as caught:
        edit(Handle(script))
    error = caught.value
    assert (error.code, error.retryable, error.retry_after_s) == (code, True, retry_after_s)
    assert "secret" not in str(error)
    assert len(script.asked_at) == sends


def test_cancelling_the_call_cancels_what_it_asked_for() -> None:
    async def body() -> Any:
        handle = Handle(Script(asyncio.get_running_loop().create_future()))
        call = asyncio.create_task(HandleTransport(handle).edit(REQUEST, None))
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        return handle.responses

    (response,) = asyncio.run(body())
    assert response.is_cancelled


def test_a_handle_leads_to_one_model() -> None:
    transport = HandleTransport(Handle(Script(RESULT)))
    assert ask_blocking(transport.facts, "m") == ask_blocking(transport.facts, None)
    with pytest.raises(EndpointError, match="serves 'm', not 'other'") as caught:
        ask_blocking(transport.facts, "other")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_token_that_is_refused_is_an_error() -> None:
    transport = HandleTransport(Handle(Script(None, EndpointError("no token", code="invalid_token"))))
    ask_blocking(transport.put_token, "<a>", b"", "m")
    with pytest.raises(EndpointError, match="no token"):
        ask_blocking(transport.put_token, "<a>", b"", "m")
