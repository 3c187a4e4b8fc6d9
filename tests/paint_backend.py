"""A back end that paints one flat colour for each seed, and a real server around it: for tests of the HTTP layer."""

# H height and W width of the picture, C colour channels

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from memory_metrics import MemoryMetrics

from raygen.endpoint.edits import (
    EditedImage,
    EditEvent,
    EditRequest,
    EditResult,
    LearnedToken,
    PartialImage,
    Progress,
)
from raygen.inpainters.model_folder import ModelFacts
from serve.config import ServeConfig
from serve.engine.tokens import TokenStore
from serve.http.api import make_api
from serve.http.backend import Allowance
from serve.http.ledger import Ledger

TEXT_WIDTH = 4


def colour_of(seed: int) -> np.ndarray:
    """(3,) uint8, another for each of the first 2**24 seeds."""
    return np.array([seed & 255, (seed >> 8) & 255, (seed >> 16) & 255], dtype=np.uint8)


class PaintBackend:
    """The back end without a model: the repaint region becomes `colour_of(seed)`. Jobs and tokens are real.

    Attributes:
        delay_s: Seconds that a picture takes.
        failure: Raised instead of painting.
        failure_after: Pictures before that.
        flagged: Seeds that the "safety checker" blocks.
        reason: Why it is not ready.
        requests: What was asked to be painted.
        num_painted: Pictures that were finished.
        cancelled_at: When requests were given up, on the clock time.monotonic.
        num_probes: How often readiness was asked.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._stores = {model.id: TokenStore(config.tokens_folder, model.id) for model in config.models}
        self._ledger = Ledger(self.stream, ttl_s=config.job_ttl_s, max_stored_bytes=config.max_stored_bytes)
        self.submit = self._ledger.submit
        self.job = self._ledger.job
        self.cancel_job = self._ledger.cancel_job
        self.reset()

    def reset(self) -> None:
        """As after the start, but for jobs and tokens."""
        self.delay_s = 0.0
        self.failure: BaseException | None = None
        self.failure_after = 0
        self.flagged: set[int] = set()
        self.reason: str | None = None
        self.requests: list[EditRequest] = []
        self.num_painted = 0
        self.cancelled_at: list[float] = []
        self.num_probes = 0

    async def edit(self, model_id: str, request: EditRequest) -> EditResult:
        images = []
        async for event in self.stream(model_id, request):
            if isinstance(event, EditedImage):
                images.append(event)
            elif isinstance(event, EditResult):
                return EditResult(
                    images=tuple(images),
                    num_inference_steps=event.num_inference_steps,
                    num_prompt_tokens=event.num_prompt_tokens,
                    provenance=event.provenance,
                )
        raise AssertionError("a stream ends with its result")

    async def stream(self, model_id: str, request: EditRequest) -> AsyncGenerator[EditEvent, None]:
        self.requests.append(request)
        provenance = {"model": model_id, "digest": "sha256:0", "determinism": "strict", "bucket": 1}
        try:
            if self.failure is not None and not self.failure_after:
                raise self.failure
            yield Progress(queue_position=0, step=0, steps=len(request.seeds))
            for index, seed in enumerate(request.seeds):
                for number in range(request.num_partial_images):
                    yield PartialImage(index=index, number=number, image_HWC=_paint(request, seed))
                await asyncio.sleep(self.delay_s)
                self.num_painted += 1
                yield EditedImage(
                    index=index,
                    seed=seed,
                    image_HWC=None if seed in self.flagged else _paint(request, seed),
                    flagged=seed in self.flagged,
                    num_prompt_tokens=len(request.prompt.split()),
                    provenance=provenance,
                )
                if self.failure is not None and index + 1 == self.failure_after:
                    raise self.failure
            yield EditResult(
                images=(),
                num_inference_steps=request.num_inference_steps or 1,
                num_prompt_tokens=len(request.prompt.split()),
                provenance=provenance,
            )
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled_at.append(time.monotonic())
            raise

    async def not_ready(self, model_id: str) -> str | None:
        self.num_probes += 1
        await asyncio.sleep(0.01)  # as long as a step: those who ask together overlap
        return self.reason

    async def facts(self, model_id: str) -> ModelFacts:
        return ModelFacts(digest="sha256:0", resolution_px=64, stride_px=8, text_width=TEXT_WIDTH)

    async def tokens(self, model_id: str) -> list[LearnedToken]:
        return self._stores[model_id].all()

    async def put_token(self, model_id: str, name: str, data: bytes) -> LearnedToken:
        return self._stores[model_id].put(name, data, width=TEXT_WIDTH)

    async def delete_token(self, model_id: str, name: str) -> bool:
        return self._stores[model_id].delete(name)

    async def spend(self, key_name: str, *, requests_per_minute: int) -> Allowance:
        return await self._ledger.spend(key_name, requests_per_minute=requests_per_minute)

    async def close(self) -> None:
        await self._ledger.close()


class Running:
    """A server that runs.

    Attributes:
        url: Its address.
        port: Its port.
        backend: What paints.
        metrics: What it counted.
    """

    def __init__(self, port: int, backend: PaintBackend, metrics: MemoryMetrics) -> None:
        self.url, self.port, self.backend, self.metrics = f"http://127.0.0.1:{port}", port, backend, metrics


@contextlib.contextmanager
def running(folder: Path, keys: Sequence[Any] = (), **fields: Any) -> Iterator[Running]:
    """A real uvicorn on a loopback port, in a thread of its own.

    Args:
        folder: For learned tokens.
        keys: `KeyConfig`s.
        fields: Others of `ServeConfig`.
    """
    config = ServeConfig(tokens_folder=folder, keys=tuple(keys), **fields)
    metrics, started, box = MemoryMetrics(), threading.Event(), dict[str, Any]()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))

        async def main() -> None:
            backend = PaintBackend(config)
            app = make_api(config, backend, metrics)
            # Without a log config: uvicorn's own would take the handlers away that tests read.
            server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
            box.update(backend=backend, server=server)
            started.set()
            await server.serve(sockets=[listener])
            await backend.close()

        thread = threading.Thread(target=lambda: asyncio.run(main()), name="uvicorn")
        thread.start()
        started.wait()
        wait_for(lambda: box["server"].started)
        try:
            yield Running(listener.getsockname()[1], box["backend"], metrics)
        finally:
            box["server"].should_exit = True
            thread.join()


def wait_for(condition: Callable[[], Any], *, timeout_s: float = 20) -> Any:
    """What the condition gives once it is true."""
    give_up_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < give_up_s, "it did not come true in time"
        time.sleep(0.01)
    return value


def _paint(request: EditRequest, seed: int) -> np.ndarray:
    return np.where(request.repaint_HW[..., None], colour_of(seed), request.image_HWC)
