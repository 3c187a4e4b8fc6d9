"""Whether the models paint now: probes cost a step each, so their answers are kept for a moment."""

import asyncio
import math
import time
from collections import defaultdict

from serve.http.backend import Backend

# Whoever asks, and however often: at most one step in so many seconds.
KEPT_S = 5.0
# A back end that does not even answer a probe is not ready.
PATIENCE_S = 25.0


class Readiness:
    """Asks the back end, for many at once.

    Args:
        backend: Who paints.
        kept_s: How long an answer holds.
    """

    def __init__(self, backend: Backend, *, kept_s: float = KEPT_S) -> None:
        self._backend, self._kept_s = backend, kept_s
        self._known: dict[str, tuple[float, str | None]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def why_not(self, model_id: str) -> str | None:
        """Why a model does not paint, or None."""
        async with self._locks[model_id]:
            asked_s, reason = self._known.get(model_id, (-math.inf, None))
            if time.monotonic() - asked_s > self._kept_s:
                reason = await self._probe(model_id)
                self._known[model_id] = (time.monotonic(), reason)
            return reason

    async def _probe(self, model_id: str) -> str | None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._backend.not_ready(model_id)
        except TimeoutError:
            return "the model does not answer"
