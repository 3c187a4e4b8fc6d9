"""The HTTP interface as one ASGI application over a `serve.backend.Backend`: every route but the edit itself.

Not for Ray: `serve.app` runs it in its ingress, tests run it under uvicorn.
"""

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from raygen.errors import EndpointError
from raygen.inpainters.edits import LearnedToken
from raygen.inpainters.schedulers import SCHEDULERS
from serve import limits
from serve.backend import Backend
from serve.config import Scope, ServeConfig, ServedModelConfig
from serve.connection import check_body_headers, while_connected, whole_body
from serve.edits import EditRoute, job_object
from serve.envelope import Envelope, http_exception
from serve.fields import FIELDS, QUALITY_STEPS
from serve.keys import Caller, authenticate, require
from serve.metrics import Metrics
from serve.openapi import document
from serve.tokens import MAX_FILE_BYTES, MAX_VECTORS

# Probes cost a step each: their answer holds for so long.
READY_CACHE_S = 5.0


def make_api(config: ServeConfig, backend: Backend, metrics: Metrics) -> Starlette:
    """The application.

    Args:
        config: Models, keys, limits.
        backend: Who paints.
        metrics: Where requests are counted.
    """
    api = Api(config, backend, metrics)
    app = Starlette(
        routes=[Route(path, handler, methods=[method]) for method, path, handler in api.routes()],
        middleware=[Middleware(Envelope, metrics=metrics)],
        exception_handlers={HTTPException: http_exception},
    )
    app.router.redirect_slashes = False  # a redirect would lose the body
    return app


class Api:
    """The routes.

    Args:
        config: Models, keys, limits.
        backend: Who paints.
        metrics: Where numbers go.
    """

    def __init__(self, config: ServeConfig, backend: Backend, metrics: Metrics) -> None:
        self._config, self._backend = config, backend
        self._edit = EditRoute(config, backend, metrics)
        self._started_at = int(time.time())
        self._ready: dict[str, tuple[float, str | None]] = {}

    def routes(self) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
        """Method, path and handler of every route."""
        return [
            ("POST", "/v1/images/edits", self.edits),
            ("POST", "/v1/images/generations", self.unsupported),
            ("POST", "/v1/images/variations", self.unsupported),
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{model}", self.model),
            ("GET", "/v1/capabilities", self.capabilities),
            ("GET", "/v1/tokens", self.tokens),
            ("GET", "/v1/tokens/{name}", self.token),
            ("PUT", "/v1/tokens/{name}", self.put_token),
            ("DELETE", "/v1/tokens/{name}", self.delete_token),
            ("GET", "/v1/jobs/{job}", self.job),
            ("POST", "/v1/jobs/{job}/cancel", self.cancel_job),
            ("GET", "/health/live", self.live),
            ("GET", "/health/ready", self.ready),
            ("GET", "/v2/health/live", self.live),
            ("GET", "/v2/health/ready", self.ready),
            ("GET", "/v2/models/{model}/ready", self.model_ready),
            ("GET", "/openapi.json", self.openapi),
        ]

    async def edits(self, request: Request) -> Response:
        """Paints."""
        caller = self._caller(request, "edit")
        await self._spend(request, caller)
        return await self._edit.answer(request, owner=caller.name)

    async def unsupported(self, request: Request) -> Response:
        """What an inpainting model cannot do."""
        self._caller(request, "edit")
        raise EndpointError(
            "an inpainting model edits pictures: POST /v1/images/edits, with mask_mode=full to paint a whole one",
            code="unsupported_endpoint",
        )

    async def models(self, request: Request) -> Response:
        """Every model."""
        self._caller(request, "edit")
        data = [await self._model_object(model) for model in self._config.models]
        return _json({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """One model."""
        self._caller(request, "edit")
        return _json(await self._model_object(self._model_of(request.path_params["model"])))

    async def capabilities(self, request: Request) -> Response:
        """All limits and defaults, for a client to check before it uploads."""
        self._caller(request, "edit")
        fields = {name: _without_empty(asdict(spec)) for name, spec in FIELDS.items()}
        known = {name.lower(): value for name, value in vars(limits).items() if name.isupper()}
        models = {
            model.id: {
                "max_pixels": model.max_pixels,
                "max_queue": model.max_queue,
                "defaults": {
                    "num_inference_steps": model.inpainter.num_inference_steps,
                    "guidance_scale": model.inpainter.guidance_scale,
                    "strength": model.inpainter.strength,
                    "negative_prompt": model.inpainter.negative_prompt,
                },
            }
            for model in self._config.models
        }
        return _json(
            {
                "object": "capabilities",
                "default_model": self._config.models[0].id,
                "models": models,
                "fields": fields,
                "quality_steps": QUALITY_STEPS,
                "schedulers": SCHEDULERS,
                "limits": known,
                "default_timeout_s": self._config.default_timeout_s,
                "max_timeout_s": self._config.max_timeout_s,
                "max_token_vectors": MAX_VECTORS,
            }
        )

    async def tokens(self, request: Request) -> Response:
        """The stored learned tokens of a model."""
        self._caller(request, "edit")
        model = self._model_asked(request)
        data = [_token_object(token, model) for token in await self._backend.tokens(model.id)]
        return _json({"object": "list", "data": data})

    async def token(self, request: Request) -> Response:
        """One learned token."""
        self._caller(request, "edit")
        model = self._model_asked(request)
        name = _token_name(request)
        for token in await self._backend.tokens(model.id):
            if token.name == name:
                return _json(_token_object(token, model))
        raise _no_token()

    async def put_token(self, request: Request) -> Response:
        """Stores a learned token."""
        self._caller(request, "admin")
        model = self._model_asked(request)
        check_body_headers(request.headers, max_bytes=MAX_FILE_BYTES)
        data = await whole_body(request.receive, max_bytes=MAX_FILE_BYTES)
        token = await self._backend.put_token(model.id, _token_name(request), data)
        return _json(_token_object(token, model), status=201)

    async def delete_token(self, request: Request) -> Response:
        """Deletes a learned token; requests under way keep it."""
        self._caller(request, "admin")
        model = self._model_asked(request)
        if not await self._backend.delete_token(model.id, _token_name(request)):
            raise _no_token()
        return Response(status_code=204)

    async def job(self, request: Request) -> Response:
        """A job, perhaps after waiting for it."""
        caller = self._caller(request, "edit")
        text = request.query_params.get("wait", "0")
        if not text.isascii() or not text.isdecimal() or len(text) > 2 or int(text) > limits.MAX_WAIT_S:
            raise EndpointError(
                f"wait is no whole number of seconds from 0 to {limits.MAX_WAIT_S}", code="out_of_range", param="wait"
            )
        waiting = self._backend.job(request.path_params["job"], owner=caller.name, wait_s=int(text))
        return _json(job_object(await while_connected(request.receive, _awaited(waiting))))

    async def cancel_job(self, request: Request) -> Response:
        """Stops a job."""
        caller = self._caller(request, "edit")
        return _json(job_object(await self._backend.cancel_job(request.path_params["job"], owner=caller.name)))

    async def live(self, request: Request) -> Response:
        """That this process answers."""
        return _json({"status": "live", "reason": None})

    async def ready(self, request: Request) -> Response:
        """That every model paints."""
        for model in self._config.models:
            reason = await self._why_not_ready(model)
            if reason is not None:
                return _json({"status": "not_ready", "reason": f"{model.id}: {reason}"}, status=503)
        return _json({"status": "ready", "reason": None})

    async def model_ready(self, request: Request) -> Response:
        """That one model paints."""
        model = self._model_of(request.path_params["model"])
        reason = await self._why_not_ready(model)
        status = "ready" if reason is None else "not_ready"
        return _json({"status": status, "reason": reason}, status=200 if reason is None else 503)

    async def openapi(self, request: Request) -> Response:
        """This interface as an OpenAPI document."""
        return _json(document(has_keys=bool(self._config.keys)))

    def _caller(self, request: Request, scope: Scope) -> Caller:
        request.scope["state"].setdefault("headers", {})
        caller = authenticate(self._config.keys, request.headers.getlist("authorization"))
        require(caller, scope)
        return caller

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
            raise EndpointError("there is no such model; see GET /v1/models", code="model_not_found", param="model")
        return model

    def _model_asked(self, request: Request) -> ServedModelConfig:
        asked = request.query_params.get("model")
        return self._config.models[0] if asked is None else self._model_of(asked)

    async def _model_object(self, model: ServedModelConfig) -> dict[str, Any]:
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

    async def _why_not_ready(self, model: ServedModelConfig) -> str | None:
        known = self._ready.get(model.id)
        if known is None or time.monotonic() - known[0] > READY_CACHE_S:
            known = (time.monotonic(), await self._backend.not_ready(model.id))
            self._ready[model.id] = known
        return known[1]


async def _awaited(waiting: Awaitable[Any]) -> Any:
    return await waiting


def _json(data: Any, *, status: int = 200) -> Response:
    return Response(json.dumps(data), status, media_type="application/json")


def _token_object(token: LearnedToken, model: ServedModelConfig) -> dict[str, Any]:
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
    return EndpointError("there is no such learned token; see GET /v1/tokens", code="token_not_found", param="name")


def _without_empty(spec: dict[str, Any]) -> dict[str, Any]:
    is_bounded = spec["kind"] in {"int", "number", "text"}
    bounds = {"low", "high", "is_exclusive"}
    return {
        name: value for name, value in spec.items() if value not in ((), None) and (is_bounded or name not in bounds)
    }
