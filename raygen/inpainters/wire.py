"""An edit as HTTP's form fields and JSON, as a client sees them.

The server's side is `serve.fields` and `serve.responses`. Pictures go lossless (PNG), so what comes back over HTTP is
what a handle of the cluster gives, to the byte.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from raygen.errors import EndpointError, RowError
from raygen.images import decode_image, encode_image, encode_mask
from raygen.inpainters.edits import EditedImage, EditRequest, EditResult

EDITS_PATH = "/v1/images/edits"
MODELS_PATH = "/v1/models"
TOKENS_PATH = "/v1/tokens"
TIMEOUT_HEADER = "x-raygen-timeout-seconds"
# Statuses after which the same request may succeed: conflicts, limits, and every failure of a server or a gateway.
_RETRYABLE = {408, 409, 425, 429, 500, 502, 503}


def form_of(request: EditRequest, model: str | None) -> tuple[dict[str, str], dict[str, tuple[str, bytes, str]]]:
    """Form fields and files of a request.

    Args:
        request: The edit.
        model: Id of the served model; None for the endpoint's default.
    """
    fields: dict[str, Any] = {
        "prompt": request.prompt,
        "mask_mode": "luminance",
        "seeds": ",".join(map(str, request.seeds)),
        "preserve_unmasked": str(request.preserve_unmasked).lower(),
        "mask_blur": request.mask_blur,
        "prompt_overflow": request.prompt_overflow,
        "literal_tokens": str(request.literal_tokens).lower(),
        "model": model,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "strength": request.strength,
        "negative_prompt": request.negative_prompt,
        "scheduler": request.scheduler,
        "padding_mask_crop": request.padding_mask_crop,
    }
    files = {
        "image": ("image.png", encode_image(request.image_HWC), "image/png"),
        "mask": ("mask.png", encode_mask(request.repaint_HW), "image/png"),
    }
    return {name: str(value) for name, value in fields.items() if value is not None}, files


def headers_of(request: EditRequest, key: str | None) -> dict[str, str]:
    """Headers of a request."""
    headers = {
        # Not x-request-timeout-seconds: Ray Serve obeys that one too, with an answer of its own.
        TIMEOUT_HEADER: f"{request.timeout_s:.3f}",
        "x-raygen-priority": request.priority,
    }
    if request.request_id:
        headers["x-request-id"] = request.request_id
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    return headers


def result_of(body: Any, headers: Mapping[str, str]) -> EditResult:
    """The result in a 200 response.

    Raises:
        EndpointError: The body is not what the endpoint sends: a proxy's page, perhaps.
    """
    try:
        images = tuple(_image_of(index, data) for index, data in enumerate(body["data"]))
        return EditResult(
            images=images,
            num_inference_steps=int(headers.get("x-raygen-steps", 0)),
            num_prompt_tokens=int(body["usage"]["input_tokens"]),
            provenance=dict(body["provenance"]),
            warnings=tuple(body["warnings"]),
            queue_s=float(headers.get("x-raygen-queue-ms", 0)) / 1000,
            generation_s=float(headers.get("openai-processing-ms", 0)) / 1000,
        )
    except (KeyError, TypeError, ValueError, binascii.Error, RowError) as error:
        raise EndpointError(
            f"the answer is not that of a raygen endpoint ({type(error).__name__})", code="invalid_response"
        ) from error


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
        retry_after_s=float(wait) if wait.replace(".", "", 1).isdigit() else None,
    )


def _image_of(index: int, data: Mapping[str, Any]) -> EditedImage:
    encoded = data["b64_json"]
    image_HWC = None if encoded is None else decode_image(base64.b64decode(encoded, validate=True))
    return EditedImage(index=index, seed=int(data["seed"]), image_HWC=image_HWC, flagged=bool(data["flagged"]))
