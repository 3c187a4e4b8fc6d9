"""How a client's requests get to an endpoint: over HTTP, or over a Ray Serve handle."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx2

from raygen.endpoint.edits import EditRequest, EditResult
from raygen.endpoint.urls import client_options, no_answer, no_endpoint, with_proxy_named
from raygen.endpoint.wire import (
    EDITS_PATH,
    MODELS_PATH,
    error_of,
    form_of,
    headers_of,
    json_of,
    key_headers,
    result_of,
)
from raygen.errors import EndpointError
from serve.dispatch import Dispatcher


class Transport(Protocol):
    """How a request gets there."""

    async def edit(self, request: EditRequest, model: str | None) -> EditResult:
        """Paints, once."""
        ...

    async def facts(self, model: str | None) -> dict[str, Any]:
        """What the endpoint says of a model, or of its default one."""
        ...


class HttpTransport:
    """Over HTTP; one connection pool a call, since `map` has an event loop of its own.

    Args:
        url: Of the endpoint.
        key: Bearer key, as `clean_key` gives it.

    Raises:
        EndpointError: The address is none, or the environment's proxy for it cannot be used.
    """

    def __init__(self, url: str, key: str | None) -> None:
        client_options(url)  # for its errors, before any work
        self._url, self._key = url, key

    async def edit(self, request: EditRequest, model: str | None) -> EditResult:
        """See `Transport`."""
        headers = headers_of(request, self._key)
        fields, files = await asyncio.to_thread(form_of, request, model)
        async with self._client(request.timeout_s + 30) as client:
            response = await client.post(EDITS_PATH, data=fields, files=files, headers=headers)
            body = json_of(response)
        if response.status_code != 200:
            raise self._error_of(response, body)
        try:
            return await asyncio.to_thread(result_of, body, response.headers, request)
        except EndpointError as error:
            raise with_proxy_named(error, self._url, body) from error

    async def facts(self, model: str | None) -> dict[str, Any]:
        """See `Transport`."""
        async with self._client(30) as client:
            response = await client.get(MODELS_PATH, headers=key_headers(self._key))
            body = json_of(response)
        if response.status_code != 200:
            raise self._error_of(response, body)
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise with_proxy_named(no_endpoint(self._url), self._url, body)
        entries = [entry for entry in body["data"] if isinstance(entry, dict)]
        return next((dict(entry) for entry in entries if model in (None, entry.get("id"))), {})

    @asynccontextmanager
    async def _client(self, timeout_s: float) -> AsyncIterator[httpx2.AsyncClient]:
        try:
            timeout = httpx2.Timeout(timeout_s, connect=10)
            async with httpx2.AsyncClient(**client_options(self._url), timeout=timeout) as client:
                yield client
        except httpx2.RequestError as error:
            raise no_answer(self._url, error) from error

    def _error_of(self, response: httpx2.Response, body: Any) -> EndpointError:
        return with_proxy_named(error_of(response.status_code, body, response.headers), self._url, body)


class HandleTransport:
    """Over a Ray Serve handle: arrays, no PNG."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._dispatcher = Dispatcher({"": handle}, lambda: None)

    async def edit(self, request: EditRequest, model: str | None) -> EditResult:
        """See `Transport`."""
        return await self._dispatcher.edit("", request)

    async def facts(self, model: str | None) -> dict[str, Any]:
        """See `Transport`."""
        return dict(await self._handle.facts.remote())
