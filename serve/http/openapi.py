"""The OpenAPI document of the endpoint, written by hand: what `api.py` does, and all statuses it can answer with."""

from typing import Any

from raygen.inpainters.token_files import MAX_FILE_BYTES, MAX_VECTORS, NAME
from serve.http.headers import KEY, RAY_TIMEOUT_HEADER, TIMEOUT_HEADER
from serve.http.limits import MAX_REQUEST_ID_LENGTH, MAX_TIMEOUT_S, MAX_WAIT_S, MIN_TIMEOUT_S
from serve.http.openapi_schemas import Schema, ref, schemas

DESCRIPTION = (
    "Repaints what a mask selects, with a diffusion model; compatible with OpenAI's images.edit. Pixels outside the "
    "mask come back equal to the bit. Every answer that is not 2xx is an error object with four keys. Framing that "
    "HTTP itself forbids (a wrong Content-Length, for one) is answered in plain text, before this interface sees it."
)
PICTURE_TYPES = "image/png, image/jpeg, image/webp"
TOKEN_FILE = {
    "type": "string",
    "format": "safetensors",
    # The length of a safetensors file's header, and the shortest header that names a tensor.
    "minLength": 8 + len('{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'),
    "maxLength": MAX_FILE_BYTES,
    "description": f"A safetensors file with one tensor, (D,) or (V, D), F16, BF16, F32 or F64, finite, V at most "
    f"{MAX_VECTORS}, D the width of the model's text encoder.",
}
KEY_PATTERN = f"^{KEY.pattern}$"
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
# What every request with a key may get.
COMMON = (400, 401, 403, 431, 500, 503)


def document(*, has_keys: bool) -> dict[str, Any]:
    """The document.

    Args:
        has_keys: Whether the endpoint asks for keys.
    """
    components: dict[str, Any] = {"schemas": schemas()}
    if has_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    security: list[dict[str, list[str]]] = [{"key": []}] if has_keys else []
    return {
        "openapi": "3.1.0",
        "info": {"title": "raygen", "version": "1", "description": DESCRIPTION},
        "paths": {**_edits(security), **_reading(security), **_tokens(security), **_jobs(security), **_open()},
        "components": components,
    }


def _edits(security: Any) -> dict[str, Any]:
    picture = {"schema": {"type": "string", "format": "binary"}}
    texts = {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON; `type` says which event."}}
    event = {"type": "object", "properties": texts, "required": ["data"]}
    headers = [
        _header("Idempotency-Key", {"type": "string", "pattern": KEY_PATTERN}),
        _header("x-raygen-priority", {"type": "string", "enum": ["interactive", "batch"], "default": "interactive"}),
        *(
            _header(name, {"type": "number", "minimum": MIN_TIMEOUT_S, "maximum": MAX_TIMEOUT_S})
            for name in (TIMEOUT_HEADER, RAY_TIMEOUT_HEADER)
        ),
        # No enumeration: RFC 7240 has servers pass over preferences that they do not know.
        _header("Prefer", {"type": "string", "examples": ["respond-async"]}),
    ]
    done = _answer(
        "The pictures: one JSON body; events with stream=true; the bare picture where Accept names a picture's type.",
        {
            "application/json": {"schema": ref("EditResult")},
            "text/event-stream": {"schema": event},
            "image/png": picture,
            "image/jpeg": picture,
            "image/webp": picture,
        },
        ["x-raygen-seed"],
    )
    operation = _operation(
        "editImage",
        "Repaint what the mask selects",
        {200: done, 202: _answer("A job, with Prefer: respond-async.", _json("Job"), ["location"])},
        (*COMMON, 404, 406, 408, 410, 413, 415, 422, 429, 504),
        security,
        headers,
    )
    operation["requestBody"] = {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": ref("EditForm"),
                "encoding": {name: {"contentType": PICTURE_TYPES} for name in ("image", "mask")},
            },
            "application/json": {"schema": ref("EditJson")},
        },
    }
    missing = {
        f"/v1/images/{name}": {
            "post": _operation(f"{name}NotOffered", "Not offered", {}, (*COMMON, 404), security),
        }
        for name in ("generations", "variations")
    }
    return {"/v1/images/edits": {"post": operation}, **missing}


def _reading(security: Any) -> dict[str, Any]:
    return {
        "/v1/models": {
            "get": _operation("listModels", "The models", {200: _answer("All", _json("ModelList"))}, COMMON, security)
        },
        "/v1/models/{model}": {
            "get": _operation(
                "getModel",
                "A model",
                {200: _answer("The model", _json("Model"))},
                (*COMMON, 404),
                security,
                [_path("model")],
            )
        },
        "/v1/capabilities": {
            "get": _operation(
                "getCapabilities",
                "Limits and defaults",
                {200: _answer("All of them", _json("Capabilities"))},
                COMMON,
                security,
            )
        },
    }


def _tokens(security: Any) -> dict[str, Any]:
    word = NAME.pattern.strip("<>")
    model, name = _query("model", {"type": "string"}), _path("name", pattern=f"^(<{word}>|{word})$")
    get = _operation(
        "getToken",
        "A learned token",
        {200: _answer("The token", _json("Token"))},
        (*COMMON, 404),
        security,
        [name, model],
    )
    put = _operation(
        "putToken",
        "Store a learned token (scope admin)",
        {201: _answer("Stored", _json("Token"))},
        (*COMMON, 404, 408, 413, 415),
        security,
        [name, model],
    )
    put["requestBody"] = {
        "required": True,
        "content": {"application/octet-stream": {"schema": TOKEN_FILE}},
    }
    delete = _operation(
        "deleteToken",
        "Delete a learned token (scope admin)",
        {204: _answer("Deleted", None)},
        (*COMMON, 404),
        security,
        [name, model],
    )
    listing = _operation(
        "listTokens",
        "The learned tokens",
        {200: _answer("All of a model", _json("TokenList"))},
        (*COMMON, 404),
        security,
        [model],
    )
    return {"/v1/tokens": {"get": listing}, "/v1/tokens/{name}": {"get": get, "put": put, "delete": delete}}


def _jobs(security: Any) -> dict[str, Any]:
    wait = _query("wait", {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0})
    answer = {200: _answer("The job", _json("Job"))}
    statuses = (*COMMON, 404, 410)
    return {
        "/v1/jobs/{job}": {"get": _operation("getJob", "A job", answer, statuses, security, [_path("job"), wait])},
        "/v1/jobs/{job}/cancel": {
            "post": _operation("cancelJob", "Stop a job", answer, statuses, security, [_path("job")])
        },
    }


def _open() -> dict[str, Any]:
    """What needs no key."""
    health = {200: _answer("Yes", _json("Health"))}
    paths: dict[str, Any] = {}
    for prefix, name in (("", ""), ("/v2", "Alias")):
        live = _operation(f"live{name}", "Whether the process answers", health, (400, 431, 500), None)
        ready = _operation(f"ready{name}", "Whether every model paints", health, (400, 431, 500), None)
        ready["responses"]["503"] = _answer("No; `reason` says why", _json("NotReady"))
        paths |= {f"{prefix}/health/live": {"get": live}, f"{prefix}/health/ready": {"get": ready}}
    model = _operation("modelReady", "Whether a model paints", health, (400, 404, 431, 500), None, [_path("model")])
    model["responses"]["503"] = _answer("No; `reason` says why", _json("NotReady"))
    this = {200: _answer("OpenAPI 3.1", {"application/json": {"schema": {"type": "object"}}})}
    paths["/v2/models/{model}/ready"] = {"get": model}
    paths["/openapi.json"] = {"get": _operation("getDocument", "This document", this, (400, 431, 500), None)}
    return paths


def _operation(
    name: str,
    summary: str,
    good: dict[int, Any],
    bad: tuple[int, ...],
    security: Any,
    parameters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    request_id = _header(
        "x-request-id",
        {"type": "string", "description": f"Comes back if it has 1 to {MAX_REQUEST_ID_LENGTH} of A-Z a-z 0-9 . _ : -"},
    )
    responses = {str(status): answer for status, answer in good.items()}
    responses |= {str(status): _answer(REASONS[status], _json("Error")) for status in sorted(bad)}
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "parameters": [*(parameters or []), request_id],
        "responses": responses,
    }
    return operation if security is None else {**operation, "security": security}


def _answer(description: str, content: Any, headers: list[str] | None = None) -> dict[str, Any]:
    named = {name: {"required": True, "schema": {"type": "string"}} for name in ["x-request-id", *(headers or [])]}
    answer = {"description": description, "headers": named}
    return answer if content is None else {**answer, "content": content}


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": ref(name)}}


def _header(name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema}


def _query(name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _path(name: str, **more: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1, **more}}
