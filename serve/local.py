"""The endpoint's back end in one process, without Ray: for debugging and tests, and the reference for `serve.app`."""

from collections.abc import AsyncGenerator

from raygen.inpainters.edits import EditEvent, EditRequest, EditResult
from serve.backend import Allowance
from serve.config import ServeConfig
from serve.engine import Engine
from serve.known_models import KnownModels
from serve.ledger import Ledger
from serve.metrics import Metrics


class LocalBackend:
    """Engines and ledger in this process.

    Args:
        config: The endpoint.
        metrics: Where numbers go.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics) -> None:
        known = KnownModels(config)
        self._engines = {model.id: Engine(model, known.stores[model.id], metrics) for model in config.models}
        self.facts, self.tokens = known.facts, known.tokens
        self.put_token, self.delete_token = known.put_token, known.delete_token
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

    async def spend(self, key_name: str, *, requests_per_minute: int) -> Allowance:
        """See `serve.backend.Backend`."""
        return await self._ledger.spend(key_name, requests_per_minute=requests_per_minute)

    async def close(self) -> None:
        """Stops jobs and engines."""
        await self._ledger.close()
        for engine in self._engines.values():
            await engine.close()
