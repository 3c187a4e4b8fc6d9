"""What the routes of `routes.py` answer; the edit itself is in `edits.py`."""

import json
import time
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from raygen.endpoint.edits import LearnedToken
from raygen.errors import EndpointError
from raygen.inpainters.schedulers import SCHEDULERS
from raygen.inpainters.token_files import MAX_FILE_BYTES, MAX_VECTORS
from serve.config import ServeConfig, ServedModelConfig
from serve.http import limits, schemas
from serve.http.backend import Backend, Job
from serve.http.conditions import QUALITY_STEPS
from serve.http.connection import check_body_headers, while_connected, whole_body
from serve.http.edits import EditRoute
from serve.http.errors import response_parts
from serve.http.fields import capabilities
from serve.http.keys import Caller
from serve.http.readiness import Readiness
from serve.http.responses import job_body
from serve.metrics import Metrics

_BYTES = "application/octet-stream"


class Handlers:
    """A method a route, of the request and its caller.

    Args:
        config: Models, keys, limits.
        backend: Who paints.
        metrics: Where numbers go.
        document: This interface as an OpenAPI document.
    """

    def __init__(self, config: ServeConfig, backend: Backend, metrics: Metrics, document: dict[str, Any]) -> None:
        self._config, self._backend, self._document = config, backend, document
        self._edit = EditRoute(config, backend, metrics)
        self._readiness = Readiness(backend)
        self._started_at = int(time.time())

    async def edits(self, request: Request, caller: Caller) -> Response:
        """Paints."""
        await self._spend(request, caller)
        return await self._edit.answer(request, owner=caller.name)

    async def unsupported(self, request: Request, caller: Caller) -> Response:
        """What an inpainting model cannot do."""
        raise EndpointError(
            "an inpainting model edits pictures; use the edits, with mask_mode=full to paint a whole one",
            code="unsupported_endpoint",
        )

    async def models(self, request: Request, caller: Caller) -> Response:
        """Every model."""
        data = [await self._model_object(model) for model in self._config.models]
        body: schemas.ModelList = {"object": "list", "data": data}
        return _json(body)

    async def model(self, request: Request, caller: Caller) -> Response:
        """One model."""
        return _json(await self._model_object(self._model_of(request.path_params["model"])))

    async def capabilities(self, request: Request, caller: Caller) -> Response:
        """All limits and defaults, for a client to check before it uploads."""
        models = {
            model.id: {
                "max_pixels": model.max_pixels,
                "max_queue": model.max_queue,
                "defaults": {
                    "num_inference_steps": model.inpainter.num_inference_steps,
                    "guidance_scale": model.inpainter.guidance_scale,
                    "strength": model.inpainter.strength,
                    "negative_prompt": model.inpainter.negative_prompt,
                    **({} if model.inpainter.scheduler is None else {"scheduler": model.inpainter.scheduler}),
                },
            }
            for model in self._config.models
        }
        return _json(
            {
                "object": "capabilities",
                "default_model": self._config.models[0].id,
                "models": models,
                "fields": capabilities(),
                "quality_steps": QUALITY_STEPS,
                "schedulers": SCHEDULERS,
                "limits": limits.PUBLISHED,
                "default_timeout_s": self._config.default_timeout_s,
                "max_timeout_s": self._config.max_timeout_s,
                "max_token_vectors": MAX_VECTORS,
            }
        )

    async def tokens(self, request: Request, caller: Caller) -> Response:
        """The stored learned tokens of a model."""
        model = self._model_asked(request)
        data = [_token_object(token, model) for token in await self._backend.tokens(model.id)]
        body: schemas.TokenList = {"object": "list", "data": data}
        return _json(body)

    async def token(self, request: Request, caller: Caller) -> Response:
        """One learned token."""
        model = self._model_asked(request)
        name = _token_name(request)
        for token in await self._backend.tokens(model.id):
            if token.name == name:
                return _json(_token_object(token, model))
        raise _no_token()

    async def put_token(self, request: Request, caller: Caller) -> Response:
        """Stores a learned token."""
        model = self._model_asked(request)
        check_body_headers(request.headers, max_bytes=MAX_FILE_BYTES)
        if request.headers.get("content-type", _BYTES).split(";")[0].strip().lower() != _BYTES:
            raise EndpointError("send the safetensors file as an octet stream", code="unsupported_media_type")
        data = await whole_body(request.receive, max_bytes=MAX_FILE_BYTES)
        token = await self._backend.put_token(model.id, _token_name(request), data)
        return _json(_token_object(token, model), status=201)

    async def delete_token(self, request: Request, caller: Caller) -> Response:
        """Deletes a learned token; requests under way keep it."""
        model = self._model_asked(request)
        try:
            found = await self._backend.delete_token(model.id, _token_name(request))
        except EndpointError as error:
            if error.code != "invalid_token":
                raise
            found = False  # what cannot be a name is not there
        if not found:
            raise _no_token()
        return Response(status_code=204)

    async def job(self, request: Request, caller: Caller) -> Response:
        """A job, perhaps after waiting for it."""
        text = request.query_params.get("wait", "0")
        if not text.isascii() or not text.isdecimal() or len(text) > 2 or int(text) > limits.MAX_WAIT_S:
            raise EndpointError(
                f"wait is no whole number of seconds from 0 to {limits.MAX_WAIT_S}", code="out_of_range", param="wait"
            )

        async def waited() -> Job:
            return await self._backend.job(request.path_params["job"], owner=caller.name, wait_s=int(text))

        return _job(await while_connected(request.receive, waited()))

    async def cancel_job(self, request: Request, caller: Caller) -> Response:
        """Stops a job."""
        return _job(await self._backend.cancel_job(request.path_params["job"], owner=caller.name))

    async def live(self, request: Request, caller: Caller) -> Response:
        """That this process answers."""
        return _well("live")

    async def ready(self, request: Request, caller: Caller) -> Response:
        """That every model paints."""
        for model in self._config.models:
            reason = await self._readiness.why_not(model.id)
            if reason is not None:
                return _not_ready(f"{model.id}: {reason}")
        return _well("ready")

    async def model_ready(self, request: Request, caller: Caller) -> Response:
        """That one model paints."""
        reason = await self._readiness.why_not(self._model_of(request.path_params["model"]).id)
        return _well("ready") if reason is None else _not_ready(reason)

    async def openapi(self, request: Request, caller: Caller) -> Response:
        """This interface as an OpenAPI document."""
        return _json(self._document)

    async def _spend(self, request: Request, caller: Caller) -> None:
        if caller.requests_per_minute is None:
            return
        allowance = await self._backend.spend(caller.name, requests_per_minute=caller.requests_per_minute)
        request.scope["state"]["headers"] |= {
            "x-ratelimit-limit-requests": str(allowance.limit),
            "x-ratelimit-remaining-requests": str(max(0, allowance.remaining)),
            "x-ratelimit-reset-requests": f"{allowance.reset_s:.3f}s",
        }
        if allowance.remaining < 0:
            raise EndpointError(
                f"the key may send {allowance.limit} requests a minute",
                code="rate_limit_exceeded",
                retryable=True,
                retry_after_s=allowance.reset_s,
            )

    def _model_of(self, model_id: str) -> ServedModelConfig:
        model = self._config.model_named(model_id)
        if model is None:
            raise EndpointError("there is no such model", code="model_not_found", param="model")
        return model

    def _model_asked(self, request: Request) -> ServedModelConfig:
        asked = request.query_params.get("model")
        return self._config.models[0] if asked is None else self._model_of(asked)

    async def _model_object(self, model: ServedModelConfig) -> schemas.Model:
        facts = await self._backend.facts(model.id)
        return {
            "id": model.id,
            "object": "model",
            "created": self._started_at,
            "owned_by": "raygen",
            "capabilities": ["edit"],
            "digest": facts.digest,
            "resolution_px": facts.resolution_px,
            "stride_px": facts.stride_px,
            "max_replicas": model.max_replicas,
            "bucket": model.bucket if model.bucket != "auto" else None,
        }


def _json(data: Any, *, status: int = 200) -> Response:
    return Response(json.dumps(data), status, media_type="application/json")


def _job(job: Job) -> Response:
    return Response(job_body(job), media_type="application/json")


def _well(status: Literal["live", "ready"]) -> Response:
    body: schemas.Health = {"status": status, "reason": None}
    return _json(body)


def _not_ready(reason: str) -> Response:
    """What probes read (status, reason), and the error object that every failure has."""
    error = EndpointError("a model does not paint now; see reason", code="service_unavailable")
    status, body, headers = response_parts(error)
    content: schemas.NotReady = {"status": "not_ready", "reason": reason, **body}
    return Response(json.dumps(content), status, headers=headers, media_type="application/json")


def _token_object(token: LearnedToken, model: ServedModelConfig) -> schemas.Token:
    return {
        "name": token.name,
        "object": "learned_token",
        "vectors": token.vectors.shape[0],
        "dim": token.vectors.shape[1],
        "model": model.id,
        "digest": token.digest,
        "loaded_at": token.loaded_at,
    }


def _token_name(request: Request) -> str:
    name = str(request.path_params["name"])
    return name if name.startswith("<") else f"<{name}>"


def _no_token() -> EndpointError:
    return EndpointError("there is no such learned token", code="token_not_found", param="name")
