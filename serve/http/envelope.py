"""Around every HTTP request: its id, its error object, its line in the log, its count. No route knows of these.

Where the server in front answers in our stead after a time (`serve.http.headers.answer_within_s`), this answers before.
"""

import asyncio
import json
import logging
import re
import time
import traceback
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raygen.errors import EndpointError
from serve.http.connection import ClientDisconnected
from serve.http.errors import response_parts
from serve.http.headers import answer_within_s
from serve.http.limits import MAX_HEADER_BYTES, MAX_REQUEST_ID_LENGTH
from serve.metrics import Metrics

logger = logging.getLogger("serve.access")

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_REQUEST_ID_LENGTH}}}")
CLIENT_CLOSED = 499


class Envelope:
    """ASGI middleware.

    Args:
        app: What it is around.
        metrics: Where requests are counted.
        names_requests: Whether answers get their `x-request-id` here; False where the server in front adds it, as Ray
            Serve does: the header would stand there twice.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, *, names_requests: bool = True) -> None:
        self._app, self._metrics, self._names_requests = app, metrics, names_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; whatever goes wrong in it, the client gets an error object."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s = time.perf_counter()
        headers = Headers(scope=scope)
        within_s = answer_within_s(headers)
        answer_by_s = None if within_s is None else asyncio.get_running_loop().time() + within_s
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"request_id": _request_id(headers), "headers": {}, "answer_by_s": answer_by_s}
        answer = _Answer(send, state, asyncio.timeout_at(answer_by_s), named=self._names_requests)
        try:
            async with answer.deadline:
                _check_headers(scope)
                await self._app(scope, receive, answer.send_in_time)
        except ClientDisconnected:
            answer.status = CLIENT_CLOSED
        except asyncio.CancelledError:  # how Ray Serve tells of a lost client
            answer.status = CLIENT_CLOSED
            raise
        except Exception as error:
            if answer.status:  # it had begun: nothing more can be said to the client
                log_bug(state["request_id"], error)
                return
            await error_response(answer.error_of(error))(scope, receive, answer.send)
        finally:
            self._finish(scope, state, answer.status, start_s)

    def _finish(self, scope: Scope, state: dict[str, Any], status: int, start_s: float) -> None:
        route = str(state.get("route", "none"))
        self._metrics.count("raygen_requests_total", route=route, code=str(status), model=str(state.get("model", "")))
        # Neither prompts nor pictures nor keys: what a line holds, anybody who runs the endpoint may read.
        logger.info(
            "%s %s %d %.0f ms %s",
            state["request_id"],
            route,
            status,
            1000 * (time.perf_counter() - start_s),
            json.dumps(state.get("log", {})),
        )


class _Answer:
    """What goes to the client.

    Args:
        send: The connection.
        state: The request's.
        deadline: Before it the answer must begin.
        named: Whether it gets the request's id.

    Attributes:
        status: 0 before it has begun.
    """

    def __init__(self, send: Send, state: dict[str, Any], deadline: asyncio.Timeout, *, named: bool) -> None:
        self._send, self._state, self._named = send, state, named
        self.deadline, self.status = deadline, 0

    async def send(self, message: Message) -> None:
        """Sends, with the headers that every answer gets."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            named = {"x-request-id": self._state["request_id"]} if self._named else {}
            for name, value in {**named, **self._state["headers"]}.items():
                MutableHeaders(scope=message).setdefault(name, value)
        await self._send(message)

    async def send_in_time(self, message: Message) -> None:
        """Sends, unless the deadline came before the beginning."""
        if message["type"] == "http.response.start":
            if self.deadline.expired():
                await asyncio.get_running_loop().create_future()  # until the cancellation that is on its way
            self.deadline.reschedule(None)  # the rest of a stream is for its route, which can tell of the end in it
        await self.send(message)

    def error_of(self, error: Exception) -> EndpointError:
        """The error to answer with."""
        if isinstance(error, TimeoutError) and self.deadline.expired():
            return EndpointError("the deadline passed", code="deadline_exceeded")
        if isinstance(error, EndpointError):
            return error
        log_bug(self._state["request_id"], error)
        return EndpointError("the endpoint failed", code="internal_error")


def log_bug(request_id: str, error: BaseException) -> None:
    """Logs where something went wrong, without the exception's own text, which may quote a prompt."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed: %s\n%s", request_id, type(error).__name__, frames)


def error_response(error: EndpointError) -> Response:
    """The response of an error."""
    status, body, headers = response_parts(error)
    return Response(json.dumps(body), status_code=status, headers=headers, media_type="application/json")


async def http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own errors: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        response = error_response(EndpointError("the path knows other methods", code="method_not_allowed"))
        response.headers["allow"] = (error.headers or {}).get("Allow", "")
        return response
    return error_response(EndpointError("there is no such path", code="not_found"))


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _check_headers(scope: Scope) -> None:
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise EndpointError("the headers are too long", code="headers_too_large")
