"""Sending an edit to the replicas of a model, and sending it again when one dies under it.

The seeds are fixed before the first send, so a second send paints the same bytes: no accepted request is lost, and
none is answered twice. Errors of raygen travel as values: an exception would arrive with a worker's traceback.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any

from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from raygen.endpoint.edits import EditedImage, EditEvent, EditRequest, EditResult, PartialImage
from raygen.errors import EndpointError
from serve.http.limits import number_text

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


class Dispatcher:
    """The models' replicas, seen from one process.

    Args:
        handles: Ray Serve handle of each model's engine deployment.
        on_redispatch: Called whenever a request is sent again.
    """

    def __init__(self, handles: Mapping[str, Any], on_redispatch: Callable[[], None]) -> None:
        self._handles, self._on_redispatch = handles, on_redispatch

    async def edit(self, model_id: str, request: EditRequest) -> EditResult:
        """Paints; see `serve.backend.Backend`."""
        handle = self._handles[model_id]
        deadline_s = time.monotonic() + request.timeout_s
        for send in range(1, MAX_SENDS + 1):
            try:
                async with asyncio.timeout(deadline_s - time.monotonic() + GRACE_S):
                    result = await _result_of(handle.edit.remote(_with_time_left(request, deadline_s)))
            except TimeoutError:
                raise _too_late(request) from None
            except (RayError, BackPressureError, DeploymentUnavailableError) as error:
                await self._before_next_send(error, send)
            else:
                if isinstance(result, EndpointError):
                    raise result
                return _own(result)
        raise AssertionError("the last send raises")

    async def stream(self, model_id: str, request: EditRequest) -> AsyncGenerator[EditEvent, None]:
        """Paints, event by event; after a death, what was given already is not given again."""
        handle = self._handles[model_id].options(stream=True)
        deadline_s = time.monotonic() + request.timeout_s
        given: set[tuple[str, int, int]] = set()
        for send in range(1, MAX_SENDS + 1):
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
                raise _too_late(request) from None
            except StopAsyncIteration:
                await self._before_next_send(RayError("a stream ended without its result"), send)
            except (RayError, BackPressureError, DeploymentUnavailableError) as error:
                await self._before_next_send(error, send)
            finally:
                _cancel(responses)

    async def not_ready(self, model_id: str, *, timeout_s: float) -> str | None:
        """Why a model's replicas cannot paint, or None."""
        try:
            async with asyncio.timeout(timeout_s):
                reason: str | None = await self._handles[model_id].probe.remote()
        except TimeoutError:
            return "no replica answers"
        except (RayError, BackPressureError, DeploymentUnavailableError) as error:
            logger.warning("a probe of %s failed: %s", model_id, type(error).__name__)
            return "no replica is alive"
        return reason

    async def _before_next_send(self, error: Exception, send: int) -> None:
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
        if isinstance(error, DeploymentUnavailableError) or send == MAX_SENDS:
            logger.error("no replica took a request: %s", type(error).__name__)
            raise EndpointError(
                "no replica of the model is there",
                code="service_unavailable",
                retryable=True,
                retry_after_s=RETRY_ABSENT_S,
            ) from error
        logger.warning("a replica died (%s); the request is sent again", type(error).__name__)
        self._on_redispatch()
        await asyncio.sleep(RESEND_S * send)


async def _result_of(response: Any) -> EditResult | EndpointError:
    try:
        result: EditResult | EndpointError = await response
    except asyncio.CancelledError:
        # Ray cancels what a request has called only when it cancels the request itself, not when a coroutine in it is.
        _cancel(response)
        raise
    return result


def _cancel(response: Any) -> None:
    # Where no replica took the request, Ray raises that error here again; it was dealt with where it was awaited.
    with contextlib.suppress(RayError, BackPressureError, DeploymentUnavailableError):
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


def _too_late(request: EditRequest) -> EndpointError:
    return EndpointError(
        f"the deadline of {number_text(request.timeout_s)} seconds passed before the pictures were done",
        code="deadline_exceeded",
    )


def _own(result: EditResult) -> EditResult:
    # Arrays from the object store are read-only views of it; callers get their own.
    images = tuple(
        image if image.image_HWC is None else replace(image, image_HWC=image.image_HWC.copy())
        for image in result.images
    )
    return replace(result, images=images)
