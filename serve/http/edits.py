"""`POST /v1/images/edits`: from an HTTP request to an `EditRequest`, and from its result to a response."""

import asyncio
import hashlib
import json
import random
import time
from dataclasses import dataclass, fields, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from raygen.endpoint.edits import EditRequest, EditResult
from raygen.errors import EndpointError
from serve.config import ServeConfig, ServedModelConfig
from serve.http.backend import Backend, Job, Rendering
from serve.http.body import Form, read_form
from serve.http.conditions import check_together, steps_of
from serve.http.connection import while_connected
from serve.http.events import event_stream
from serve.http.fields import FIELDS, LISTS, MAX_FORM_SEED, EditFields, read_fields
from serve.http.headers import RAW_TYPES, Wishes, read_wishes
from serve.http.limits import MAX_BODIES_AT_ONCE, MAX_WAIT_S
from serve.http.pictures import MaskedPicture, read_pictures
from serve.http.responses import check_flagged, job_body, json_body, picture_bytes, result_headers
from serve.metrics import Metrics

# The back end keeps the deadline itself; should it fail to, this much later somebody else does.
DEADLINE_GRACE_S = 10.0
# What HTTP and the engine call by the same name goes over as it is, but for what is worked out first.
_SAME = {field.name for field in fields(EditRequest)} & {*FIELDS} - {"seeds", "num_inference_steps"}


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked edit.

    Attributes:
        model: Which model.
        request: For the engine.
        rendering: For the response.
        steps: Denoising steps.
        sent: What was asked for.
        raw_type: Media type, if the bare picture is wanted.
        body_digest: Of everything that was sent, for idempotency.
    """

    model: ServedModelConfig
    request: EditRequest
    rendering: Rendering
    steps: int
    sent: EditFields
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
        wishes = read_wishes(request.headers, self._config)
        asked = await self._read(request, wishes)
        state = request.scope["state"]
        give_up_s = _give_up_s(asked, state["answer_by_s"])
        if state["answer_by_s"] is not None and not wishes.is_job:
            asked = _ending_by(asked, state["answer_by_s"])
        state["model"] = asked.model.id
        height, width = asked.request.repaint_HW.shape
        state["log"] = {
            "size": [width, height],
            "seeds": asked.request.seeds,
            "steps": asked.steps,
            **_user_hash(asked.sent),
        }
        state["headers"]["x-raygen-seed"] = ",".join(map(str, asked.request.seeds))
        if wishes.is_job:
            return await self._as_job(request, asked, wishes, owner=owner)
        if asked.sent.stream:
            events = aiter(self._backend.stream(asked.model.id, asked.request))
            return await event_stream(
                request, events, asked.rendering, num_inference_steps=asked.steps, give_up_s=give_up_s
            )
        result = await while_connected(request.receive, self._paint(asked, give_up_s))
        state["log"] |= {"queue_s": round(result.queue_s, 3), "generation_s": round(result.generation_s, 3)}
        return await self._as_body(asked, result)

    async def _paint(self, asked: Asked, give_up_s: float) -> EditResult:
        try:
            async with asyncio.timeout_at(give_up_s):
                return await self._backend.edit(asked.model.id, asked.request)
        except TimeoutError:
            raise EndpointError("the deadline passed", code="deadline_exceeded") from None

    async def _read(self, request: Request, wishes: Wishes) -> Asked:
        if self._num_bodies >= MAX_BODIES_AT_ONCE:
            raise EndpointError(
                "too many requests are being read", code="server_is_overloaded", retryable=True, retry_after_s=1
            )
        self._num_bodies += 1
        try:
            form = await read_form(request.headers, request.receive, known=FIELDS, lists=LISTS)
            return await self._check(form, wishes, request.scope["state"]["request_id"])
        finally:
            self._num_bodies -= 1

    async def _check(self, form: Form, wishes: Wishes, request_id: str) -> Asked:
        sent = read_fields(form)
        model = self._config.model_named(sent.model)
        if model is None:
            raise EndpointError(
                "there is no such model; the list of models has all", code="model_not_found", param="model"
            )
        check_together(sent, model)
        raw_type = _raw_type(wishes, sent)
        if sent.stream and wishes.is_job:
            raise EndpointError(
                "jobs and idempotency keys have one answer; leave stream away",
                code="conflicting_parameters",
                param="stream",
            )
        picture = await asyncio.to_thread(
            read_pictures, form, mask_mode=sent.mask_mode, size=sent.size, max_pixels=model.max_pixels
        )
        steps = steps_of(sent, model)
        return Asked(
            model=model,
            request=_edit_request(wishes, sent, picture, steps=steps, request_id=request_id),
            rendering=_rendering(sent, picture, raw_type),
            steps=steps,
            sent=sent,
            raw_type=raw_type,
            body_digest=_digest(form),
        )

    async def _as_body(self, asked: Asked, result: EditResult) -> Response:
        start_s = time.perf_counter()
        if asked.raw_type is None:
            content, media_type = await asyncio.to_thread(json_body, result, asked.rendering), "application/json"
        else:
            check_flagged(result.images)
            (image,) = result.images
            assert image.image_HWC is not None
            content = await asyncio.to_thread(picture_bytes, image.image_HWC, asked.rendering)
            media_type = asked.raw_type
        self._metrics.observe(
            "raygen_encode_seconds", time.perf_counter() - start_s, format=asked.rendering.output_format
        )
        return Response(content, media_type=media_type, headers=result_headers(result))

    async def _as_job(self, request: Request, asked: Asked, wishes: Wishes, *, owner: str) -> Response:
        job = await self._backend.submit(
            asked.model.id,
            asked.request,
            asked.rendering,
            owner=owner,
            idempotency_key=wishes.idempotency_key,
            body_digest=asked.body_digest,
        )
        if wishes.is_async:
            headers = {"location": f"/v1/jobs/{job.id}", "preference-applied": "respond-async"}
            return Response(job_body(job), 202, headers=headers, media_type="application/json")

        async def finished() -> Job:
            current = job
            while current.status in {"queued", "running"}:
                current = await self._backend.job(job.id, owner=owner, wait_s=MAX_WAIT_S)
            return current

        job = await while_connected(request.receive, finished())
        if job.body is None:
            if job.error is None:
                raise EndpointError("the job was cancelled", code="job_cancelled")
            raise EndpointError(job.error["message"], code=job.error["code"], param=job.error["param"])
        return Response(job.body, media_type="application/json", headers=job.headers)


def _give_up_s(asked: Asked, answer_by_s: float | None) -> float:
    """When the back end is not waited for any more, on the loop's clock."""
    late_s = asyncio.get_running_loop().time() + asked.request.timeout_s + DEADLINE_GRACE_S
    return late_s if answer_by_s is None else min(late_s, answer_by_s)


def _ending_by(asked: Asked, moment_s: float) -> Asked:
    """The edit with a deadline at a moment on the loop's clock, if its own is later: nobody waits for it after that."""
    left_s = max(0.001, moment_s - asyncio.get_running_loop().time())
    return replace(asked, request=replace(asked.request, timeout_s=min(asked.request.timeout_s, left_s)))


def _edit_request(
    wishes: Wishes, sent: EditFields, picture: MaskedPicture, *, steps: int, request_id: str
) -> EditRequest:
    same: dict[str, Any] = {name: getattr(sent, name) for name in _SAME}
    return EditRequest(
        **same,
        image_HWC=picture.image_HWC,
        repaint_HW=picture.repaint_HW,
        # Fixed here, before anything is sent on: a second send paints the same.
        seeds=sent.seeds or _seeds_from(sent.seed, sent.n),
        num_inference_steps=steps,
        num_partial_images=sent.partial_images,
        priority=wishes.priority,
        timeout_s=wishes.timeout_s,
        request_id=request_id,
    )


def _rendering(sent: EditFields, picture: MaskedPicture, raw_type: str | None) -> Rendering:
    height, width = picture.repaint_HW.shape
    warnings = picture.warnings
    if sent.input_fidelity is not None:
        warnings = ("input_fidelity has no effect: pixels outside the mask are kept anyway", *warnings)
    return Rendering(
        output_format=sent.output_format if raw_type is None else RAW_TYPES[raw_type],
        output_compression=sent.output_compression,
        size=(width, height),
        mask=picture.mask,
        warnings=warnings,
    )


def _seeds_from(first: int, num_pictures: int) -> tuple[int, ...]:
    if first == -1:
        first = random.SystemRandom().randint(0, MAX_FORM_SEED + 1 - num_pictures)
    return tuple(first + i for i in range(num_pictures))


def _raw_type(wishes: Wishes, sent: EditFields) -> str | None:
    """Media type of the bare picture, if one is wanted."""
    if not wishes.raw_types:
        return None
    wanted = f"image/{sent.output_format}"
    if "output_format" not in sent.model_fields_set:
        wanted = next((kind for kind in wishes.raw_types if kind in RAW_TYPES), wanted)
    if wanted not in wishes.raw_types and "image/*" not in wishes.raw_types:
        raise EndpointError(
            "output_format and the Accept header name different formats", code="not_acceptable", param="output_format"
        )
    if (len(sent.seeds) or sent.n) != 1 or sent.stream or wishes.is_job:
        raise EndpointError(
            "a bare picture is the answer to n=1 without stream, job and idempotency key; else accept JSON",
            code="not_acceptable",
        )
    return wanted


def _user_hash(sent: EditFields) -> dict[str, str]:
    user = sent.safety_identifier or sent.user
    return {"user": hashlib.sha256(user.encode()).hexdigest()[:16]} if user else {}


def _digest(form: Form) -> str:
    digest = hashlib.sha256(json.dumps(form.texts, sort_keys=True).encode())
    for name, data in sorted(form.files.items()):
        digest.update(name.encode() + hashlib.sha256(data).digest())
    return digest.hexdigest()
