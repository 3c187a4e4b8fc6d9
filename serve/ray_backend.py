"""`serve.http.backend.Backend` on a cluster: Ray Serve handles of the engines and of the ledger."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray.exceptions import RayActorError

from raygen.endpoint.edits import EditEvent, EditRequest, EditResult, LearnedToken
from raygen.endpoint.handle import HandleTransport
from raygen.errors import EndpointError
from raygen.inpainters.model_folder import ModelFacts, model_facts
from serve.config import ServeConfig
from serve.engine.tokens import TokenStore
from serve.http.backend import Allowance, Job, Rendering
from serve.metrics import Metrics

logger = logging.getLogger(__name__)

# Longer than the engine's own limit for a probe (`Pace.probe_timeout_s`), so that its reason arrives.
READY_TIMEOUT_S = 15.0
# Ray starts a dead ledger again within seconds: five asks, half a second to two and a half apart, are 7.5 s.
LEDGER_ATTEMPTS = 5
LEDGER_PAUSE_S = 0.5
RETRY_AFTER_S = 5


def replicas_of(engines: Mapping[str, Any], metrics: Metrics) -> dict[str, HandleTransport]:
    """The way to each model's replicas, from their handles; requests that are sent again are counted."""
    return {
        model_id: HandleTransport(handle, lambda: metrics.count("raygen_redispatch_total"))
        for model_id, handle in engines.items()
    }


class RayBackend:
    """The back end over handles.

    Args:
        config: The endpoint.
        engines: Handle of each model's engine.
        ledger: Handle of the ledger.
        metrics: Where numbers go.
    """

    def __init__(self, config: ServeConfig, engines: Mapping[str, Any], ledger: Any, metrics: Metrics) -> None:
        self._config, self._ledger = config, ledger
        self._replicas = replicas_of(engines, metrics)
        # What is known of the models without asking a replica: their files' facts and their stored tokens.
        self._facts = {model.id: model_facts(model.inpainter) for model in config.models}
        self._stores = {model.id: TokenStore(config.tokens_folder, model.id) for model in config.models}

    async def edit(self, model_id: str, request: EditRequest) -> EditResult:
        """See `serve.http.backend.Backend`."""
        return await self._replicas[model_id].edit(request, model_id)

    def stream(self, model_id: str, request: EditRequest) -> AsyncGenerator[EditEvent, None]:
        """See `serve.http.backend.Backend`."""
        return self._replicas[model_id].stream(request)

    async def not_ready(self, model_id: str) -> str | None:
        """See `serve.http.backend.Backend`; a model that may be scaled to zero is not woken."""
        model = self._config.model_named(model_id)
        if model is not None and model.min_replicas == 0:
            return None
        return await self._replicas[model_id].not_ready(timeout_s=READY_TIMEOUT_S)

    async def facts(self, model_id: str) -> ModelFacts:
        """See `serve.http.backend.Backend`."""
        return self._facts[model_id]

    async def tokens(self, model_id: str) -> list[LearnedToken]:
        """See `serve.http.backend.Backend`."""
        return await asyncio.to_thread(self._stores[model_id].all)

    async def put_token(self, model_id: str, name: str, data: bytes) -> LearnedToken:
        """See `serve.http.backend.Backend`."""
        width = self._facts[model_id].text_width
        return await asyncio.to_thread(self._stores[model_id].put, name, data, width=width)

    async def delete_token(self, model_id: str, name: str) -> bool:
        """See `serve.http.backend.Backend`."""
        return await asyncio.to_thread(self._stores[model_id].delete, name)

    async def submit(self, model_id: str, request: EditRequest, rendering: Rendering, **options: Any) -> Job:
        """See `serve.http.backend.Backend`."""
        return await self._ask_ledger("submit", model_id, request, rendering, **options)

    async def job(self, job_id: str, *, owner: str, wait_s: float) -> Job:
        """See `serve.http.backend.Backend`."""
        return await self._ask_ledger("job", job_id, owner=owner, wait_s=wait_s)

    async def cancel_job(self, job_id: str, *, owner: str) -> Job:
        """See `serve.http.backend.Backend`."""
        return await self._ask_ledger("cancel_job", job_id, owner=owner)

    async def spend(self, key_name: str, *, requests_per_minute: int) -> Allowance:
        """See `serve.http.backend.Backend`."""
        return await self._ask_ledger("spend", key_name, requests_per_minute=requests_per_minute)

    async def _ask_ledger(self, method: str, *arguments: Any, **options: Any) -> Any:
        for attempt in range(LEDGER_ATTEMPTS):
            try:
                answer = await self._ledger.ask.remote(method, *arguments, **options)
            except RayActorError as error:
                logger.warning("the ledger died (%s); asking its successor", type(error).__name__)
                await asyncio.sleep(LEDGER_PAUSE_S * (attempt + 1))
                continue
            if isinstance(answer, EndpointError):
                raise answer
            return answer
        raise EndpointError(
            "the ledger of jobs is not there", code="service_unavailable", retryable=True, retry_after_s=RETRY_AFTER_S
        )
