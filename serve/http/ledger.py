"""Jobs, idempotency keys and allowances: what outlives one HTTP request. One ledger an endpoint; no Ray here.

A job is an edit that runs on when its caller has gone. A request with an idempotency key is a job too: whoever comes
with the same key and the same body waits for the same job, or gets its stored body.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from raygen.endpoint.edits import EditedImage, EditRequest, EditResult, Progress
from raygen.errors import EndpointError
from serve.http.backend import Allowance, Job, JobStatus, Rendering
from serve.http.errors import response_parts
from serve.http.responses import json_body, result_headers

logger = logging.getLogger(__name__)

Stream = Callable[[str, EditRequest], AsyncIterator[Any]]
# Names of jobs that are gone: their owners get 410, not 404.
MAX_TOMBSTONES = 100_000
MAX_JOBS = 10_000


@dataclass(eq=False)
class _Entry:
    """A job, and who may see it."""

    job: Job
    owner: str
    key: tuple[str, str] | None
    body_digest: str
    task: "asyncio.Task[None] | None" = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    ended_s: float | None = None


class Ledger:
    """Runs and remembers jobs; all calls from one event loop.

    Args:
        stream: Paints: `Backend.stream`.
        ttl_s: How long a job that is over is kept.
        max_stored_bytes: Most memory for bodies; the oldest go first.
    """

    def __init__(self, stream: Stream, *, ttl_s: float, max_stored_bytes: int) -> None:
        self._stream, self._ttl_s, self._max_stored_bytes = stream, ttl_s, max_stored_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._by_key: dict[tuple[str, str], _Entry] = {}
        self._gone: OrderedDict[str, str] = OrderedDict()
        self._buckets: dict[str, tuple[float, float]] = {}

    async def submit(
        self,
        model_id: str,
        request: EditRequest,
        rendering: Rendering,
        *,
        owner: str,
        idempotency_key: str | None,
        body_digest: str,
    ) -> Job:
        """See `serve.http.backend.Backend`."""
        self._tidy()
        key = None if idempotency_key is None else (owner, idempotency_key)
        known = None if key is None else self._by_key.get(key)
        if known is not None and known.body_digest != body_digest:
            raise EndpointError(
                "this Idempotency-Key came before with another body; take a new key", code="idempotency_key_reused"
            )
        if known is not None:
            return known.job
        if len(self._entries) >= MAX_JOBS:
            raise EndpointError(
                f"{MAX_JOBS} jobs are kept, as many as may",
                code="server_is_overloaded",
                retryable=True,
                retry_after_s=60,
            )
        now = int(time.time())
        job = Job(
            id=f"job_{secrets.token_hex(16)}",
            status="queued",
            queue_position=None,
            step=0,
            steps=0,
            created_at=now,
            deadline_at=now + int(request.timeout_s),
        )
        entry = _Entry(job, owner, key, body_digest)
        self._entries[job.id] = entry
        if key is not None:
            self._by_key[key] = entry
        entry.task = asyncio.get_running_loop().create_task(self._run(entry, model_id, request, rendering))
        return job

    async def job(self, job_id: str, *, owner: str, wait_s: float) -> Job:
        """See `serve.http.backend.Backend`."""
        entry = self._find(job_id, owner)
        if wait_s > 0 and not entry.over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(entry.over.wait(), wait_s)
        return entry.job

    async def cancel_job(self, job_id: str, *, owner: str) -> Job:
        """See `serve.http.backend.Backend`."""
        entry = self._find(job_id, owner)
        if not entry.over.is_set() and entry.task is not None:
            entry.task.cancel()
            await asyncio.gather(entry.task, return_exceptions=True)
            if not entry.over.is_set():  # it was cancelled before its first line ran
                self._set(entry, "cancelled")
                entry.ended_s = time.monotonic()
                entry.over.set()
        return entry.job

    async def spend(self, key_name: str, *, requests_per_minute: int) -> Allowance:
        """Counts one request: a bucket of `requests_per_minute` that fills evenly."""
        now_s = time.monotonic()
        per_second = requests_per_minute / 60
        left, seen_s = self._buckets.get(key_name, (float(requests_per_minute), now_s))
        left = min(float(requests_per_minute), left + (now_s - seen_s) * per_second)
        is_allowed = left >= 1
        left -= is_allowed
        self._buckets[key_name] = (left, now_s)
        reset_s = max(0.0, (1 - left) / per_second)
        return Allowance(limit=requests_per_minute, remaining=int(left) if is_allowed else -1, reset_s=reset_s)

    async def close(self) -> None:
        """Stops all jobs."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, entry: _Entry, model_id: str, request: EditRequest, rendering: Rendering) -> None:
        try:
            await self._paint(entry, model_id, request, rendering)
        except EndpointError as error:
            status, body, _ = response_parts(error)
            self._set(entry, "failed", error=body["error"], error_status=status)
            if error.retryable and entry.key is not None:
                # Whoever sends it again is to have another try, not a day of the same 503.
                del self._by_key[entry.key]
                entry.key = None
        except asyncio.CancelledError:
            self._set(entry, "cancelled")
        except Exception:
            logger.exception("job %s failed", entry.job.id)
            status, body, _ = response_parts(EndpointError("the job failed", code="internal_error"))
            self._set(entry, "failed", error=body["error"], error_status=status)
        finally:
            entry.ended_s = time.monotonic()
            entry.over.set()

    async def _paint(self, entry: _Entry, model_id: str, request: EditRequest, rendering: Rendering) -> None:
        images: dict[int, EditedImage] = {}
        async for event in self._stream(model_id, request):
            if isinstance(event, Progress):
                status: JobStatus = "queued" if event.queue_position else "running"
                position = event.queue_position or None
                self._set(entry, status, queue_position=position, step=event.step, steps=event.steps)
            elif isinstance(event, EditedImage):
                images[event.index] = event
            elif isinstance(event, EditResult):
                result = event.with_images(images)
                body = await asyncio.to_thread(json_body, result, rendering)
                job = entry.job
                self._set(entry, "succeeded", step=job.steps, body=body, headers=result_headers(result))

    def _set(self, entry: _Entry, status: JobStatus, **changes: Any) -> None:
        entry.job = replace(entry.job, status=status, **{"queue_position": None, **changes})

    def _find(self, job_id: str, owner: str) -> _Entry:
        self._tidy()
        entry = self._entries.get(job_id)
        if entry is not None and entry.owner == owner:
            return entry
        if self._gone.get(job_id) == owner:
            raise EndpointError("the job's result is no longer kept", code="job_expired")
        raise EndpointError("there is no such job", code="job_not_found")

    def _tidy(self) -> None:
        """Forgets what is too old, and the oldest of what is too much."""
        now_s = time.monotonic()
        over = [entry for entry in self._entries.values() if entry.ended_s is not None]
        num_bytes = sum(len(entry.job.body or b"") for entry in over)
        for entry in over:
            assert entry.ended_s is not None
            if now_s - entry.ended_s <= self._ttl_s and num_bytes <= self._max_stored_bytes:
                continue
            num_bytes -= len(entry.job.body or b"")
            del self._entries[entry.job.id]
            if entry.key is not None:
                del self._by_key[entry.key]
            self._gone[entry.job.id] = entry.owner
        while len(self._gone) > MAX_TOMBSTONES:
            self._gone.popitem(last=False)
