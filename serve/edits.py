"""`POST /v1/images/edits`: from an HTTP request to an `EditRequest`, and from its result to a response."""

import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from raygen.errors import EndpointError
from raygen.inpainters.edits import EditedImage, EditEvent, EditRequest, EditResult, PartialImage, Progress
from serve.backend import Backend, Job, Rendering
from serve.body import Form, read_form
from serve.config import ServeConfig, ServedModelConfig
from serve.connection import while_connected
from serve.fields import MAX_FORM_SEED, check_fields, read_fields, steps_of, warnings_of
from serve.limits import MAX_BODIES_AT_ONCE, MAX_IDEMPOTENCY_KEY_LENGTH, MAX_WAIT_S, MIN_TIMEOUT_S
from serve.metrics import Metrics
from serve.pictures import MaskedPicture, encode_picture, read_pictures
from serve.responses import (
    check_flagged,
    completed_event,
    error_event,
    json_body,
    partial_event,
    result_headers,
)

# The openai client sends its own read timeout: there is no use in working longer than the caller waits.
TIMEOUT_HEADERS = ("x-request-timeout-seconds", "x-stainless-read-timeout")
_RAW_TYPES = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked edit.

    Attributes:
        model: Which model.
        request: For the engine.
        rendering: For the response.
        steps: Denoising steps.
        stream: Whether events are wanted.
        raw_type: Media type, if the bare picture is wanted.
        body_digest: Of everything that was sent, for idempotency.
    """

    model: ServedModelConfig
    request: EditRequest
    rendering: Rendering
    steps: int
    stream: bool
    raw_type: str | None
    body_digest: str


class EditRoute:
    """The route.

    Args:
        config: The endpoint.
        backend: Who paints.
        metrics: Where numbers go.
    """

    def __init__(self, config: ServeConfig, backend: Backend, metrics: Metrics) -> None:
        self._config, self._backend, self._metrics = config, backend, metrics
        self._num_bodies = 0

    async def answer(self, request: Request, *, owner: str) -> Response:
        """The response of an authenticated request."""
        asked = await self._read(request)
        state = request.scope["state"]
        state["model"] = asked.model.id
        height, width = asked.request.repaint_HW.shape
        state["log"] = {"size": [width, height], "seeds": asked.request.seeds, "steps": asked.steps}
        state["headers"]["x-raygen-seed"] = ",".join(map(str, asked.request.seeds))
        key = request.headers.get("idempotency-key")
        is_async = "respond-async" in request.headers.get("prefer", "")
        if key is not None and not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
            raise EndpointError(
                f"an Idempotency-Key has 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters", code="invalid_value"
            )
        if (is_async or key is not None) and (asked.stream or asked.raw_type):
            raise EndpointError(
                "jobs and idempotency keys answer with JSON; leave stream and Accept: image/… away",
                code="conflicting_parameters",
                param="stream" if asked.stream else None,
            )
        if is_async or key is not None:
            return await self._as_job(request, asked, owner=owner, key=key, is_async=is_async)
        if asked.stream:
            return await self._as_stream(request, asked)
        result = await while_connected(request.receive, self._backend.edit(asked.model.id, asked.request))
        return await self._as_body(asked, result)

    async def _read(self, request: Request) -> Asked:
        if self._num_bodies >= MAX_BODIES_AT_ONCE:
            raise EndpointError(
                "too many requests are being read", code="server_is_overloaded", retryable=True, retry_after_s=1
            )
        self._num_bodies += 1
        try:
            form = await read_form(request.headers, request.receive)
        finally:
            self._num_bodies -= 1
        values = read_fields(form)
        model = self._config.model_named(values["model"])
        if model is None:
            raise EndpointError("there is no such model; see GET /v1/models", code="model_not_found", param="model")
        check_fields(form.texts, values, model)
        raw_type = _raw_type(request, values, form)
        picture = await asyncio.to_thread(
            read_pictures, form, mask_mode=values["mask_mode"], size=values["size"], max_pixels=model.max_pixels
        )
        steps = steps_of(values, model)
        return Asked(
            model=model,
            request=self._edit_request(request, values, picture, steps),
            rendering=_rendering(values, picture, raw_type),
            steps=steps,
            stream=values["stream"],
            raw_type=raw_type,
            body_digest=_digest(form),
        )

    def _edit_request(
        self, request: Request, values: dict[str, Any], picture: MaskedPicture, steps: int
    ) -> EditRequest:
        priority = request.headers.get("x-raygen-priority", "interactive")
        if priority not in {"interactive", "batch"}:
            raise EndpointError("x-raygen-priority is neither interactive nor batch", code="invalid_value")
        return EditRequest(
            image_HWC=picture.image_HWC,
            repaint_HW=picture.repaint_HW,
            prompt=values["prompt"],
            # Fixed here, before anything is sent on: a second send paints the same.
            seeds=_seeds(values),
            num_inference_steps=steps,
            guidance_scale=values["guidance_scale"],
            strength=values["strength"],
            negative_prompt=values["negative_prompt"],
            scheduler=values["scheduler"],
            preserve_unmasked=values["preserve_unmasked"],
            mask_blur=values["mask_blur"],
            padding_mask_crop=values["padding_mask_crop"],
            prompt_overflow=values["prompt_overflow"],
            literal_tokens=values["literal_tokens"],
            num_partial_images=values["partial_images"],
            priority="batch" if priority == "batch" else "interactive",
            timeout_s=self._timeout_s(request),
            request_id=request.scope["state"]["request_id"],
        )

    def _timeout_s(self, request: Request) -> float:
        asked = []
        for name in TIMEOUT_HEADERS:
            text = request.headers.get(name)
            try:
                value = float(text) if text not in (None, "", "None") else None
            except ValueError:
                value = -1.0
            if value is not None and not value >= MIN_TIMEOUT_S:
                raise EndpointError(f"{name} is no number of seconds from {MIN_TIMEOUT_S:g}", code="invalid_value")
            if value is not None:
                asked.append(value)
        return min([*asked, self._config.max_timeout_s]) if asked else self._config.default_timeout_s

    async def _as_body(self, asked: Asked, result: EditResult) -> Response:
        start_s = time.perf_counter()
        if asked.raw_type is None:
            content, media_type = await asyncio.to_thread(json_body, result, asked.rendering), "application/json"
        else:
            check_flagged(result.images)
            (image,) = result.images
            assert image.image_HWC is not None
            content = await asyncio.to_thread(
                encode_picture,
                image.image_HWC,
                output_format=asked.rendering.output_format,
                output_compression=asked.rendering.output_compression,
            )
            media_type = asked.raw_type
        self._metrics.observe(
            "raygen_encode_seconds", time.perf_counter() - start_s, format=asked.rendering.output_format
        )
        return Response(content, media_type=media_type, headers=result_headers(result))

    async def _as_job(self, request: Request, asked: Asked, *, owner: str, key: str | None, is_async: bool) -> Response:
        job = await self._backend.submit(
            asked.model.id,
            asked.request,
            asked.rendering,
            owner=owner,
            idempotency_key=key,
            body_digest=asked.body_digest,
        )
        if is_async:
            headers = {"location": f"/v1/jobs/{job.id}", "preference-applied": "respond-async"}
            return Response(json.dumps(job_object(job)), 202, headers=headers, media_type="application/json")

        async def finished() -> Job:
            current = job
            while current.status in {"queued", "running"}:
                current = await self._backend.job(job.id, owner=owner, wait_s=MAX_WAIT_S)
            return current

        job = await while_connected(request.receive, finished())
        if job.body is None:
            error = job.error or {"message": "the job was cancelled", "code": "job_cancelled", "param": None}
            raise EndpointError(error["message"], code=error["code"], param=error["param"])
        return Response(job.body, media_type="application/json", headers=job.headers)

    async def _as_stream(self, request: Request, asked: Asked) -> Response:
        events = aiter(self._backend.stream(asked.model.id, asked.request))
        # What is wrong with the request shows before the first event: then the status can still say it.
        first = await while_connected(request.receive, _next(events))
        return EventStream(_event_bytes(first, events, asked))


class EventStream(Response):
    """Server-sent events; the work behind them stops when the client goes."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events as they come."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await while_connected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._chunks):
            async for chunk in self._chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def job_object(job: Job) -> dict[str, Any]:
    """A job as JSON."""
    return {
        "id": job.id,
        "object": "image.edit.job",
        "status": job.status,
        "queue_position": job.queue_position,
        "step": job.step,
        "steps": job.steps,
        "created_at": job.created_at,
        "deadline_at": job.deadline_at,
        "result": None if job.body is None else json.loads(job.body),
        "error": job.error,
    }


async def _next(events: AsyncIterator[EditEvent]) -> EditEvent:
    return await anext(events)


async def _event_bytes(first: EditEvent, events: AsyncIterator[EditEvent], asked: Asked) -> AsyncGenerator[bytes, None]:
    event: EditEvent | None = first
    try:
        while event is not None:
            if isinstance(event, PartialImage):
                yield await asyncio.to_thread(partial_event, event, asked.rendering, num_inference_steps=asked.steps)
            elif isinstance(event, EditedImage):
                yield await asyncio.to_thread(completed_event, event, asked.rendering, num_inference_steps=asked.steps)
            elif isinstance(event, Progress):
                # A comment: clients skip it, and proxies see that the connection lives.
                yield f": step {event.step} of {event.steps}, {event.queue_position} before\n\n".encode()
            event = await anext(events, None)
    except EndpointError as error:
        yield error_event(error)
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()


def _rendering(values: dict[str, Any], picture: MaskedPicture, raw_type: str | None) -> Rendering:
    height, width = picture.repaint_HW.shape
    return Rendering(
        output_format=values["output_format"] if raw_type is None else _RAW_TYPES[raw_type],
        output_compression=values["output_compression"],
        size=(width, height),
        mask=picture.mask,
        warnings=warnings_of(values),
    )


def _seeds(values: dict[str, Any]) -> tuple[int, ...]:
    if values["seeds"] is not None:
        return tuple(values["seeds"])
    first = values["seed"]
    if first == -1:
        first = random.SystemRandom().randint(0, MAX_FORM_SEED)
    return tuple((first + i) % (MAX_FORM_SEED + 1) for i in range(values["n"]))


def _raw_type(request: Request, values: dict[str, Any], form: Form) -> str | None:
    """Media type of the bare picture if the Accept header asks for one and takes no JSON."""
    accepted = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "*/*").split(",")]
    if {"application/json", "text/event-stream", "application/*", "*/*", ""} & {*accepted}:
        return None
    wanted = f"image/{values['output_format']}"
    if "output_format" not in form.texts:
        wanted = next((kind for kind in accepted if kind in _RAW_TYPES), wanted)
    if wanted not in accepted and "image/*" not in accepted:
        raise EndpointError(
            "the answer can be application/json, text/event-stream (with stream=true) or a picture in output_format",
            code="not_acceptable",
        )
    num_pictures = len(values["seeds"]) if values["seeds"] is not None else values["n"]
    if num_pictures != 1 or values["stream"]:
        raise EndpointError(
            "Accept: image/… gives one bare picture; send n=1 and no stream, or Accept: application/json",
            code="not_acceptable",
        )
    return wanted


def _digest(form: Form) -> str:
    digest = hashlib.sha256(json.dumps(form.texts, sort_keys=True).encode())
    for name, data in sorted(form.files.items()):
        digest.update(name.encode() + hashlib.sha256(data).digest())
    return digest.hexdigest()
