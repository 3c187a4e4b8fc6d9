"""Jobs, idempotency keys and allowances, with a model that is the test's own to hold up."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from raygen.endpoint.edits import EditedImage, EditEvent, EditRequest, EditResult, Progress
from raygen.errors import EndpointError
from serve.http.backend import Job, MaskFacts, Rendering
from serve.http.ledger import Ledger

SIDE = 64
MASK: MaskFacts = {"mode": "full", "edited_fraction": 1.0, "bbox": [0, 0, SIDE, SIDE]}
RENDERING = Rendering(output_format="png", output_compression=100, size=(SIDE, SIDE), mask=MASK)
PROVENANCE = {
    "model": "m",
    "digest": "sha256:0",
    "tokens": {},
    "determinism": "strict",
    "bucket": 1,
    "dtype": "float32",
}


class Painter:
    """Paints grey after `go` is set; counts how often it was asked."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.num_asked = 0
        self.error: Exception | None = None

    async def stream(self, model_id: str, request: EditRequest) -> AsyncGenerator[EditEvent, None]:
        self.num_asked += 1
        yield Progress(queue_position=2, step=0, steps=4)
        yield Progress(queue_position=0, step=1, steps=4)
        await self.go.wait()
        if self.error is not None:
            raise self.error
        yield EditedImage(index=0, seed=7, image_HWC=np.full((SIDE, SIDE, 3), 128, np.uint8))
        yield EditResult(images=(), num_inference_steps=4, num_prompt_tokens=2, provenance=PROVENANCE)


def request() -> EditRequest:
    image_HWC = np.zeros((SIDE, SIDE, 3), np.uint8)
    return EditRequest(
        image_HWC=image_HWC, repaint_HW=np.ones((SIDE, SIDE), bool), prompt="a", seeds=(7,), timeout_s=60
    )


async def submit(ledger: Ledger, *, owner: str = "me", key: str | None = None, body: str = "b") -> Job:
    return await ledger.submit("m", request(), RENDERING, owner=owner, idempotency_key=key, body_digest=body)


def run(
    body: Callable[[Ledger, Painter], Coroutine[Any, Any, None]],
    *,
    ttl_s: float = 60,
    max_stored_bytes: int = 1 << 20,
) -> None:
    async def inside() -> None:
        painter = Painter()
        ledger = Ledger(painter.stream, ttl_s=ttl_s, max_stored_bytes=max_stored_bytes)
        await body(ledger, painter)
        await ledger.close()

    asyncio.run(inside())


async def code_of(waiting: Coroutine[Any, Any, Any]) -> str:
    with pytest.raises(EndpointError) as error:
        await waiting
    return error.value.code


def test_a_job_goes_from_queued_to_succeeded_with_its_response() -> None:
    async def body(ledger: Ledger, painter: Painter) -> None:
        job = await submit(ledger)
        assert (job.status, job.body) == ("queued", None)
        await asyncio.sleep(0.01)
        job = await ledger.job(job.id, owner="me", wait_s=0)
        assert (job.status, job.queue_position, job.step, job.steps) == ("running", None, 1, 4)
        painter.go.set()
        job = await ledger.job(job.id, owner="me", wait_s=10)
        assert (job.status, job.step) == ("succeeded", 4)
        assert json.loads(job.body or b"")["data"][0]["seed"] == 7
        assert (job.headers or {})["x-raygen-seed"] == "7"

    run(body)


def test_waiting_ends_after_its_time() -> None:
    async def body(ledger: Ledger, painter: Painter) -> None:
        job = await submit(ledger)
        assert (await ledger.job(job.id, owner="me", wait_s=0.05)).status == "running"

    run(body)


def test_a_key_runs_once_and_replays_the_same_bytes() -> None:
    async def body(ledger: Ledger, painter: Painter) -> None:
        jobs = [await submit(ledger, key="k") for _ in range(20)]
        painter.go.set()
        bodies = {(await ledger.job(job.id, owner="me", wait_s=10)).body for job in jobs}
        assert len({job.id for job in jobs}) == len(bodies) == painter.num_asked == 1
        assert (await submit(ledger, key="k")).body in bodies
        assert await code_of(submit(ledger, key="k", body="another")) == "idempotency_key_reused"
        await submit(ledger, key="k", owner="somebody else", body="another")
        await submit(ledger, key="k2")
        await asyncio.sleep(0)
        assert painter.num_asked == 3

    run(body)


def test_another_owner_sees_nothing() -> None:
    async def body(ledger: Ledger, painter: Painter) -> None:
        job = await submit(ledger)
        assert await code_of(ledger.job(job.id, owner="other", wait_s=0)) == "job_not_found"
        assert await code_of(ledger.cancel_job(job.id, owner="other")) == "job_not_found"
        assert await code_of(ledger.job("job_none", owner="me", wait_s=0)) == "job_not_found"

    run(body)


def test_a_cancelled_job_stays_cancelled_and_a_finished_one_finished() -> None:
    async def body(ledger: Ledger, painter: Painter) -> None:
        job = await submit(ledger)
        assert (await ledger.cancel_job(job.id, owner="me")).status == "cancelled"
        assert (await ledger.job(job.id, owner="me", wait_s=5)).status == "cancelled"
        painter.go.set()
        done = await submit(ledger)
        await ledger.job(done.id, owner="me", wait_s=10)
        assert (await ledger.cancel_job(done.id, owner="me")).status == "succeeded"

    run(body)


def test_a_failure_is_kept_as_its_error_object() -> None:
    async def body(ledger: Ledger, painter: Painter) -> None:
        painter.go.set()
        painter.error = EndpointError("too long", code="prompt_too_long", param="prompt")
        job = await submit(ledger)
        job = await ledger.job(job.id, owner="me", wait_s=10)
        assert (job.status, job.error_status) == ("failed", 400)
        assert job.error is not None
        assert job.error["code"] == "prompt_too_long"
        painter.error = ZeroDivisionError("a secret of ours")
        job = await submit(ledger)
        job = await ledger.job(job.id, owner="me", wait_s=10)
        assert job.error is not None
        assert job.error["code"] == "internal_error"
        assert "secret" not in str(job.error)

    run(body)


def test_a_failure_that_may_pass_does_not_stay_under_its_key() -> None:
    async def body(ledger: Ledger, painter: Painter) -> None:
        painter.go.set()
        painter.error = EndpointError("full", code="server_is_overloaded", retryable=True)
        first = await submit(ledger, key="k")
        assert (await ledger.job(first.id, owner="me", wait_s=10)).error_status == 503
        painter.error = None
        second = await submit(ledger, key="k")
        assert (await ledger.job(second.id, owner="me", wait_s=10)).status == "succeeded"
        assert (await ledger.job(first.id, owner="me", wait_s=0)).status == "failed"

    run(body)


def test_what_is_old_or_too_much_is_gone_and_said_so() -> None:
    async def old(ledger: Ledger, painter: Painter) -> None:
        painter.go.set()
        job = await submit(ledger, key="k")
        await ledger.job(job.id, owner="me", wait_s=10)
        await asyncio.sleep(0.15)
        assert await code_of(ledger.job(job.id, owner="me", wait_s=0)) == "job_expired"
        assert await code_of(ledger.job(job.id, owner="other", wait_s=0)) == "job_not_found"
        assert (await submit(ledger, key="k")).id != job.id

    sizes: list[int] = []

    async def alone(ledger: Ledger, painter: Painter) -> None:
        painter.go.set()
        job = await submit(ledger)
        sizes.append(len((await ledger.job(job.id, owner="me", wait_s=10)).body or b""))

    async def large(ledger: Ledger, painter: Painter) -> None:
        painter.go.set()
        jobs = [await submit(ledger) for _ in range(3)]
        for job in jobs:
            await ledger.job(job.id, owner="me", wait_s=10)
        assert await code_of(ledger.job(jobs[0].id, owner="me", wait_s=0)) == "job_expired"
        assert (await ledger.job(jobs[2].id, owner="me", wait_s=0)).status == "succeeded"

    run(old, ttl_s=0.1)
    run(alone)
    run(large, max_stored_bytes=2 * sizes[0])


def test_an_allowance_runs_out_and_fills_again() -> None:
    async def body(ledger: Ledger, painter: Painter) -> None:
        left = [(await ledger.spend("me", requests_per_minute=2)).remaining for _ in range(3)]
        assert left == [1, 0, -1]
        refused = await ledger.spend("me", requests_per_minute=2)
        assert (refused.limit, refused.remaining) == (2, -1)
        assert 20 < refused.reset_s <= 30  # two a minute: the next one after 30 s
        assert (await ledger.spend("other", requests_per_minute=2)).remaining == 1
        quick = [(await ledger.spend("quick", requests_per_minute=600)).remaining for _ in range(2)]
        assert quick[0] == 599
        await asyncio.sleep(0.25)  # 600 a minute: ten a second
        assert (await ledger.spend("quick", requests_per_minute=600)).remaining >= quick[1]

    run(body)
