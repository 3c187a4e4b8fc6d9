"""The Ray Serve application: an ingress that speaks HTTP, an engine for each model, a ledger of jobs.

    serve run serve.app:build_app
    serve deploy serve/config.yaml

Jobs of the same cluster may skip HTTP: `serve.client.Client(get_deployment_handle("engine", "raygen"))`.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ray import ObjectRef
from ray import serve as ray_serve

from raygen.config import validate
from raygen.endpoint.edits import EditEvent, EditRequest, EditResult
from raygen.errors import EndpointError
from raygen.inpainters.model_folder import check_model, find_painter, model_facts
from serve.address import check_host
from serve.config import ServeConfig, ServedModelConfig
from serve.engine.engine import Engine
from serve.engine.tokens import TokenStore
from serve.http.api import make_api
from serve.http.ledger import Ledger
from serve.instance import proxy_host
from serve.ray_backend import RayBackend, replicas_of
from serve.ray_metrics import RayMetrics

logger = logging.getLogger(__name__)

APP_NAME = "raygen"
# Ray's own limits are only the outer fence: its errors are plain text, ours are not.
NO_LIMIT = 100_000
HEALTH_PERIOD_S = 5.0
# Ray would try to load a broken model twenty times.
MAX_START_FAILURES = 3
# Logical CPUs of an ingress and of the ledger: they wait more than they work.
SHARE_CPUS = 0.1


def deployment_name(config: ServeConfig, model_id: str) -> str:
    """Name of a model's engine deployment: "engine" for the default model, "engine-<id>" for the others."""
    return "engine" if model_id == config.models[0].id else f"engine-{model_id}"


class EngineDeployment:
    """A replica of a model. Its methods give an EndpointError back instead of raising it."""

    def __init__(self, model: dict[str, Any], tokens_folder: str) -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        config = ServedModelConfig.model_validate(model)
        self._model = config
        self._metrics = RayMetrics({"model": config.id})
        self._tokens = TokenStore(Path(tokens_folder), config.id)
        self._engine = Engine(config, self._tokens, self._metrics)

    async def edit(self, request: EditRequest) -> EditResult | EndpointError:
        """Paints."""
        try:
            return await self._engine.edit(await _with_pixels(request))
        except EndpointError as error:
            return error

    async def stream(self, request: EditRequest) -> AsyncGenerator[EditEvent | EndpointError, None]:
        """Paints, event by event."""
        events = self._engine.stream(await _with_pixels(request))
        try:
            async for event in events:
                yield event
        except EndpointError as error:
            yield error
        finally:
            await events.aclose()

    async def probe(self) -> str | None:
        """Why the model does not paint, or None."""
        return await self._engine.probe()

    async def num_requests(self) -> int:
        """Requests that wait or run at this replica."""
        return self._engine.num_requests

    async def facts(self) -> dict[str, Any]:
        """The model's id and `ModelFacts`."""
        model = self._model
        known = {"id": model.id, "max_replicas": model.max_replicas, "bucket": self._engine.bucket}
        return {**known, **asdict(model_facts(model.inpainter))}

    async def put_token(self, name: str, data: bytes) -> EndpointError | None:
        """Stores a learned token for all replicas of the model; the error, if it is refused."""
        width = model_facts(self._model.inpainter).text_width
        try:
            await asyncio.to_thread(self._tokens.put, name, data, width=width)
        except EndpointError as error:
            return error
        return None

    def check_health(self) -> None:
        """Ray replaces the replica when this raises."""
        self._engine.check_alive()
        self._metrics.refresh()


class LedgerDeployment:
    """The one ledger of the endpoint. It gives an EndpointError back instead of raising it."""

    def __init__(self, config: dict[str, Any], engines: Mapping[str, Any]) -> None:
        settings = ServeConfig.model_validate(config)
        replicas = replicas_of(engines, RayMetrics({}))
        self._ledger = Ledger(
            lambda model_id, request: replicas[model_id].stream(request),
            ttl_s=settings.job_ttl_s,
            max_stored_bytes=settings.max_stored_bytes,
        )

    async def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What a method of `serve.http.ledger.Ledger` gives."""
        try:
            return await getattr(self._ledger, method)(*arguments, **options)
        except EndpointError as error:
            return error


class Ingress:
    """Speaks HTTP."""

    def __init__(self, config: dict[str, Any], engines: Mapping[str, Any], ledger: Any) -> None:
        settings = ServeConfig.model_validate(config)
        if not settings.keys:
            check_host(proxy_host())
        self._metrics = RayMetrics({})
        self._config = settings
        self._backend = RayBackend(settings, engines, ledger, self._metrics)

    def __serve_build_asgi_app__(self) -> Any:
        """The HTTP application; Ray calls this after the constructor."""
        return make_api(self._config, self._backend, self._metrics, names_requests=False)


def build_app(args: dict[str, Any] | None = None) -> Any:
    """The application for `serve run`, `serve deploy` and `raygen serve`.

    Args:
        args: Fields of `ServeConfig`; none: the model that ships with raygen, for this machine only.

    Raises:
        ConfigError: A wrong field.
        ModelError: A model's folder is incomplete.
    """
    config = validate(ServeConfig, args or {}, where="serve config")
    for model in config.models:
        check_model(find_painter(model.inpainter), field=f"models: {model.id}: inpainter")
    config = for_replicas(config)
    plain = config.model_dump(mode="json")
    engines = {model.id: _bind_engine(config, model) for model in config.models}
    share = {"num_cpus": SHARE_CPUS}
    patience = {"graceful_shutdown_timeout_s": config.max_timeout_s, "graceful_shutdown_wait_loop_s": 1.0}
    ledger = (
        ray_serve.deployment(LedgerDeployment)
        .options(name="ledger", max_ongoing_requests=NO_LIMIT, ray_actor_options=share, **patience)
        .bind(plain, engines)
    )
    ingress = ray_serve.deployment(ray_serve.ingress()(Ingress)).options(
        max_ongoing_requests=NO_LIMIT,
        name="ingress",
        num_replicas=config.num_ingress,
        ray_actor_options=share,
        **patience,
    )
    return ingress.bind(plain, engines, ledger)


def for_replicas(config: ServeConfig) -> ServeConfig:
    """The config with relative paths in full: replicas may have another working directory."""
    models = tuple(
        model.model_copy(update={"inpainter": find_painter(model.inpainter).config_for_workers})
        for model in config.models
    )
    tokens = config.tokens_folder
    is_home = tokens.parts[:1] == ("~",)  # each node's own
    return config.model_copy(update={"models": models, "tokens_folder": tokens if is_home else tokens.absolute()})


def _bind_engine(config: ServeConfig, model: ServedModelConfig) -> Any:
    scaling: dict[str, Any] = {"num_replicas": model.min_replicas}
    if model.min_replicas < model.max_replicas:
        scaling = {
            "num_replicas": None,
            "autoscaling_config": {
                "min_replicas": model.min_replicas,
                "max_replicas": model.max_replicas,
                "target_ongoing_requests": model.target_ongoing_requests,
                "downscale_to_zero_delay_s": model.downscale_to_zero_delay_s,
            },
        }
    return (
        ray_serve.deployment(EngineDeployment)
        .options(
            max_ongoing_requests=NO_LIMIT,
            max_constructor_retry_count=MAX_START_FAILURES,
            name=deployment_name(config, model.id),
            ray_actor_options={"num_cpus": model.num_cpus, "num_gpus": model.num_gpus},
            health_check_period_s=HEALTH_PERIOD_S,
            graceful_shutdown_timeout_s=config.max_timeout_s,
            graceful_shutdown_wait_loop_s=1.0,
            **scaling,
        )
        .bind(model.model_dump(mode="json"), str(config.tokens_folder))
    )


async def _with_pixels(request: EditRequest) -> EditRequest:
    """The request with its picture, where it came as an ObjectRef."""
    if isinstance(request.image_HWC, ObjectRef):
        return replace(request, image_HWC=await request.image_HWC)
    return request
