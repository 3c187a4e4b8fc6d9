"""The endpoint through a Ray Serve handle: arrays instead of PNG. The only file of this room that knows Ray.

A request goes to another replica when one dies under it. Its seeds are fixed before the first send, so a second send
paints the same bytes: no accepted request is lost, and none is answered twice. Errors of raygen travel as values: an
exception would arrive with a worker's traceback.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ray import serve as ray_serve
from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException

from raygen.endpoint.edits import EditedImage, EditEvent, EditRequest, EditResult, PartialImage, too_late
from raygen.endpoint.http import ANSWER_TIMEOUT_S
from raygen.endpoint.retry import ask_blocking
from raygen.errors import ConfigError, EndpointError

logger = logging.getLogger(__name__)

# Sends of one request. More deaths than this under one request mean that the request is what kills.
MAX_SENDS = 4
# A handle may take so much longer than the engine's own deadline before the request is given up here.
GRACE_S = 5.0
# Before the second send, and twice, three times that before the next: Ray takes about a second to notice a death, and
# the other replicas have room at once.
RESEND_S = 0.2
# Seconds after which a refused client may try again: a full queue moves within a few steps, a replica loads in some.
RETRY_FULL_S = 2
RETRY_ABSENT_S = 5
# An engine is always given some time, so that it is the one to say that the deadline has passed.
LEAST_TIMEOUT_S = 0.001


class HandleTransport:
    """The `raygen.endpoint.http.Transport` to the replicas of one model; who is on the cluster needs no key.

    Args:
        handle: Ray Serve handle of the model's engine deployment (`serve.app.EngineDeployment`).
        on_resend: Called whenever a request is sent again.
    """

    def __init__(self, handle: Any, on_resend: Callable[[], None] = lambda: None) -> None:
        self._handle, self._on_resend = handle, on_resend

    async def edit(self, request: EditRequest, model: str | None) -> EditResult:
        """Paints; a handle leads to one model, whatever `model` says. The picture may be an ObjectRef of one."""
        deadline_s = time.monotonic() + request.timeout_s

        def send() -> Any:
            return self._handle.edit.remote(_with_time_left(request, deadline_s))

        try:
            return _own(await self._answer(send, deadline_s + GRACE_S))
        except TimeoutError:
            raise too_late(request) from None

    async def stream(self, request: EditRequest) -> AsyncGenerator[EditEvent, None]:
        """Paints, event by event; after a death, what was given already is not given again."""
        handle = self._handle.options(stream=True)
        deadline_s = time.monotonic() + request.timeout_s
        given: set[tuple[str, int, int]] = set()
        for attempt in range(1, MAX_SENDS + 1):
            responses = handle.stream.remote(_with_time_left(request, deadline_s))
            try:
                while True:
                    async with asyncio.timeout(deadline_s - time.monotonic() + GRACE_S):
                        event = await anext(responses)
                    if isinstance(event, EndpointError):
                        raise event
                    if not _is_repeated(event, given):
                        yield event
                    if isinstance(event, EditResult):
                        return
            except TimeoutError:
                raise too_late(request) from None
            except StopAsyncIteration:
                await self._before_next_send(RayError("a stream ended without its result"), attempt)
            except (RayError, RayServeException) as error:
                await self._before_next_send(error, attempt)
            finally:
                _cancel(responses)

    async def facts(self, model: str | None) -> dict[str, Any]:
        """The model's id and facts.

        Raises:
            EndpointError: model_not_found: it is not the asked one, or what `edit` raises.
        """
        facts = dict(await self._ask(self._handle.facts.remote))
        if model not in (None, facts["id"]):
            raise EndpointError(
                f"this deployment serves '{facts['id']}', not '{model}'", code="model_not_found", param="model"
            )
        return facts

    async def put_token(self, name: str, data: bytes, model: str) -> None:
        """Stores a learned token in the folder that the model's replicas share."""
        await self._ask(partial(self._handle.put_token.remote, name, data))

    async def not_ready(self, *, timeout_s: float) -> str | None:
        """Why the replicas cannot paint, or None."""
        try:
            async with asyncio.timeout(timeout_s):
                reason: str | None = await self._handle.probe.remote()
        except TimeoutError:
            return "no replica answers"
        except (RayError, RayServeException) as error:
            logger.warning("a probe of %s failed: %s", self._handle.deployment_name, type(error).__name__)
            return "no replica is alive"
        return reason

    async def _ask(self, send: Callable[[], Any]) -> Any:
        try:
            return await self._answer(send, time.monotonic() + ANSWER_TIMEOUT_S)
        except TimeoutError as error:
            raise EndpointError("no replica answers", code="service_unavailable", retryable=True) from error

    async def _answer(self, send: Callable[[], Any], give_up_s: float) -> Any:
        """What a replica gives, asked anew after a death.

        Raises:
            EndpointError: It refused or failed, or none is there.
            TimeoutError: It was not done in time.
        """
        for attempt in range(1, MAX_SENDS + 1):
            try:
                async with asyncio.timeout(give_up_s - time.monotonic()):
                    answer = await _result_of(send())
            except (RayError, RayServeException) as error:
                await self._before_next_send(error, attempt)
            else:
                if isinstance(answer, EndpointError):
                    raise answer
                return answer
        raise AssertionError("the last send raises")

    async def _before_next_send(self, error: Exception, attempt: int) -> None:
        """Waits a moment, or raises what the caller is to see."""
        if isinstance(error, RayTaskError) and not isinstance(error, TaskCancelledError):
            logger.error("an engine failed: %s", error)
            raise EndpointError("the model failed", code="internal_error", retryable=True) from error
        if isinstance(error, TaskCancelledError):
            raise asyncio.CancelledError from error
        if isinstance(error, BackPressureError):
            raise EndpointError(
                "too many requests are waiting", code="server_is_overloaded", retryable=True, retry_after_s=RETRY_FULL_S
            ) from error
        if isinstance(error, DeploymentUnavailableError) or attempt == MAX_SENDS:
            logger.error("no replica took a request: %s", type(error).__name__)
            raise EndpointError(
                "no replica of the model is there",
                code="service_unavailable",
                retryable=True,
                retry_after_s=RETRY_ABSENT_S,
            ) from error
        logger.warning("a replica died (%s); the request is sent again", type(error).__name__)
        self._on_resend()
        await asyncio.sleep(RESEND_S * attempt)


def connect_handle(url: str) -> HandleTransport:
    """The endpoint at "serve://application/deployment" on the cluster that this process has joined.

    Raises:
        ConfigError: There is no such deployment, or it does not answer.
    """
    application, _, deployment = url.removeprefix("serve://").partition("/")
    try:
        transport = HandleTransport(ray_serve.get_deployment_handle(deployment or "engine", application))
        ask_blocking(transport.facts, None)
    except (RayError, RayServeException, KeyError, EndpointError) as error:
        raise ConfigError(
            f"{url}: no such deployment answers on this cluster ({type(error.__cause__ or error).__name__}); "
            "see `serve status` for the applications that run"
        ) from error
    return transport


async def _result_of(response: Any) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        # Ray cancels what a request has called only when it cancels the request itself, not when a coroutine in it is.
        _cancel(response)
        raise


def _cancel(response: Any) -> None:
    # Where no replica took the request, Ray raises that error here again; it was dealt with where it was awaited.
    with contextlib.suppress(RayError, RayServeException):
        response.cancel()


def _with_time_left(request: EditRequest, deadline_s: float) -> EditRequest:
    return replace(request, timeout_s=max(LEAST_TIMEOUT_S, deadline_s - time.monotonic()))


def _is_repeated(event: EditEvent, given: set[tuple[str, int, int]]) -> bool:
    if isinstance(event, PartialImage):
        name = ("partial", event.index, event.number)
    elif isinstance(event, EditedImage):
        name = ("image", event.index, 0)
    else:
        return False
    if name in given:
        return True
    given.add(name)
    return False


def _own(result: EditResult) -> EditResult:
    # Arrays from the object store are read-only views of it; callers get their own.
    images = tuple(
        image if image.image_HWC is None else replace(image, image_HWC=image.image_HWC.copy())
        for image in result.images
    )
    return replace(result, images=images)
