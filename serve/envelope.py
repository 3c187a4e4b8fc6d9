"""Around every HTTP request: its id, its error object, its line in the log, its count. No route knows of these."""

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
from serve.connection import ClientDisconnected
from serve.errors import response_parts
from serve.limits import MAX_HEADER_BYTES, MAX_REQUEST_ID_LENGTH
from serve.metrics import Metrics

logger = logging.getLogger("serve.access")

_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:-]{{1,{MAX_REQUEST_ID_LENGTH}}}")
CLIENT_CLOSED = 499


class Envelope:
    """ASGI middleware.

    Args:
        app: What it is around.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; whatever goes wrong in it, the client gets an error object."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_s = time.perf_counter()
        request_id = _request_id(Headers(scope=scope))
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"request_id": request_id, "headers": {}}
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).setdefault("x-request-id", request_id)
                for name, value in state["headers"].items():
                    MutableHeaders(scope=message).setdefault(name, value)
            await send(message)

        try:
            _check_headers(scope)
            await self._app(scope, receive, send_with_id)
        except ClientDisconnected:
            status = CLIENT_CLOSED
        except asyncio.CancelledError:  # how Ray Serve tells of a lost client
            status = CLIENT_CLOSED
            raise
        except Exception as error:
            if status:  # the answer had begun: nothing more can be said to the client
                log_bug(request_id, error)
                return
            await error_response(_as_endpoint_error(error, request_id))(scope, receive, send_with_id)
        finally:
            self._finish(scope, state, status, start_s)

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


def _as_endpoint_error(error: Exception, request_id: str) -> EndpointError:
    if isinstance(error, EndpointError):
        return error
    log_bug(request_id, error)
    return EndpointError("the endpoint failed", code="internal_error")


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}"


def _check_headers(scope: Scope) -> None:
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        raise EndpointError("the headers are too long", code="headers_too_large")
