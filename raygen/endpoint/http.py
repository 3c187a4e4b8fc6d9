"""How requests get to an endpoint, and the way over HTTP; `raygen.endpoint.handle` is the way inside a Ray cluster."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol
from urllib.parse import quote

import httpx2

from raygen.endpoint.edits import EditRequest, EditResult
from raygen.endpoint.urls import client_options, no_answer, no_endpoint, with_proxy_named
from raygen.endpoint.wire import (
    EDITS_PATH,
    MODELS_PATH,
    TOKENS_PATH,
    clean_key,
    error_of,
    form_of,
    headers_of,
    json_of,
    key_headers,
    result_of,
)
from raygen.errors import EndpointError

# Where the key is looked for: a config file is copied into run folders, so it must not hold one.
KEY_VARIABLE = "RAYGEN_API_KEY"
# Requests that one pool's actor has under way; the endpoint's own queue orders those of all actors.
IN_FLIGHT = 8
CONNECT_TIMEOUT_S = 10.0
# An answer may come so much later than the deadline that the endpoint was given.
GRACE_S = 30.0
# For what is no edit; a model that was scaled to zero is loaded first.
ANSWER_TIMEOUT_S = 300.0


class Transport(Protocol):
    """How one request gets to an endpoint, once: no retries, see `raygen.endpoint.retry`.

    All errors are `raygen.errors.EndpointError`; see its `code`.
    """

    async def edit(self, request: EditRequest, model: str | None) -> EditResult:
        """Paints, with the model of that id or the endpoint's default; cancelling the call stops it within a step."""
        ...

    async def facts(self, model: str | None) -> dict[str, Any]:
        """The model's entry of `/v1/models`."""
        ...

    async def put_token(self, name: str, data: bytes, model: str) -> None:
        """Stores a learned token, the bytes of its file; the same again changes nothing."""
        ...


class HttpTransport:
    """The `Transport` to an address.

    Args:
        url: Such as "http://127.0.0.1:8000".
        key: Bearer key, as `clean_key` gives it; None where none is needed.
        client: Keeps connections from request to request, which then all come from one event loop. By default each
            request has a connection of its own and may come from any.

    Raises:
        EndpointError: The address is none, or the environment's proxy for it cannot be used.
    """

    def __init__(self, url: str, key: str | None, client: httpx2.AsyncClient | None = None) -> None:
        client_options(url)  # for its errors, before any work
        self._url, self._key, self._client = url, key, client

    async def edit(self, request: EditRequest, model: str | None) -> EditResult:
        """Paints; see `Transport`."""
        headers = headers_of(request, self._key)
        fields, files = await asyncio.to_thread(form_of, request, model)
        timeout_s = request.timeout_s + GRACE_S
        response, body = await self._send("POST", EDITS_PATH, timeout_s, data=fields, files=files, headers=headers)
        try:
            return await asyncio.to_thread(result_of, body, response.headers, request)
        except EndpointError as error:
            raise with_proxy_named(error, self._url, body) from error

    async def facts(self, model: str | None) -> dict[str, Any]:
        """The model's entry of `/v1/models`, or the first one, which is the default."""
        path = MODELS_PATH if model is None else f"{MODELS_PATH}/{quote(model, safe='')}"
        _, body = await self._send("GET", path, ANSWER_TIMEOUT_S, headers=key_headers(self._key))
        entry = body
        if model is None:
            entries = body.get("data") if isinstance(body, dict) else None
            entry = entries[0] if isinstance(entries, list) and entries else None
        if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
            raise with_proxy_named(no_endpoint(self._url), self._url, body)
        return entry

    async def put_token(self, name: str, data: bytes, model: str) -> None:
        """Stores a learned token; see `Transport`. Takes a key of scope "admin"."""
        path, headers = f"{TOKENS_PATH}/{quote(name)}", {"content-type": "application/octet-stream"}
        headers |= key_headers(self._key)
        await self._send("PUT", path, ANSWER_TIMEOUT_S, params={"model": model}, content=data, headers=headers)

    async def _send(self, method: str, path: str, timeout_s: float, **options: Any) -> tuple[httpx2.Response, Any]:
        """A response that is no error, and its JSON."""
        timeout = httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        try:
            async with self._connected() as client:
                response = await client.request(method, path, timeout=timeout, **options)
        except httpx2.RequestError as error:
            raise no_answer(self._url, error) from error
        body = json_of(response)
        if not response.is_success:
            raise with_proxy_named(error_of(response.status_code, body, response.headers), self._url, body)
        return response, body

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[httpx2.AsyncClient]:
        if self._client is not None:
            yield self._client
            return
        async with httpx2.AsyncClient(**client_options(self._url)) as client:
            yield client


def connect_http(url: str) -> HttpTransport:
    """The endpoint at an address, for `raygen.endpoint.retry.ask_blocking`, with the environment's key if there is one.

    Raises:
        ConfigError: The environment holds something else as a key.
        EndpointError: See `HttpTransport`.
    """
    key = environment_key()
    limits = httpx2.Limits(max_connections=IN_FLIGHT)
    return HttpTransport(url, key, httpx2.AsyncClient(**client_options(url), limits=limits))


def environment_key() -> str | None:
    """The key in the environment variable RAYGEN_API_KEY.

    Raises:
        ConfigError: It holds what no key can.
    """
    return clean_key(os.environ.get(KEY_VARIABLE), source=f"the environment variable {KEY_VARIABLE}")
