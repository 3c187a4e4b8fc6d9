"""A route with what the OpenAPI document says of it, and the document of all routes."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from serve.config import Scope
from serve.http.handlers import Handlers
from serve.http.json_schema import Schema
from serve.http.keys import Caller
from serve.http.limits import MAX_REQUEST_ID_LENGTH
from serve.http.schemas import ref, schemas

DESCRIPTION = (
    "Repaints what a mask selects, with a diffusion model; compatible with OpenAI's images.edit. Pixels outside the "
    "mask come back equal to the bit. Every answer that is not 2xx is an error object with four keys. Framing that "
    "HTTP itself forbids (a wrong Content-Length, for one) is answered in plain text, before this interface sees it."
)
REASONS = {
    400: "The request is wrong; `param` names the field.",
    401: "No key, or a wrong one.",
    403: "The key lacks the scope.",
    404: "There is nothing of that name.",
    406: "None of the accepted types is offered.",
    408: "The body stopped coming.",
    410: "It was there, and is no longer.",
    413: "The body or a file in it is too large.",
    415: "The body is of a type that is not read.",
    422: "The Idempotency-Key came before with another body.",
    429: "The key's requests of this minute are spent.",
    431: "The headers are too long.",
    500: "The endpoint failed.",
    503: "The endpoint is full, or starting.",
    504: "The deadline passed.",
}
# What every request may get, and what every request with a key.
OPEN_ERRORS, KEYED_ERRORS = (400, 431, 500), (400, 401, 403, 431, 500, 503)


@dataclass(frozen=True, slots=True)
class Operation:
    """What a method of a path does, and how it is documented.

    Attributes:
        method: "GET" answers HEAD too.
        path: With parameters in braces.
        handler: Who answers.
        name: For programs that are made from the document.
        summary: For people.
        answers: By status, but for error objects.
        scope: What the caller's key must allow; None: no key is needed.
        errors: Statuses of its own error objects, beside those that every route has.
        parameters: Of the query, the headers and, where there is more to say than its name, the path.
        body: Media types of the request's body.
    """

    method: str
    path: str
    handler: Callable[[Handlers, Request, Caller], Awaitable[Response]]
    name: str
    summary: str
    answers: Mapping[int, Schema]
    scope: Scope | None = None
    errors: tuple[int, ...] = ()
    parameters: tuple[Schema, ...] = ()
    body: Mapping[str, Schema] | None = None

    @property
    def query(self) -> set[str]:
        """Names of its query parameters."""
        return {given["name"] for given in self.parameters if given["in"] == "query"}


def document(operations: Iterable[Operation], *, has_keys: bool) -> dict[str, Any]:
    """The document.

    Args:
        operations: All of them.
        has_keys: Whether the endpoint asks for keys.
    """
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _documented(operation, has_keys=has_keys)
    components: dict[str, Any] = {"schemas": schemas()}
    if has_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "raygen", "version": "1", "description": DESCRIPTION},
        "paths": paths,
        "components": components,
    }


def answer(description: str, content: str | Mapping[str, Schema] | None, *, headers: Iterable[str] = ()) -> Schema:
    """An answer.

    Args:
        description: For people.
        content: Name of its JSON body's schema, or the schemas of its bodies by media type; None: it has no body.
        headers: Names of those that it has beside the request's id.
    """
    named = {name: {"required": True, "schema": {"type": "string"}} for name in ("x-request-id", *headers)}
    if isinstance(content, str):
        content = {"application/json": ref(content)}
    bodies = {} if content is None else {"content": {kind: {"schema": schema} for kind, schema in content.items()}}
    return {"description": description, "headers": named, **bodies}


def parameter(place: Literal["path", "query", "header"], name: str, schema: Schema) -> Schema:
    """A parameter of an operation; those of the path are required."""
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


REQUEST_ID = parameter(
    "header",
    "x-request-id",
    {"type": "string", "description": f"Comes back if it has 1 to {MAX_REQUEST_ID_LENGTH} of A-Z a-z 0-9 . _ : -"},
)


def _documented(operation: Operation, *, has_keys: bool) -> Schema:
    errors = {*(OPEN_ERRORS if operation.scope is None else KEYED_ERRORS), *operation.errors}
    answers = {status: answer(REASONS[status], "Error") for status in errors} | {**operation.answers}
    described = {given["name"] for given in operation.parameters}
    in_path = [
        parameter("path", name, {"type": "string", "minLength": 1})
        for name in re.findall(r"{(\w+)}", operation.path)
        if name not in described
    ]
    documented: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*in_path, *operation.parameters, REQUEST_ID],
        "responses": {str(status): answers[status] for status in sorted(answers)},
    }
    if operation.body is not None:
        documented["requestBody"] = {"required": True, "content": operation.body}
    if operation.scope is not None:
        documented["security"] = [{"key": []}] if has_keys else []
    return documented
