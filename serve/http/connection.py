"""The client's end of a connection: its body as it arrives, and whether it is still there."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.datastructures import Headers
from starlette.types import Receive

from raygen.errors import EndpointError, number_text
from serve.http.limits import BODY_SILENCE_S, BODY_TOTAL_S

T = TypeVar("T")


class ClientDisconnected(Exception):  # noqa: N818 - what the client did, no error of anybody's
    """The client has gone: nobody is there to answer."""


def check_body_headers(headers: Headers, *, max_bytes: int) -> None:
    """Refuses by its headers a body that would not be read to its end.

    Raises:
        EndpointError: unsupported_media_type (an encoded body), request_too_large.
    """
    if "content-encoding" in headers:
        raise EndpointError("encoded bodies are not read; leave Content-Encoding away", code="unsupported_media_type")
    length = headers.get("content-length", "0")
    # More than 18 digits are too many bytes, whatever they are.
    if not length.isdecimal() or len(length) > 18 or int(length) > max_bytes:
        raise _too_large(max_bytes)


async def body_chunks(
    receive: Receive, *, max_bytes: int, silence_s: float = BODY_SILENCE_S, total_s: float = BODY_TOTAL_S
) -> AsyncIterator[bytes]:
    """The body as it arrives, in non-empty chunks.

    Args:
        receive: The connection.
        max_bytes: Of the whole body.
        silence_s: Longest time without a byte.
        total_s: Longest time for all of it.

    Raises:
        EndpointError: request_too_large, request_body_timeout.
        ClientDisconnected: The client went away before the end.
    """
    loop = asyncio.get_running_loop()
    now_s = loop.time()
    give_up_s, silent_until_s, num_bytes = now_s + total_s, now_s + silence_s, 0
    while True:
        try:
            async with asyncio.timeout_at(min(give_up_s, silent_until_s)):
                message = await receive()
        except TimeoutError:
            raise EndpointError(
                f"the body is not complete, and nothing came for {number_text(silence_s)} seconds or it took longer "
                f"than {number_text(total_s)} in all; is Content-Length right?",
                code="request_body_timeout",
                retryable=True,
            ) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk = message.get("body", b"")
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            raise _too_large(max_bytes)
        if chunk:
            silent_until_s = loop.time() + silence_s
            yield chunk
        if not message.get("more_body", False):
            return


async def whole_body(receive: Receive, *, max_bytes: int) -> bytes:
    """The body in one piece; see `body_chunks`."""
    return b"".join([chunk async for chunk in body_chunks(receive, max_bytes=max_bytes)])


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What the work gives; it is cancelled as soon as the client has gone. The body must have been read.

    Raises:
        ClientDisconnected: The client has gone.
    """
    task = asyncio.create_task(work)
    watcher = asyncio.create_task(_until_disconnect(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        # Also when this coroutine itself is cancelled, which is how Ray Serve tells of a lost client.
        task.cancel()
        watcher.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(max_bytes: int) -> EndpointError:
    return EndpointError(f"the body is larger than {max_bytes} bytes", code="request_too_large")
