"""An edit as HTTP's form fields and JSON, as a client sees them.

The server's side is `serve.http.fields` and `serve.http.responses`. Pictures go lossless (PNG), so what comes back
over HTTP is what a handle of the cluster gives, to the byte.
"""

import base64
import binascii
import unicodedata
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_origin

import httpx2

from raygen.endpoint.edits import EditedImage, EditRequest, EditResult
from raygen.errors import ConfigError, EndpointError, RowError
from raygen.images import decode_image, encode_image, encode_mask

EDITS_PATH = "/v1/images/edits"
MODELS_PATH = "/v1/models"
TOKENS_PATH = "/v1/tokens"
TIMEOUT_HEADER = "x-raygen-timeout-seconds"
# Of a request, what is no field of the form: pictures are files, previews are for streams, the rest are headers.
_NOT_IN_FORM = {"image_HWC", "repaint_HW", "num_partial_images", "priority", "timeout_s", "request_id"}
# Statuses after which the same request may succeed: conflicts, limits, and every failure of a server or a gateway.
_RETRYABLE = {408, 409, 425, 429, 500, 502, 503}


def form_of(request: EditRequest, model: str | None) -> tuple[dict[str, str], dict[str, tuple[str, bytes, str]]]:
    """Form fields and files of a request.

    Args:
        request: The edit.
        model: Id of the served model; None for the endpoint's default.
    """
    texts = {"mask_mode": "luminance", "model": model} | {
        field.name: _text_of(field.type, getattr(request, field.name))
        for field in fields(request)
        if field.name not in _NOT_IN_FORM
    }
    files = {
        "image": ("image.png", encode_image(request.image_HWC), "image/png"),
        "mask": ("mask.png", encode_mask(request.repaint_HW), "image/png"),
    }
    return {name: text for name, text in texts.items() if text is not None}, files


def key_headers(key: str | None) -> dict[str, str]:
    """Headers that show a key; see `clean_key`."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


def clean_key(key: str | None, *, source: str) -> str | None:
    """A key as it is sent, without the white space or line end around it that files and shells leave; None if empty.

    Args:
        key: As given.
        source: Where it is from, for the message.

    Raises:
        ConfigError: It holds what no key can, such as a typographic quotation mark. The message does not quote it.
    """
    stripped = (key or "").strip()
    for place, letter in enumerate(stripped, start=1):
        if not "!" <= letter <= "~":
            name = unicodedata.name(letter, "a control character")
            raise ConfigError(
                f"{source} is no key: its character {place} is U+{ord(letter):04X} ({name}), and a key has letters, "
                "digits and signs of ASCII alone, with no space between; copy it anew, without quotation marks"
            )
    return stripped or None


def headers_of(request: EditRequest, key: str | None) -> dict[str, str]:
    """Headers of a request.

    Raises:
        EndpointError: invalid_type, invalid_value: a field that no header can carry.
    """
    if isinstance(request.timeout_s, bool) or not isinstance(request.timeout_s, int | float):
        raise EndpointError("timeout_s is not a number of seconds", code="invalid_type", param="timeout_s")
    for name, value in (("request_id", request.request_id), ("priority", request.priority)):
        if not isinstance(value, str):
            raise EndpointError(f"{name} is not a text", code="invalid_type", param=name)
        if not all("!" <= letter <= "~" for letter in value):
            raise EndpointError(f"{name} is not of visible ASCII characters", code="invalid_value", param=name)
    headers = {
        # Not x-request-timeout-seconds: Ray Serve obeys that one too, with an answer of its own.
        TIMEOUT_HEADER: f"{request.timeout_s:.3f}",
        "x-raygen-priority": request.priority,
    }
    if request.request_id:
        headers["x-request-id"] = request.request_id
    return headers | key_headers(key)


def result_of(body: Any, headers: Mapping[str, str], request: EditRequest) -> EditResult:
    """The result in a 200 response.

    Args:
        body: Its JSON, or None.
        headers: Its headers.
        request: What was asked for.

    Raises:
        EndpointError: The body is not what the endpoint sends: a proxy's page, perhaps.
    """
    try:
        images = tuple(_image_of(index, data) for index, data in enumerate(body["data"]))
        _check_images(images, request)
        return EditResult(
            images=images,
            num_inference_steps=int(headers.get("x-raygen-steps", 0)),
            num_prompt_tokens=int(body["usage"]["input_tokens"]),
            provenance=dict(body["provenance"]),
            warnings=tuple(body["warnings"]),
            queue_s=float(headers.get("x-raygen-queue-ms", 0)) / 1000,
            generation_s=float(headers.get("openai-processing-ms", 0)) / 1000,
        )
    except (KeyError, TypeError, ValueError, OverflowError, binascii.Error, RowError) as error:
        raise EndpointError(
            f"the answer is not that of a raygen endpoint ({type(error).__name__})", code="invalid_response"
        ) from error


def json_of(response: httpx2.Response) -> Any:
    """The JSON of a response, or None if it is none."""
    try:
        return response.json()
    except (ValueError, RecursionError):
        return None


def error_of(status: int, body: Any, headers: Mapping[str, str]) -> EndpointError:
    """The error in a response that is not 200; `body` is its JSON, or None."""
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    wait = headers.get("retry-after", "")
    return EndpointError(
        str(error.get("message") or f"the endpoint answered with status {status}"),
        code=str(error.get("code") or f"http_{status}"),
        param=error.get("param"),
        retryable=status in _RETRYABLE and headers.get("x-should-retry") != "false",
        retry_after_s=float(wait) if wait.isascii() and wait.replace(".", "", 1).isdecimal() else None,
    )


def _text_of(kind: Any, value: Any) -> str | None:
    """A field's text; None: the endpoint's default."""
    if kind is bool:
        return str(value).lower()
    if get_origin(kind) is tuple:
        return ",".join(map(str, value))
    return None if value is None else str(value)


def _check_images(images: tuple[EditedImage, ...], request: EditRequest) -> None:
    if len(images) != len(request.seeds):
        raise ValueError(f"{len(images)} pictures instead of {len(request.seeds)}")
    shape = (*request.repaint_HW.shape, 3)
    if not all(image.image_HWC is None or image.image_HWC.shape == shape for image in images):
        raise ValueError("a picture of another size")


def _image_of(index: int, data: Mapping[str, Any]) -> EditedImage:
    encoded = data["b64_json"]
    image_HWC = None if encoded is None else decode_image(base64.b64decode(encoded, validate=True))
    return EditedImage(index=index, seed=int(data["seed"]), image_HWC=image_HWC, flagged=bool(data["flagged"]))
