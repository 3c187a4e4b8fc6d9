"""What an edit's result looks like as HTTP: the JSON body, its headers, and the events of a stream."""

import base64
import json
import time
from typing import Any, Literal

import numpy as np

from raygen.endpoint.edits import EditedImage, EditResult, PartialImage
from raygen.errors import EndpointError
from serve.http import schemas
from serve.http.backend import Job, Rendering
from serve.http.errors import response_parts
from serve.http.pictures import encode_picture


def json_body(result: EditResult, rendering: Rendering) -> bytes:
    """The 200 response of an edit.

    Raises:
        EndpointError: content_policy_violation: every picture was blocked.
    """
    check_flagged(result.images)
    data: list[schemas.Picture] = [
        {"b64_json": _base64(image.image_HWC, rendering), "seed": image.seed, "flagged": image.flagged}
        for image in result.images
    ]
    body: schemas.EditResult = {
        **_common(result.num_inference_steps, rendering),
        "data": data,
        "mask": rendering.mask,
        "usage": usage(result.num_prompt_tokens, len(data)),
        "provenance": result.provenance,
        "warnings": [*rendering.warnings, *result.warnings],
    }
    return json.dumps(body).encode()


def check_flagged(images: tuple[EditedImage, ...]) -> None:
    """Raises content_policy_violation if every picture was blocked."""
    if images and all(image.flagged for image in images):
        raise all_blocked()


def all_blocked() -> EndpointError:
    """What is said when every picture was blocked."""
    return EndpointError("the model's safety checker blocked every picture", code="content_policy_violation")


def result_headers(result: EditResult) -> dict[str, str]:
    """Headers that tell how a result was made."""
    return {
        "openai-processing-ms": str(round(1000 * result.generation_s)),
        "x-raygen-queue-ms": str(round(1000 * result.queue_s)),
        "x-raygen-seed": ",".join(str(image.seed) for image in result.images),
        "x-raygen-steps": str(result.num_inference_steps),
    }


def job_body(job: Job) -> bytes:
    """A job as JSON; the stored result, which may be large, is put in as it is."""
    body: schemas.Job = {
        "id": job.id,
        "object": "image.edit.job",
        "status": job.status,
        "queue_position": job.queue_position,
        "step": job.step,
        "steps": job.steps,
        "created_at": job.created_at,
        "deadline_at": job.deadline_at,
        "error": job.error,
        "result": None,
    }
    return json.dumps(body).encode().removesuffix(b"null}") + (job.body or b"null") + b"}"


def partial_event(partial: PartialImage, rendering: Rendering, *, num_inference_steps: int) -> bytes:
    """A preview, as a server-sent event."""
    return _event(
        {
            "type": "image_edit.partial_image",
            "b64_json": _base64(partial.image_HWC, rendering),
            "partial_image_index": partial.number,
            "image_index": partial.index,
            **_event_common(num_inference_steps, rendering),
        }
    )


def completed_event(image: EditedImage, rendering: Rendering, *, num_inference_steps: int) -> bytes:
    """A picture that is done, as a server-sent event."""
    return _event(
        {
            "type": "image_edit.completed",
            "b64_json": _base64(image.image_HWC, rendering) or "",
            "image_index": image.index,
            "seed": image.seed,
            "flagged": image.flagged,
            **_event_common(num_inference_steps, rendering),
            "usage": usage(image.num_prompt_tokens, 1),
            "mask": rendering.mask,
            "provenance": image.provenance,
            "warnings": [*rendering.warnings],
        }
    )


def error_event(error: EndpointError) -> bytes:
    """An error in the middle of a stream, as a server-sent event."""
    _, body, _ = response_parts(error)
    return b"event: error\ndata: " + json.dumps(body).encode() + b"\n\n"


def usage(num_prompt_tokens: int, num_images: int) -> schemas.Usage:
    """OpenAI's usage object: a picture counts as one token, since nothing is billed."""
    return {
        "input_tokens": num_prompt_tokens,
        "output_tokens": num_images,
        "total_tokens": num_prompt_tokens + num_images,
        "input_tokens_details": {"text_tokens": num_prompt_tokens, "image_tokens": 0},
        "output_tokens_details": {"text_tokens": 0, "image_tokens": num_images},
    }


def _common(num_inference_steps: int, rendering: Rendering) -> schemas.Rendered:
    # OpenAI's clients know three qualities; here they are numbers of steps.
    quality: Literal["low", "medium", "high"] = (
        "low" if num_inference_steps <= 15 else "medium" if num_inference_steps <= 30 else "high"
    )
    return {
        "created": int(time.time()),
        "size": f"{rendering.size[0]}x{rendering.size[1]}",
        "output_format": rendering.output_format,
        "background": "opaque",
        "quality": quality,
    }


def _event_common(num_inference_steps: int, rendering: Rendering) -> dict[str, Any]:
    common: dict[str, Any] = {**_common(num_inference_steps, rendering)}
    return {"created_at": common.pop("created"), **common}


def picture_bytes(image_HWC: np.ndarray, rendering: Rendering) -> bytes:
    """A picture as its request wants it written."""
    return encode_picture(
        image_HWC, output_format=rendering.output_format, output_compression=rendering.output_compression
    )


def _base64(image_HWC: np.ndarray | None, rendering: Rendering) -> str | None:
    return None if image_HWC is None else base64.b64encode(picture_bytes(image_HWC, rendering)).decode()


def _event(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()
