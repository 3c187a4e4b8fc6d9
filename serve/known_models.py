"""What a process knows of the served models without asking a replica: their files' facts and their stored tokens."""

import asyncio

from raygen.endpoint.edits import LearnedToken
from raygen.inpainters.model_folder import ModelFacts, model_facts
from serve.config import ServeConfig
from serve.engine.tokens import TokenStore


class KnownModels:
    """The part of `serve.http.backend.Backend` that needs no replica.

    Args:
        config: The endpoint.

    Attributes:
        stores: Token store of each model.
    """

    def __init__(self, config: ServeConfig) -> None:
        self.stores = {model.id: TokenStore(config.tokens_folder, model.id) for model in config.models}
        self._facts = {model.id: model_facts(model.inpainter) for model in config.models}

    async def facts(self, model_id: str) -> ModelFacts:
        """See `serve.http.backend.Backend`."""
        return self._facts[model_id]

    async def tokens(self, model_id: str) -> list[LearnedToken]:
        """See `serve.http.backend.Backend`."""
        return await asyncio.to_thread(self.stores[model_id].all)

    async def put_token(self, model_id: str, name: str, data: bytes) -> LearnedToken:
        """See `serve.http.backend.Backend`."""
        width = self._facts[model_id].text_width
        return await asyncio.to_thread(self.stores[model_id].put, name, data, width=width)

    async def delete_token(self, model_id: str, name: str) -> bool:
        """See `serve.http.backend.Backend`."""
        return await asyncio.to_thread(self.stores[model_id].delete, name)
