"""All routes: who answers, who may ask, and what the OpenAPI document says of each."""

from raygen.endpoint.wire import TIMEOUT_HEADER
from raygen.inpainters.token_files import MAX_FILE_BYTES, MAX_VECTORS, NAME
from serve.http.handlers import Handlers
from serve.http.headers import KEY, RAY_TIMEOUT_HEADER
from serve.http.limits import MAX_TIMEOUT_S, MAX_WAIT_S, MIN_TIMEOUT_S
from serve.http.openapi import Operation, answer, parameter
from serve.http.schemas import ref

_TIMEOUT = {"type": "number", "minimum": MIN_TIMEOUT_S, "maximum": MAX_TIMEOUT_S}
_EDIT_HEADERS = (
    parameter("header", "Idempotency-Key", {"type": "string", "pattern": f"^{KEY.pattern}$"}),
    parameter(
        "header", "x-raygen-priority", {"type": "string", "enum": ["interactive", "batch"], "default": "interactive"}
    ),
    parameter("header", TIMEOUT_HEADER, _TIMEOUT),
    parameter("header", RAY_TIMEOUT_HEADER, _TIMEOUT),
    # No enumeration: RFC 7240 has servers pass over preferences that they do not know.
    parameter("header", "Prefer", {"type": "string", "examples": ["respond-async"]}),
)
_PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp")
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"type": "string"},
        "data": {"type": "string", "description": "JSON; `type` says which event."},
    },
    "required": ["data"],
}
_EDITED = answer(
    "The pictures: one JSON body; events with stream=true; the bare picture where Accept names a picture's type.",
    {
        "application/json": ref("EditResult"),
        "text/event-stream": _EVENT,
        **{kind: {"type": "string", "format": "binary"} for kind in _PICTURE_TYPES},
    },
    headers=["x-raygen-seed"],
)
_EDIT_BODY = {
    "multipart/form-data": {
        "schema": ref("EditForm"),
        "encoding": {name: {"contentType": ", ".join(_PICTURE_TYPES)} for name in ("image", "mask")},
    },
    "application/json": {"schema": ref("EditJson")},
}

_WORD = NAME.pattern.strip("<>")
_TOKEN_NAME = parameter("path", "name", {"type": "string", "minLength": 1, "pattern": f"^(<{_WORD}>|{_WORD})$"})
_MODEL = parameter("query", "model", {"type": "string"})
_TOKEN_FILE = {
    "type": "string",
    "format": "safetensors",
    # The length of a safetensors file's header, and the shortest header that names a tensor.
    "minLength": 8 + len('{"a":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}'),
    "maxLength": MAX_FILE_BYTES,
    "description": f"A safetensors file with one tensor, (D,) or (V, D), F16, BF16, F32 or F64, finite, V at most "
    f"{MAX_VECTORS}, D the width of the model's text encoder.",
}
_TOKEN_BODY = {"application/octet-stream": {"schema": _TOKEN_FILE}}
_WAIT = parameter("query", "wait", {"type": "integer", "minimum": 0, "maximum": MAX_WAIT_S, "default": 0})
_JOB = {200: answer("The job", "Job")}
_LIVE = {200: answer("Yes", "Health")}
_READY = {200: answer("Yes", "Health"), 503: answer("No; `reason` says why", "NotReady")}

# A table: a row a route, in the order of `Operation`.
# fmt: off
OPERATIONS = (
    Operation("POST", "/v1/images/edits", Handlers.edits, "editImage", "Repaint what the mask selects",
              {200: _EDITED, 202: answer("A job, with Prefer: respond-async.", "Job", headers=["location"])},
              scope="edit", errors=(404, 406, 408, 410, 413, 415, 422, 429, 504),
              parameters=_EDIT_HEADERS, body=_EDIT_BODY),
    Operation("POST", "/v1/images/generations", Handlers.unsupported, "generationsNotOffered", "Not offered",
              {}, scope="edit", errors=(404,)),
    Operation("POST", "/v1/images/variations", Handlers.unsupported, "variationsNotOffered", "Not offered",
              {}, scope="edit", errors=(404,)),
    Operation("GET", "/v1/models", Handlers.models, "listModels", "The models",
              {200: answer("All", "ModelList")}, scope="edit"),
    Operation("GET", "/v1/models/{model}", Handlers.model, "getModel", "A model",
              {200: answer("The model", "Model")}, scope="edit", errors=(404,)),
    Operation("GET", "/v1/capabilities", Handlers.capabilities, "getCapabilities", "Limits and defaults",
              {200: answer("All of them", "Capabilities")}, scope="edit"),
    Operation("GET", "/v1/tokens", Handlers.tokens, "listTokens", "The learned tokens",
              {200: answer("All of a model", "TokenList")}, scope="edit", errors=(404,), parameters=(_MODEL,)),
    Operation("GET", "/v1/tokens/{name}", Handlers.token, "getToken", "A learned token",
              {200: answer("The token", "Token")}, scope="edit", errors=(404,), parameters=(_TOKEN_NAME, _MODEL)),
    Operation("PUT", "/v1/tokens/{name}", Handlers.put_token, "putToken", "Store a learned token (scope admin)",
              {201: answer("Stored", "Token")}, scope="admin", errors=(404, 408, 413, 415),
              parameters=(_TOKEN_NAME, _MODEL), body=_TOKEN_BODY),
    Operation("DELETE", "/v1/tokens/{name}", Handlers.delete_token, "deleteToken",
              "Delete a learned token (scope admin)",
              {204: answer("Deleted", None)}, scope="admin", errors=(404,), parameters=(_TOKEN_NAME, _MODEL)),
    Operation("GET", "/v1/jobs/{job}", Handlers.job, "getJob", "A job",
              _JOB, scope="edit", errors=(404, 410), parameters=(_WAIT,)),
    Operation("POST", "/v1/jobs/{job}/cancel", Handlers.cancel_job, "cancelJob", "Stop a job",
              _JOB, scope="edit", errors=(404, 410)),
    Operation("GET", "/health/live", Handlers.live, "live", "Whether the process answers", _LIVE),
    Operation("GET", "/health/ready", Handlers.ready, "ready", "Whether every model paints", _READY),
    Operation("GET", "/v2/health/live", Handlers.live, "liveAlias", "Whether the process answers", _LIVE),
    Operation("GET", "/v2/health/ready", Handlers.ready, "readyAlias", "Whether every model paints", _READY),
    Operation("GET", "/v2/models/{model}/ready", Handlers.model_ready, "modelReady", "Whether a model paints",
              _READY, errors=(404,)),
    Operation("GET", "/openapi.json", Handlers.openapi, "getDocument", "This document",
              {200: answer("OpenAPI 3.1", {"application/json": {"type": "object"}})}),
)
# fmt: on
