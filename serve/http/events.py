"""An edit as server-sent events: progress as comments, previews, pictures, at most one error."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from raygen.endpoint.edits import EditedImage, EditEvent, PartialImage, Progress
from raygen.errors import EndpointError
from serve.http.backend import Rendering
from serve.http.connection import while_connected
from serve.http.envelope import log_bug
from serve.http.responses import all_blocked, completed_event, error_event, partial_event


class EventStream(Response):
    """Server-sent events; the work behind them stops when the client goes."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        # no-store and no buffering: a proxy that collects events defeats them.
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events as they come."""
        await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._chunks):
            async for chunk in self._chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def event_stream(
    request: Request,
    events: AsyncIterator[EditEvent],
    rendering: Rendering,
    *,
    num_inference_steps: int,
    give_up_s: float,
) -> EventStream:
    """The response, once the first event is there: what is wrong with a request shows before, with a status of its own.

    Args:
        request: The HTTP request.
        events: What the back end gives.
        rendering: How pictures are written.
        num_inference_steps: For the events' `quality`.
        give_up_s: A back end that misses its own deadline is not waited for any longer, on the loop's clock.

    Raises:
        EndpointError: What the back end refuses.
        ClientDisconnected: The client has gone.
    """
    bounded = _until(events, give_up_s)

    async def first_of() -> EditEvent:
        return await anext(bounded)

    first = await while_connected(request.receive, first_of())
    request_id = str(request.scope["state"]["request_id"])
    encode = _Encoder(rendering, num_inference_steps, give_up_s)
    return EventStream(_as_bytes(first, bounded, encode, request_id))


async def _until(events: AsyncIterator[EditEvent], give_up_s: float) -> AsyncGenerator[EditEvent, None]:
    """The events, up to a moment on the loop's clock; closes them at the end."""
    try:
        while True:
            async with asyncio.timeout_at(give_up_s):
                event = await anext(events, None)
            if event is None:
                return
            yield event
    except TimeoutError:
        raise _too_late() from None
    finally:
        close: Any = getattr(events, "aclose", None)
        if close is not None:
            await close()


@dataclass(frozen=True, slots=True)
class _Encoder:
    """Writes the events that hold a picture, and gives up at the same moment."""

    rendering: Rendering
    steps: int
    give_up_s: float

    async def __call__(self, event: PartialImage | EditedImage) -> bytes:
        write: Any = partial_event if isinstance(event, PartialImage) else completed_event
        try:
            async with asyncio.timeout_at(self.give_up_s):
                data: bytes = await asyncio.to_thread(write, event, self.rendering, num_inference_steps=self.steps)
        except TimeoutError:
            raise _too_late() from None
        return data


def _too_late() -> EndpointError:
    return EndpointError("the deadline passed", code="deadline_exceeded")


async def _as_bytes(
    first: EditEvent, events: AsyncGenerator[EditEvent, None], encode: _Encoder, request_id: str
) -> AsyncGenerator[bytes, None]:
    num_pictures = num_flagged = 0
    event: EditEvent | None = first
    try:
        while event is not None:
            if isinstance(event, PartialImage):
                yield await encode(event)
            elif isinstance(event, EditedImage):
                num_pictures += 1
                num_flagged += event.flagged
                yield await encode(event)
            elif isinstance(event, Progress):
                # A comment: clients skip it, and proxies see that the connection lives.
                yield f": step {event.step} of {event.steps}, {event.queue_position} before\n\n".encode()
            event = await anext(events, None)
        if num_pictures == num_flagged:
            yield error_event(all_blocked())
    except EndpointError as error:
        yield error_event(error)
    except Exception as error:
        # The status was sent long ago: an event is all that can still tell.
        log_bug(request_id, error)
        yield error_event(EndpointError("the endpoint failed", code="internal_error"))
    finally:
        await events.aclose()
