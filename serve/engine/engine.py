"""The step-level engine of one replica: requests of different steps, guidance and prompts share UNet calls.

A coroutine decides which pictures go into the next call (`scheduling.py`); one worker thread encodes, steps and
decodes (`painting.py`). The thread takes step after step of the same pictures until something happens that may
change who is next. So requests join, leave, are cancelled and overtaken between any two steps, and a step costs no hop
between threads. A picture's bits depend on its own request only, since a call has a fixed number of rows. No Ray here.
"""

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from raygen.endpoint.edits import (
    EditedImage,
    EditEvent,
    EditRequest,
    EditResult,
    LearnedToken,
    PartialImage,
    Progress,
    too_late,
)
from raygen.errors import EndpointError, number_text
from serve.config import ServedModelConfig
from serve.engine.painting import Painter, PreparedRequest, StepOutcome
from serve.engine.scheduling import PACE, Pace, choose, rank
from serve.engine.tokens import TokenStore
from serve.engine.under_way import PictureUnderWay, RequestUnderWay
from serve.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_RETRY_AFTER_S = 60.0
# Before the first step is timed, a guess for Retry-After: a small GPU's step of Stable Diffusion.
FIRST_SECONDS_PER_STEP = 0.1
# Weight of the newest step in the running mean: some ten steps decide, so that one slow step does not.
NEWEST_SHARE = 0.1
# Clients that are refused come back when about half of the queue is done: then there is room again.
RETRY_AT_QUEUE_SHARE = 0.5
MIN_RETRY_AFTER_S = 1.0


class Engine:
    """Paints requests; all calls from one event loop.

    Args:
        config: The model.
        tokens: Its learned tokens.
        metrics: Where numbers go.
        painter: The loaded model; by default it is loaded here.
        pace: What goes by the clock.
    """

    def __init__(
        self,
        config: ServedModelConfig,
        tokens: TokenStore,
        metrics: Metrics,
        *,
        painter: Painter | None = None,
        pace: Pace = PACE,
    ) -> None:
        self._config, self._tokens, self._metrics, self._pace = config, tokens, metrics, pace
        self._painter = painter or Painter(config)
        # One thread: torch calls never overlap, and the event loop never waits for them.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="painter")
        self._items: list[PictureUnderWay] = []
        self._preparing: set[asyncio.Future[Any]] = set()
        # Set for the thread: requests come, are to be prepared, or went, so the loop has to choose anew.
        self._has_changed = threading.Event()
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._seconds_per_step = FIRST_SECONDS_PER_STEP
        self._busy_since: float | None = None
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def bucket(self) -> int:
        """Rows of a UNet call."""
        return self._painter.bucket

    @property
    def num_requests(self) -> int:
        """Requests that wait or run."""
        return len({item.owner for item in self._items})

    async def edit(self, request: EditRequest) -> EditResult:
        """The pictures of a request.

        Raises:
            EndpointError: See `stream`.
        """
        images: dict[int, EditedImage] = {}
        async for event in self._events(request, wants_progress=False):
            if isinstance(event, EditedImage):
                images[event.index] = event
            elif isinstance(event, EditResult):
                return event.with_images(images)
        raise AssertionError("a stream ends with its result")

    def stream(self, request: EditRequest) -> AsyncGenerator[EditEvent, None]:
        """Progress, previews and pictures as they come, and the result at the end.

        Closing the iterator, or cancelling whoever waits for it, frees its rows before the next step.

        Raises:
            EndpointError: server_is_overloaded, prompt_too_long, unknown_learned_token, empty_mask, out_of_range,
                deadline_exceeded, out_of_memory, non_finite_output.
        """
        return self._events(request, wants_progress=True)

    async def _events(self, request: EditRequest, *, wants_progress: bool) -> AsyncGenerator[EditEvent, None]:
        deadline_s = time.monotonic() + request.timeout_s
        self._check_room()
        learned = await asyncio.to_thread(self._find_tokens, request)
        prepared = await self._prepare(request, learned)
        self._check_room()  # others came meanwhile
        owner = self._owner(request, prepared, wants_progress=wants_progress)
        items = [PictureUnderWay(owner, picture) for picture in prepared.pictures]
        self._enter(items)
        try:
            while True:
                async with asyncio.timeout(max(0.0, deadline_s - time.monotonic())):
                    event = await owner.events.get()
                if isinstance(event, EndpointError):
                    raise event
                yield event
                if isinstance(event, EditResult):
                    return
        except TimeoutError:
            self._metrics.count("raygen_cancelled_total", stage="deadline")
            raise too_late(request) from None
        finally:
            self._forget(owner)

    async def probe(self) -> str | None:
        """Why the model does not paint now, or None: a picture of one step goes through the same queue, first in it."""
        try:
            async with asyncio.timeout(self._pace.probe_timeout_s):
                await self._probe()
        except TimeoutError:
            return f"a one-step picture was not done within {number_text(self._pace.probe_timeout_s)} seconds"
        except EndpointError as error:
            return error.code
        return None

    def check_alive(self) -> None:
        """Raises RuntimeError when the worker thread is stuck or the loop has died: the replica is to be replaced."""
        if self._loop_task is not None and self._loop_task.done():
            raise RuntimeError("the engine's loop has ended")
        busy_since = self._busy_since
        if busy_since is not None and time.monotonic() - busy_since > self._config.stall_s:
            raise RuntimeError(f"the model has not answered for {number_text(self._config.stall_s)} seconds")

    async def close(self) -> None:
        """Ends the loop; requests under way get no answer."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            self._has_changed.set()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        self._thread.shutdown(wait=False)

    def _owner(self, request: EditRequest, prepared: PreparedRequest, *, wants_progress: bool) -> RequestUnderWay:
        return RequestUnderWay(
            next(self._numbers), request, prepared, time.monotonic(), wants_progress, num_left=len(request.seeds)
        )

    def _enter(self, items: list[PictureUnderWay]) -> None:
        self._items += items
        self._tell_positions()
        if self._loop_task is None:
            self._loop_task = asyncio.get_running_loop().create_task(self._run())
        self._has_changed.set()
        self._wake.set()

    async def _run(self) -> None:
        while True:
            # Before the wait: what comes during it may be given to the thread only after the next steps have begun.
            self._has_changed.clear()
            if self._preparing:
                # The thread does these before any step that it is given now: whoever they are for can be in that step.
                await asyncio.wait(self._preparing)
            now_s = time.monotonic()
            chosen = choose(self._items, num_rows=self.bucket, now_s=now_s, ageing_s=self._pace.ageing_s)
            if not chosen:
                self._wake.clear()
                await self._wake.wait()
                continue
            for item in chosen:
                self._start(item.owner, now_s)
            await self._in_thread(self._paint, chosen, asyncio.get_running_loop())
            for item in chosen:
                self._settle(item)
            del chosen, item  # an idle engine keeps no picture alive

    def _paint(self, chosen: list[PictureUnderWay], loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: steps pictures until one of them has something to settle, or the loop has to choose anew."""
        pictures = [item.picture for item in chosen]
        chosen_s = time.monotonic()
        while True:
            start_s = self._busy_since = time.monotonic()
            try:
                outcome = self._painter.advance(pictures)
            except Exception:
                logger.exception("a step of %d pictures failed", len(pictures))
                outcome = StepOutcome(self._painter.bucket)
                for picture in pictures:
                    picture.error = EndpointError("the model failed", code="internal_error", retryable=True)
            end_s = time.monotonic()
            self._note_step(chosen, outcome, end_s - start_s)
            # Progress is taken here: when the loop comes to tell it, the pictures may be some steps further.
            owners = dict.fromkeys(item.owner for item in chosen)
            progress = [(owner, self._progress(owner)) for owner in owners if owner.wants_progress]
            if progress:
                loop.call_soon_threadsafe(_tell, progress)
            is_through = any(picture.is_to_settle for picture in pictures)
            is_parted = len({picture.group for picture in pictures}) > 1  # guidance ended for some of them
            if is_through or is_parted or self._has_changed.is_set() or end_s - chosen_s > self._pace.choice_s:
                return

    def _note_step(self, chosen: list[PictureUnderWay], outcome: StepOutcome, elapsed_s: float) -> None:
        self._metrics.observe("raygen_step_seconds", elapsed_s, bucket=str(outcome.bucket))
        self._metrics.set("raygen_bucket_fill", min(1.0, len(chosen) / outcome.bucket))
        self._seconds_per_step += NEWEST_SHARE * (elapsed_s / len(chosen) - self._seconds_per_step)
        for _ in range(outcome.num_out_of_memory):
            self._metrics.count("raygen_oom_total")
        for item in chosen:
            item.owner.bucket = min(item.owner.bucket or outcome.bucket, outcome.bucket)

    def _start(self, owner: RequestUnderWay, now_s: float) -> None:
        if owner.started_s is None:
            owner.started_s = now_s
            self._metrics.observe("raygen_queue_seconds", now_s - owner.arrived_s)
            self._tell_positions()

    def _settle(self, item: PictureUnderWay) -> None:
        """Tells a picture's owner what there is to see of it."""
        owner, picture = item.owner, item.picture
        if item not in self._items:
            return  # its owner went during the step
        if picture.error is not None:
            if picture.error.code == "non_finite_output":
                self._metrics.count("raygen_nonfinite_total")
            owner.events.put_nowait(picture.error)
            self._forget(owner)
            return
        if picture.preview is not None:
            number, image_HWC = picture.preview
            owner.events.put_nowait(PartialImage(index=picture.index, number=number, image_HWC=image_HWC))
            picture.preview = None
        if not picture.is_done:
            return
        self._items.remove(item)
        owner.num_left -= 1
        owner.events.put_nowait(
            EditedImage(
                index=picture.index,
                seed=picture.seed,
                image_HWC=picture.result_HWC,
                flagged=picture.flagged,
                num_prompt_tokens=owner.prepared.num_prompt_tokens,
                provenance=self._painter.provenance(owner.prepared, owner.bucket),
            )
        )
        if owner.num_left == 0:
            owner.events.put_nowait(self._result(owner))

    def _progress(self, owner: RequestUnderWay, position: int = 0) -> Progress:
        pictures = owner.prepared.pictures
        total = sum(picture.num_steps for picture in pictures)
        return Progress(
            queue_position=position, step=total - sum(picture.steps_left for picture in pictures), steps=total
        )

    def _result(self, owner: RequestUnderWay) -> EditResult:
        now_s = time.monotonic()
        assert owner.started_s is not None
        self._metrics.observe("raygen_generation_seconds", now_s - owner.started_s)
        prepared = owner.prepared
        return EditResult(
            images=(),
            num_inference_steps=prepared.sampling.num_inference_steps,
            num_prompt_tokens=prepared.num_prompt_tokens,
            provenance=self._painter.provenance(prepared, owner.bucket),
            warnings=prepared.warnings,
            queue_s=owner.started_s - owner.arrived_s,
            generation_s=now_s - owner.started_s,
        )

    def _forget(self, owner: RequestUnderWay) -> None:
        left = [item for item in self._items if item.owner is not owner]
        if len(left) < len(self._items):
            self._metrics.count("raygen_cancelled_total", stage="queued" if owner.started_s is None else "running")
            self._has_changed.set()
        self._items = left
        self._tell_positions()

    def _check_room(self) -> None:
        waiting = {item.owner for item in self._items if item.owner.started_s is None}
        if len(waiting) < self._config.max_queue:
            return
        left_s = sum(item.steps_left for item in self._items) * self._seconds_per_step
        raise EndpointError(
            f"{len(waiting)} requests are waiting, as many as may",
            code="server_is_overloaded",
            retryable=True,
            retry_after_s=min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, left_s * RETRY_AT_QUEUE_SHARE)),
        )

    def _tell_positions(self) -> None:
        """Tells those who wait how many go before them, and counts them."""
        now_s = time.monotonic()
        ranked = sorted(self._items, key=lambda item: rank(item, now_s=now_s, ageing_s=self._pace.ageing_s))
        waiting = [owner for owner in dict.fromkeys(item.owner for item in ranked) if owner.started_s is None]
        for position, owner in enumerate(waiting, start=1):
            if owner.position != position:
                owner.position = position
                if owner.wants_progress:
                    owner.events.put_nowait(self._progress(owner, position))
        for priority in ("interactive", "batch"):
            number = sum(owner.request.priority == priority for owner in waiting)
            self._metrics.set("raygen_queue_depth", number, priority=priority)

    def _find_tokens(self, request: EditRequest) -> dict[str, LearnedToken]:
        found = self._painter.find_tokens(request, self._tokens)
        self._metrics.set("raygen_tokens_loaded", self._tokens.num_cached)
        return found

    async def _prepare(self, request: EditRequest, learned: dict[str, LearnedToken]) -> PreparedRequest:
        preparing = asyncio.ensure_future(self._in_thread(self._painter.prepare, request, learned))
        self._preparing.add(preparing)
        self._has_changed.set()
        preparing.add_done_callback(self._preparing.discard)
        return await preparing

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs in the painter's thread, which serves one call after the other."""

        def timed() -> T:
            self._busy_since = time.monotonic()
            try:
                return function(*arguments)
            finally:
                self._busy_since = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, timed)

    async def _probe(self) -> None:
        side = self._painter.probe_side_px
        repaint_HW = np.ones((side, side), dtype=bool)
        request = EditRequest(
            image_HWC=np.zeros((side, side, 3), dtype=np.uint8),
            repaint_HW=repaint_HW,
            prompt="a photo",
            seeds=(0,),
            num_inference_steps=1,
            strength=1.0,
            priority="interactive",
            timeout_s=self._pace.probe_timeout_s,
        )
        prepared = await self._prepare(request, {})
        # Without the check for room: a full queue is no illness.
        owner = self._owner(request, prepared, wants_progress=False)
        owner.is_probe = True
        self._enter([PictureUnderWay(owner, picture) for picture in prepared.pictures])
        try:
            while not isinstance(event := await owner.events.get(), EditResult):
                if isinstance(event, EndpointError):
                    raise event
        finally:
            self._forget(owner)


def _tell(progress: list[tuple[RequestUnderWay, Progress]]) -> None:
    for owner, event in progress:
        owner.events.put_nowait(event)
