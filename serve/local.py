"""The endpoint's back end in one process, without Ray: for debugging and tests, and the reference for `serve.app`."""

import asyncio
from collections.abc import AsyncGenerator

from raygen.inpainters.edits import EditEvent, EditRequest, EditResult, LearnedToken
from raygen.inpainters.model_folder import ModelFacts, model_facts
from serve.backend import Allowance
from serve.config import ServeConfig
from serve.engine import Engine
from serve.ledger import Ledger
from serve.metrics import Metrics
from serve.tokens import TokenStore


class LocalBackend:
    """Engines and ledger in this process.

    Args:
        config: The endpoint.
        metrics: Where numbers go.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics) -> None:
        self._stores = {model.id: TokenStore(config.tokens_folder, model.id) for model in config.models}
        self._engines = {model.id: Engine(model, self._stores[model.id], metrics) for model in config.models}
        self._facts = {model.id: model_facts(model.inpainter) for model in config.models}
        self._ledger = Ledger(self.stream, ttl_s=config.job_ttl_s, max_stored_bytes=config.max_stored_bytes)
        self.submit = self._ledger.submit
        self.job = self._ledger.job
        self.cancel_job = self._ledger.cancel_job

    async def edit(self, model_id: str, request: EditRequest) -> EditResult:
        """See `serve.backend.Backend`."""
        return await self._engines[model_id].edit(request)

    def stream(self, model_id: str, request: EditRequest) -> AsyncGenerator[EditEvent, None]:
        """See `serve.backend.Backend`."""
        return self._engines[model_id].stream(request)

    async def not_ready(self, model_id: str) -> str | None:
        """See `serve.backend.Backend`."""
        return await self._engines[model_id].probe()

    async def facts(self, model_id: str) -> ModelFacts:
        """See `serve.backend.Backend`."""
        return self._facts[model_id]

    async def tokens(self, model_id: str) -> list[LearnedToken]:
        """See `serve.backend.Backend`."""
        return await asyncio.to_thread(self._stores[model_id].all)

    async def put_token(self, model_id: str, name: str, data: bytes) -> LearnedToken:
        """See `serve.backend.Backend`."""
        width = self._facts[model_id].text_width
        return await asyncio.to_thread(self._stores[model_id].put, name, data, width=width)

    async def delete_token(self, model_id: str, name: str) -> bool:
        """See `serve.backend.Backend`."""
        return await asyncio.to_thread(self._stores[model_id].delete, name)

    async def spend(self, key_name: str, *, requests_per_minute: int) -> Allowance:
        """See `serve.backend.Backend`."""
        return await self._ledger.spend(key_name, requests_per_minute=requests_per_minute)

    async def close(self) -> None:
        """Stops jobs and engines."""
        await self._ledger.close()
        for engine in self._engines.values():
            await engine.close()
