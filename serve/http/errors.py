"""From an error's code to what HTTP says of it: one table.

The codes and statuses are OpenAI's where it has them. `x-should-retry: false` keeps the `openai` client, which sends
everything from 500 on three times, from repeating what cannot succeed.
"""

import logging
import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import WithJsonSchema
from typing_extensions import TypedDict

from raygen.errors import EndpointError

logger = logging.getLogger(__name__)

MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """What a code means to HTTP.

    Attributes:
        status: HTTP status.
        type: OpenAI's coarse kind.
        is_final: Send `x-should-retry: false`.
        retry_after_s: Send `Retry-After`: this, unless the error itself knows better.
        closes: Send `connection: close`: the rest of the body is not read.
    """

    status: int
    type: str = "invalid_request_error"
    is_final: bool = False
    retry_after_s: float | None = None
    closes: bool = False


_BAD_REQUEST = ErrorKind(400)
_NOT_FOUND = ErrorKind(404)

ERRORS: dict[str, ErrorKind] = {
    # fields
    "missing_required_parameter": _BAD_REQUEST,
    "unknown_parameter": _BAD_REQUEST,
    "duplicate_parameter": _BAD_REQUEST,
    "conflicting_parameters": _BAD_REQUEST,
    "invalid_type": _BAD_REQUEST,
    "invalid_value": _BAD_REQUEST,
    "out_of_range": _BAD_REQUEST,
    "invalid_size": _BAD_REQUEST,
    "prompt_too_long": _BAD_REQUEST,
    "unknown_learned_token": _BAD_REQUEST,
    "malformed_multipart": _BAD_REQUEST,
    "malformed_json": _BAD_REQUEST,
    # pictures
    "too_many_images": _BAD_REQUEST,
    "empty_file": _BAD_REQUEST,
    "invalid_image": _BAD_REQUEST,
    "truncated_image": _BAD_REQUEST,
    "image_too_large": _BAD_REQUEST,
    "image_too_small": _BAD_REQUEST,
    "animated_image": _BAD_REQUEST,
    "invalid_mask": _BAD_REQUEST,
    "mask_required": _BAD_REQUEST,
    "mask_size_mismatch": _BAD_REQUEST,
    "empty_mask": _BAD_REQUEST,
    "content_policy_violation": _BAD_REQUEST,
    # learned tokens
    "invalid_token": _BAD_REQUEST,
    # who and what
    "invalid_api_key": ErrorKind(401),
    "permission_denied": ErrorKind(403),
    "not_found": _NOT_FOUND,
    "unsupported_endpoint": _NOT_FOUND,
    "model_not_found": _NOT_FOUND,
    "token_not_found": _NOT_FOUND,
    "job_not_found": _NOT_FOUND,
    "method_not_allowed": ErrorKind(405),
    "not_acceptable": ErrorKind(406),
    "request_body_timeout": ErrorKind(408, closes=True),
    "job_expired": ErrorKind(410),
    "job_cancelled": ErrorKind(410),
    "request_too_large": ErrorKind(413),
    "file_too_large": ErrorKind(413),
    "unsupported_media_type": ErrorKind(415),
    # Not 409: the openai client sends that again.
    "idempotency_key_reused": ErrorKind(422),
    "rate_limit_exceeded": ErrorKind(429, "rate_limit_error", retry_after_s=1),
    "headers_too_large": ErrorKind(431),
    # Never sent: nobody is there to read it. For the log and the metrics.
    "client_closed_request": ErrorKind(499),
    # the endpoint itself
    "internal_error": ErrorKind(500, "server_error"),
    "non_finite_output": ErrorKind(500, "server_error", is_final=True),
    "out_of_memory": ErrorKind(500, "server_error", is_final=True),
    "server_is_overloaded": ErrorKind(503, "service_unavailable_error", retry_after_s=2),
    "service_unavailable": ErrorKind(503, "service_unavailable_error", retry_after_s=5),
    "deadline_exceeded": ErrorKind(504, "timeout_error", is_final=True),
}


class ErrorObject(TypedDict):
    """OpenAI's error object."""

    message: str
    type: Annotated[str, WithJsonSchema({"type": "string", "enum": sorted({kind.type for kind in ERRORS.values()})})]
    param: str | None
    code: Annotated[str, WithJsonSchema({"type": "string", "enum": sorted(ERRORS)})]


class Error(TypedDict):
    """The body of every answer that is not 2xx."""

    error: ErrorObject


def response_parts(error: EndpointError) -> tuple[int, Error, dict[str, str]]:
    """Status, body and headers of an error's response.

    A code that is not in the table is a mistake of ours: the client gets `internal_error`, the log the code.
    """
    kind, code, message = ERRORS.get(error.code), error.code, str(error)
    if kind is None:
        logger.error("an error has the code %r, which has no row in the table", code)
        kind, code, message = ERRORS["internal_error"], "internal_error", "the endpoint failed"
    body: Error = {"error": {"message": message, "type": kind.type, "param": error.param, "code": code}}
    headers = {}
    retry_after_s = error.retry_after_s if error.retry_after_s is not None else kind.retry_after_s
    if retry_after_s is not None:
        # Whole seconds (RFC 9110), and never so many that the openai client gives up instead of waiting.
        headers["retry-after"] = str(min(MAX_RETRY_AFTER_S, max(1, math.ceil(retry_after_s))))
    if kind.status == 401:
        headers["www-authenticate"] = "Bearer"
    if kind.is_final:
        headers["x-should-retry"] = "false"
    if kind.closes:
        headers["connection"] = "close"
    return kind.status, body, headers
