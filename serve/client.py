"""The endpoint from Python: by address, or by a handle from a job on the same cluster, with the same calls.

    client = Client("http://127.0.0.1:8000")
    client = Client(ray.serve.get_deployment_handle("engine", "raygen"))
    edit = await client.edit(image=image_HWC, mask=repaint_HW, prompt="a landbird", seed=7, n=4)
    for edit in client.map(requests): ...

Errors are `raygen.errors.EndpointError`, with the codes of the HTTP interface.
"""

# N pictures of a request, H height, W width, C colour channels

import asyncio
import hashlib
import operator
import queue
import random
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from ray import ObjectRef

from raygen.endpoint.edits import MAX_SEED, EditRequest, EditResult
from raygen.endpoint.handle import HandleTransport
from raygen.endpoint.http import HttpTransport, Transport, environment_key
from raygen.endpoint.retry import ask
from raygen.endpoint.wire import clean_key
from raygen.errors import EndpointError
from serve.arrays import as_mask, check_image

MAX_RANDOM_SEED = 2**32
# Of one call; more are more calls, and HTTP takes fewer a request.
MAX_PICTURES = 1000
IN_FLIGHT_IF_UNKNOWN = 4


@dataclass(frozen=True, slots=True)
class Edit:
    """What came of one request.

    Attributes:
        key: The caller's name for the request.
        request_hash: Of everything that decides its pixels; see `request_hash`.
        images: (N, H, W, 3) uint8 RGB; a picture that was blocked is black, and its `flagged` is True.
        flagged: (N,) bool.
        seeds: One a picture.
        provenance: Model, digest, tokens, determinism, bucket, dtype.
        warnings: What was done other than asked.
        timings: "queue_s" and "generation_s".
    """

    key: str | None
    request_hash: str
    images: np.ndarray
    flagged: np.ndarray
    seeds: tuple[int, ...]
    provenance: dict[str, Any]
    warnings: tuple[str, ...]
    timings: dict[str, float]


class Client:
    """Paints by asking an endpoint.

    Args:
        endpoint: "http://host:port", or a Ray Serve handle of an engine deployment.
        key: Bearer key for an address; by default the environment variable RAYGEN_API_KEY. Handles need none.
        model: Id of the served model; by default the endpoint's own default. A handle leads to one model.
        patience_s: How long a request is repeated while the endpoint is full, starting or losing replicas.

    Raises:
        ConfigError: The key is none that can be sent.
        EndpointError: invalid_url, connection_error: the address is none, or the environment's proxy for it cannot be
            used.
    """

    def __init__(
        self, endpoint: Any, *, key: str | None = None, model: str | None = None, patience_s: float = 600.0
    ) -> None:
        self._transport: Transport
        if isinstance(endpoint, str):
            self._transport = HttpTransport(endpoint, clean_key(key, source="key") or environment_key())
            self._model = model
        else:
            self._transport, self._model = HandleTransport(endpoint), None
        self._patience_s = patience_s

    async def edit(
        self,
        *,
        image: Any,
        mask: np.ndarray,
        prompt: str,
        seed: int | None = None,
        n: int = 1,
        seeds: Iterable[int] | None = None,
        key: str | None = None,
        **sampling: Any,
    ) -> Edit:
        """The pictures of one request; cancelling the call stops the work within a step.

        Args:
            image: (H, W, 3) uint8 RGB; over a handle also an ObjectRef of one.
            mask: True = paint anew, (H, W) bool; numbers that are all 0 and 1, or all 0 and 255, stand for it.
            prompt: What to paint.
            seed: Of the first picture; the others' follow. None: drawn once, so that a repetition paints the same.
            n: Pictures.
            seeds: One a picture, instead of `seed` and `n`.
            key: Comes back as `Edit.key`.
            sampling: Other fields of `EditRequest`: num_inference_steps, guidance_scale, strength …

        Raises:
            EndpointError: See its `code`.
        """
        request = _request(image, mask, prompt=prompt, seeds=_seeds(seed, n, seeds), **sampling)
        return await self._edit(request, key)

    def map(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        in_flight: int | Literal["auto"] = "auto",
        ordered: bool = False,
        finished: Collection[str] = (),
    ) -> Iterator[Edit]:
        """The pictures of many requests; for batch jobs without an event loop.

        A job that was stopped goes on where it was: give the hashes of what it has as `finished`.

        Args:
            requests: Arguments of `edit`, one mapping a request; read only as far ahead as needed. Give each a `seed`
                or `seeds`, else a second run paints other pictures.
            in_flight: Requests under way at once; "auto": twice what the endpoint's replicas paint at once.
            ordered: In the order of `requests`, not as they are done.
            finished: `request_hash` of requests to leave out.

        Raises:
            EndpointError: Of the first request that failed; those under way are cancelled.
        """
        results: queue.Queue[Edit | BaseException | None] = queue.Queue(maxsize=1)
        stop = threading.Event()
        worker = threading.Thread(
            target=lambda: asyncio.run(self._map(iter(requests), in_flight, ordered, finished, results, stop)),
            name="raygen-map",
            daemon=True,
        )
        worker.start()
        try:
            while (result := results.get()) is not None:
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            stop.set()
            while worker.is_alive():  # it may be waiting to hand over a result
                try:
                    results.get(timeout=0.05)
                except queue.Empty:
                    continue

    async def _map(
        self,
        requests: Iterator[Mapping[str, Any]],
        in_flight: int | Literal["auto"],
        ordered: bool,
        finished: Collection[str],
        results: "queue.Queue[Edit | BaseException | None]",
        stop: threading.Event,
    ) -> None:
        tasks: list[asyncio.Task[Edit]] = []
        try:
            limit = await self._in_flight() if in_flight == "auto" else in_flight
            exhausted = False
            while not stop.is_set():
                while not exhausted and len(tasks) < limit:
                    request = await asyncio.to_thread(_next_unfinished, requests, finished)
                    if request is None:
                        exhausted = True
                    else:
                        tasks.append(asyncio.create_task(self._edit(*request)))
                if not tasks:
                    break
                awaited = tasks[:1] if ordered else tasks
                done, _ = await asyncio.wait(awaited, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
                for task in [task for task in tasks if task in done]:
                    tasks.remove(task)
                    await asyncio.to_thread(results.put, task.result())
        except BaseException as error:
            await asyncio.to_thread(results.put, error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(results.put, None)

    async def _in_flight(self) -> int:
        facts = await self._transport.facts(self._model)
        rows = int(facts.get("max_replicas") or 0) * int(facts.get("bucket") or 1)
        return 2 * rows or IN_FLIGHT_IF_UNKNOWN

    async def _edit(self, request: EditRequest, key: str | None) -> Edit:
        result = await ask(self._transport.edit, request, self._model, patience_s=self._patience_s)
        return _edit_of(request, result, key)


def request_hash(request: EditRequest) -> str:
    """Hash of everything that decides a request's pixels, 16 hex digits: a batch job's memory of what it has done.

    An ObjectRef instead of a picture counts by its id, which another job does not share.
    """
    digest = hashlib.sha256()
    arrays: tuple[Any, Any] = (request.image_HWC, request.repaint_HW)
    for array in arrays:
        if isinstance(array, np.ndarray):
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        else:
            digest.update(repr(array).encode())
    neutral = replace(request, image_HWC=None, repaint_HW=None, priority="batch", timeout_s=0, request_id="")  # type: ignore[arg-type]
    digest.update(repr(neutral).encode())
    return digest.hexdigest()[:16]


def _next_unfinished(
    requests: Iterator[Mapping[str, Any]], finished: Collection[str]
) -> tuple[EditRequest, str | None] | None:
    for arguments in requests:
        fields = dict(arguments)
        key = fields.pop("key", None)
        image, mask = fields.pop("image"), fields.pop("mask")
        seeds = _seeds(fields.pop("seed", None), fields.pop("n", 1), fields.pop("seeds", None))
        request = _request(image, mask, seeds=seeds, **fields)
        if not finished or request_hash(request) not in finished:
            return request, key
    return None


def _request(image: Any, mask: Any, **fields: Any) -> EditRequest:
    size = None
    if not isinstance(image, ObjectRef):
        check_image(image)
        size = image.shape[:2]
    return EditRequest(image_HWC=image, repaint_HW=as_mask(mask, size=size), **fields)


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise EndpointError(f"{name} is {value!r}, no whole number", code="invalid_type", param=name) from None


def _seeds(seed: int | None, n: int, seeds: Iterable[int] | None) -> tuple[int, ...]:
    if seeds is not None:
        given = tuple(_whole("seeds", value) for value in seeds)
        if not given or not all(0 <= value <= MAX_SEED for value in given):
            raise EndpointError(
                f"seeds are {given}; expected one or more from 0 to {MAX_SEED}", code="out_of_range", param="seeds"
            )
        return given
    n = _whole("n", n)
    if not 1 <= n <= MAX_PICTURES:
        raise EndpointError(f"n is {n}; ask for 1 to {MAX_PICTURES} pictures", code="out_of_range", param="n")
    first = random.SystemRandom().randrange(MAX_RANDOM_SEED + 1 - n) if seed is None else _whole("seed", seed)
    if not 0 <= first <= MAX_SEED + 1 - n:
        raise EndpointError(
            f"seed is {first} and n {n}; the seeds are seed to seed + n - 1, from 0 to {MAX_SEED}",
            code="out_of_range",
            param="seed",
        )
    return tuple(first + i for i in range(n))


def _edit_of(request: EditRequest, result: EditResult, key: str | None) -> Edit:
    shape = next((image.image_HWC.shape for image in result.images if image.image_HWC is not None), (0, 0, 3))
    pictures = [np.zeros(shape, np.uint8) if image.image_HWC is None else image.image_HWC for image in result.images]
    return Edit(
        key=key,
        request_hash=request_hash(request),
        images=np.stack(pictures),
        flagged=np.array([image.flagged for image in result.images]),
        seeds=tuple(image.seed for image in result.images),
        provenance=result.provenance,
        warnings=result.warnings,
        timings={"queue_s": result.queue_s, "generation_s": result.generation_s},
    )
