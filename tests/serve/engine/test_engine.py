"""The engine with a real (random) model: what a picture may depend on, who goes when, what is freed."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_metrics import MemoryMetrics
from pydantic import ValidationError
from safetensors.numpy import save
from tiny_pipelines import save_pipeline

from raygen.endpoint.edits import EditedImage, EditRequest, EditResult, PartialImage, Progress
from raygen.errors import EndpointError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.schedulers import SCHEDULERS
from raygen.inpainters.self_test import rows_are_independent
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from serve.config import ServedModelConfig
from serve.engine.engine import Engine
from serve.engine.painting import Painter, Picture, StepOutcome
from serve.engine.scheduling import Pace
from serve.engine.tokens import TokenStore

SIDE = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model"), scheduler="dpm")


@pytest.fixture
def served(model: Path) -> ServedModelConfig:
    return ServedModelConfig(
        id="m", inpainter=InpainterConfig(model=str(model), num_inference_steps=4, guidance_scale=2.0)
    )


@asynccontextmanager
async def running(
    config: ServedModelConfig, folder: Path = Path("/nonexistent"), **options: Any
) -> AsyncIterator[Engine]:
    engine = Engine(config, TokenStore(folder, config.id), MemoryMetrics(), **options)
    try:
        yield engine
    finally:
        await engine.close()


def request(seed: int = 0, *, side: int = SIDE, **changes: Any) -> EditRequest:
    rng = np.random.default_rng(seed)
    repaint_HW = np.zeros((side, side), dtype=bool)
    repaint_HW[side // 4 : side // 2, 4 : side // 2] = True
    image_HWC = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
    base = EditRequest(image_HWC=image_HWC, repaint_HW=repaint_HW, prompt="a bird", seeds=(seed,), timeout_s=120)
    return replace(base, **changes)


def pixels(result: EditResult) -> list[bytes]:
    return [image.image_HWC.tobytes() for image in result.images if image.image_HWC is not None]


class SlowPainter(Painter):
    """Takes a time for every step, and notes the calls: (request's first seed, picture) of their rows."""

    step_s = 0.0

    def slow(self, *, step_s: float) -> list[list[tuple[int, int]]]:
        """From now on, every step takes so long; gives back the calls from now on."""
        self.step_s, self.calls = step_s, list[list[tuple[int, int]]]()
        return self.calls

    def advance(self, pictures: Sequence[Picture]) -> StepOutcome:
        if self.step_s:
            self.calls.append([(picture.request.request.seeds[0], picture.index) for picture in pictures])
            time.sleep(self.step_s)
        return super().advance(pictures)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


def test_the_batch_pool_paints_the_same(served: ServedModelConfig) -> None:
    async def body() -> None:
        async with running(served) as engine:
            result = await engine.edit(request(3))
        pool = StableDiffusionInpainter(served.inpainter, 1, "cpu")
        asked = request(3)
        (expected,) = inpaint(pool, [asked.image_HWC], [asked.repaint_HW], prompts=["a bird"], seeds=[3])
        assert isinstance(expected, np.ndarray)
        assert pixels(result) == [expected.tobytes()]
        assert result.provenance["determinism"] == "strict"

    run(body)


@pytest.mark.parametrize(("bucket", "stop"), [(1, 1.0), (4, 1.0), (4, 0.5)])
@pytest.mark.parametrize("num_loads", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_a_picture_is_the_same_in_any_company(
    served: ServedModelConfig, bucket: int, stop: float, num_loads: int
) -> None:
    """Under random loads: others with other steps, guidance, strength, schedulers and sizes come, go, are cancelled.

    With guidance on half of the steps, rows part from those that they shared calls with.
    """
    draw = random.Random(bucket)

    def mate(seed: int) -> EditRequest:
        return request(
            seed,
            side=draw.choice([SIDE, SIDE, 40]),
            prompt=draw.choice(["cat", "a dog runs"]),
            num_inference_steps=draw.randint(1, 12),
            guidance_scale=draw.choice([1.0, 2.0, 7.5]),
            strength=draw.choice([1.0, 1.0, 0.6]),
            scheduler=draw.choice([None, "DDIMScheduler", "EulerAncestralDiscreteScheduler", "PNDMScheduler"]),
            priority=draw.choice(["interactive", "batch"]),
        )

    async def body() -> None:
        inpainter = served.inpainter.model_copy(update={"guidance_stop": stop})
        config = served.model_copy(update={"bucket": bucket, "inpainter": inpainter})
        async with running(config) as engine:
            probes = [request(1), request(2, guidance_scale=1.0), request(5, strength=0.5), request(6, side=45)]
            alone = [await engine.edit(probe) for probe in probes]
            for load in range(num_loads):
                mates = [asyncio.create_task(engine.edit(mate(10 * load + i))) for i in range(draw.randint(1, 8))]
                await asyncio.sleep(draw.choice([0.0, 0.01]))
                together = [asyncio.create_task(engine.edit(probe)) for probe in probes]
                await asyncio.sleep(draw.choice([0.0, 0.02]))
                draw.choice(mates).cancel()
                assert [pixels(await task) for task in together] == [pixels(result) for result in alone]
                await asyncio.gather(*mates, return_exceptions=True)

    run(body)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_paints_with_any_number_of_steps(served: ServedModelConfig, scheduler: str) -> None:
    async def body() -> None:
        async with running(served) as engine:
            asked = [request(1, scheduler=scheduler, num_inference_steps=steps) for steps in (1, 2, 3, 20)]
            asked.append(request(1, scheduler=scheduler, num_inference_steps=10, strength=0.3, num_partial_images=1))
            results = [await engine.edit(one) for one in asked]
            assert len({pixels(result)[0] for result in results}) == 5

    run(body)


def test_a_request_that_names_no_sampling_gets_the_models(served: ServedModelConfig) -> None:
    """The interval of guidance too, which no request can ask for: the pool with the same config paints the same."""

    async def body() -> None:
        changes = {"guidance_start": 0.25, "guidance_stop": 0.75, "scheduler": "DDIMScheduler"}
        inpainter = served.inpainter.model_copy(update=changes)
        asked = request(3)
        async with running(served.model_copy(update={"inpainter": inpainter})) as engine:
            result = await engine.edit(asked)
            same = await engine.edit(replace(asked, scheduler="DDIMScheduler"))
            other = await engine.edit(replace(asked, scheduler="UniPCMultistepScheduler"))
        pool = StableDiffusionInpainter(inpainter, 1, "cpu")
        (expected,) = inpaint(pool, [asked.image_HWC], [asked.repaint_HW], prompts=["a bird"], seeds=[3])
        assert isinstance(expected, np.ndarray)
        assert pixels(result) == pixels(same) == [expected.tobytes()] != pixels(other)

    run(body)


def test_a_served_model_is_not_compiled(served: ServedModelConfig) -> None:
    with pytest.raises(ValidationError, match=r"inpainter\.compile is for pools"):
        ServedModelConfig(id="m", inpainter=InpainterConfig(compile=True))


def test_several_seeds_are_as_many_single_requests(served: ServedModelConfig) -> None:
    async def body() -> None:
        async with running(served) as engine:
            together = await engine.edit(request(7, seeds=(7, 8, 9), strength=0.8))
            singles = [await engine.edit(request(7, seeds=(seed,), strength=0.8)) for seed in (7, 8, 9)]
        assert pixels(together) == [pixels(single)[0] for single in singles]
        assert [image.seed for image in together.images] == [7, 8, 9]
        assert len({*pixels(together)}) == 3

    run(body)


def test_a_short_request_does_not_wait_for_a_long_one(served: ServedModelConfig) -> None:
    async def body() -> None:
        painter = SlowPainter(served)
        async with running(served, painter=painter) as engine:
            calls = painter.slow(step_s=0.1)
            long = asyncio.create_task(engine.edit(request(1, num_inference_steps=20)))
            while len(calls) < 3:
                await asyncio.sleep(0.005)
            await engine.edit(request(2, num_inference_steps=3))
            # The step under way, and no other: what is prepared during it is in the next one.
            assert [seed for call in calls[:6] for seed, _ in call] == [1, 1, 1, 2, 2, 2]
            assert not long.done()
            await long

    run(body)


def test_interactive_overtakes_batch_between_two_steps_and_batch_goes_on(served: ServedModelConfig) -> None:
    async def body() -> None:
        painter = SlowPainter(served)
        async with running(served, painter=painter) as engine:
            expected = await engine.edit(request(1, num_inference_steps=20))
            calls = painter.slow(step_s=0.01)
            batch = asyncio.create_task(engine.edit(request(1, num_inference_steps=20)))
            await asyncio.sleep(0.05)
            await engine.edit(request(2, num_inference_steps=20, priority="interactive"))
            order = [seed for call in calls for seed, _ in call]
            first, last = order.index(2), len(order) - 1 - order[::-1].index(2)
            assert first > 0
            assert order[first : last + 1] == [2] * 20
            assert pixels(await batch) == pixels(expected)

    run(body)


def test_a_request_that_was_overtaken_comes_back_by_its_age_alone(served: ServedModelConfig) -> None:
    async def body() -> None:
        painter = SlowPainter(served)
        async with running(served, painter=painter, pace=Pace(ageing_s=1.0, choice_s=0.1)) as engine:
            calls = painter.slow(step_s=0.02)
            old = asyncio.create_task(engine.edit(request(1, num_inference_steps=100)))
            while len(calls) < 2:
                await asyncio.sleep(0.005)
            await asyncio.gather(old, engine.edit(request(2, num_inference_steps=90)))
            # Nothing comes or goes meanwhile that would make the engine choose anew.
            order = [seed for call in calls for seed, _ in call]
            start = order.index(2)
            assert 1 in order[start : start + 90]

    run(body)


def test_cancelling_frees_the_row_before_the_next_step(served: ServedModelConfig) -> None:
    async def body() -> None:
        painter = SlowPainter(served)
        async with running(served, painter=painter) as engine:
            calls = painter.slow(step_s=0.02)
            task = asyncio.create_task(engine.edit(request(1, num_inference_steps=100)))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            before = len(calls)
            await engine.edit(request(2, num_inference_steps=2))
            assert all(seed == 2 for call in calls[before + 1 :] for seed, _ in call)

    run(body)


def test_a_full_queue_refuses_and_says_when_to_come_again(served: ServedModelConfig) -> None:
    async def body() -> None:
        painter = SlowPainter(served)
        async with running(served.model_copy(update={"max_queue": 2}), painter=painter) as engine:
            painter.slow(step_s=0.05)
            tasks = [asyncio.create_task(engine.edit(request(i))) for i in range(3)]
            await asyncio.sleep(0.3)
            tasks += [asyncio.create_task(engine.edit(request(i))) for i in range(3, 8)]
            done = await asyncio.gather(*tasks, return_exceptions=True)
            refused = [error for error in done if isinstance(error, EndpointError)]
            assert refused
            assert {error.code for error in refused} == {"server_is_overloaded"}
            assert all(error.retryable and 1 <= (error.retry_after_s or 0) <= 60 for error in refused)
            assert len(done) - len(refused) >= 3

    run(body)


def test_the_deadline_ends_a_request_and_frees_its_row(served: ServedModelConfig) -> None:
    async def body() -> None:
        painter = SlowPainter(served)
        async with running(served, painter=painter) as engine:
            painter.slow(step_s=0.05)
            with pytest.raises(EndpointError, match="deadline") as error:
                await engine.edit(request(1, num_inference_steps=100, timeout_s=0.3))
            assert error.value.code == "deadline_exceeded"
            assert engine.num_requests == 0

    run(body)


def test_a_stream_tells_progress_previews_and_pictures(served: ServedModelConfig) -> None:
    async def body() -> None:
        async with (
            running(served) as engine,
            aclosing(engine.stream(request(1, seeds=(1, 2), num_partial_images=2, num_inference_steps=9))) as stream,
        ):
            events = [event async for event in stream]
        progress = [event for event in events if isinstance(event, Progress)]
        assert progress[0] == Progress(queue_position=1, step=0, steps=18)
        assert [event.step for event in progress[1:]] == list(range(1, 19))
        previews = [(event.index, event.number) for event in events if isinstance(event, PartialImage)]
        assert previews == [(0, 0), (0, 1), (1, 0), (1, 1)]
        assert [event.index for event in events if isinstance(event, EditedImage)] == [0, 1]
        assert isinstance(events[-1], EditResult)

    run(body)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"prompt": "x" * 40}, "prompt_too_long", "prompt"),
        ({"negative_prompt": "x" * 40}, "prompt_too_long", "negative_prompt"),
        ({"prompt": "a <bird-1>"}, "unknown_learned_token", "prompt"),
        ({"negative_prompt": "<Bird-1>"}, "unknown_learned_token", "negative_prompt"),
        ({"prompt": "<lora:x:1>"}, "unknown_learned_token", "prompt"),
        ({"prompt": "a <t@sha256:ab>"}, "unknown_learned_token", "prompt"),
        ({"repaint_HW": np.zeros((SIDE, SIDE), dtype=bool)}, "empty_mask", "mask"),
        ({"repaint_HW": np.ones((SIDE, SIDE + 1), dtype=bool)}, "mask_size_mismatch", "mask"),
        ({"num_inference_steps": 3, "strength": 0.2}, "out_of_range", "strength"),
    ],
)
def test_what_cannot_be_painted_is_refused(
    served: ServedModelConfig, changes: dict[str, Any], code: str, param: str
) -> None:
    async def body() -> None:
        async with running(served) as engine:
            with pytest.raises(EndpointError) as error:
                await engine.edit(request(1, **changes))
            assert (error.value.code, error.value.param) == (code, param)
            await engine.edit(request(1))

    run(body)


def test_truncating_a_prompt_is_said(served: ServedModelConfig) -> None:
    async def body() -> None:
        async with running(served) as engine:
            result = await engine.edit(request(1, prompt="x" * 22 + " yes", prompt_overflow="truncate"))
            (warning,) = result.warnings
            assert "'yes'" in warning
            assert pixels(result) == pixels(await engine.edit(request(1, prompt="x" * 22)))

    run(body)


def test_a_learned_token_changes_the_picture_and_only_its_own(served: ServedModelConfig, tmp_path: Path) -> None:
    async def body() -> None:
        async with running(served, tmp_path) as engine:
            before = await engine.edit(request(1))
            token = TokenStore(tmp_path, served.id).put("<t>", save({"<t>": np.full((2, 32), 3, np.float32)}), width=32)
            with_token = await engine.edit(request(1, prompt="a <t>"))
            literal = await engine.edit(request(1, prompt="a <t>", literal_tokens=True))
            assert with_token.provenance["tokens"] == {"<t>": token.digest}
            assert pixels(with_token) != pixels(literal)
            pinned = await engine.edit(request(1, prompt=f"a <t@{token.digest[:15]}>"))
            assert pixels(pinned) == pixels(with_token)
            with pytest.raises(EndpointError, match="not the one pinned"):
                await engine.edit(request(1, prompt="a <t@sha256:abcd1234>"))
            with pytest.raises(EndpointError, match="no learned token <T>; near names: <t>; literal_tokens=true"):
                await engine.edit(request(1, prompt="a <T>"))
            assert pixels(await engine.edit(request(1))) == pixels(before)

    run(body)


def test_short_memory_halves_the_call_and_only_what_never_fits_fails(served: ServedModelConfig) -> None:
    async def body() -> None:
        config = served.model_copy(update={"bucket": 4})
        painter = Painter(config)
        async with running(config, painter=painter) as engine:
            most_rows = 2

            def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
                if len(inputs[0]) > most_rows:
                    raise torch.OutOfMemoryError("CUDA out of memory (made by a test)")

            painter.inpainter.pipe.unet.register_forward_pre_hook(refuse)
            asked = [request(i, guidance_scale=1.0) for i in range(4)]
            results = await asyncio.gather(*(engine.edit(one) for one in asked))
            assert {result.provenance["bucket"] for result in results} == {2}
            assert {result.provenance["determinism"] for result in results} == {"fast"}
            most_rows = 1
            with pytest.raises(EndpointError) as error:  # guided: two rows even alone
                await engine.edit(request(9, guidance_scale=3.0))
            assert error.value.code == "out_of_memory"

    run(body)


def test_non_finite_numbers_are_an_error_of_their_own(served: ServedModelConfig) -> None:
    async def body() -> None:
        painter = Painter(served)
        async with running(served, painter=painter) as engine:
            unet = painter.inpainter.pipe.unet
            handle = unet.register_forward_hook(lambda module, inputs, output: (output[0] * float("nan"),))
            with pytest.raises(EndpointError) as error:
                await engine.edit(request(1))
            assert error.value.code == "non_finite_output"
            handle.remove()
            await engine.edit(request(1))

    run(body)


def test_a_bug_in_a_step_fails_its_request_and_not_the_next(served: ServedModelConfig) -> None:
    async def body() -> None:
        painter = Painter(served)
        async with running(served, painter=painter) as engine:
            unet = painter.inpainter.pipe.unet

            def break_down(module: Any, inputs: Any) -> None:
                raise ZeroDivisionError("made by a test")

            handle = unet.register_forward_pre_hook(break_down)
            with pytest.raises(EndpointError) as error:
                await engine.edit(request(1))
            assert (error.value.code, "made by" in str(error.value)) == ("internal_error", False)
            handle.remove()
            await engine.edit(request(1))

    run(body)


def test_a_probe_paints_and_a_stuck_model_is_found_out(served: ServedModelConfig) -> None:
    async def body() -> None:
        config = served.model_copy(update={"stall_s": 0.6})
        painter = SlowPainter(config)
        async with running(config, painter=painter, pace=Pace(probe_timeout_s=0.5)) as engine:
            assert await engine.probe() is None
            engine.check_alive()
            painter.slow(step_s=0.05)
            long = asyncio.create_task(engine.edit(request(1, num_inference_steps=24)))
            for _ in range(20):  # in all longer than it may be stuck, but no single step is
                await asyncio.sleep(0.05)
                engine.check_alive()
            await long
            painter.slow(step_s=2.0)
            stuck = asyncio.create_task(engine.edit(request(1, num_inference_steps=1)))
            await asyncio.sleep(0.9)
            with pytest.raises(RuntimeError, match="has not answered"):
                engine.check_alive()
            assert "was not done within" in str(await engine.probe())
            await stuck

    run(body)


def test_rows_of_a_call_are_independent_here_and_the_test_can_tell(model: Path) -> None:
    inpainter = StableDiffusionInpainter(InpainterConfig(model=str(model)), 4, "cpu")
    assert rows_are_independent(inpainter, 4)

    def mix(module: Any, inputs: Any, output: Any) -> Any:
        return (output[0] + 1e-3 * output[0].mean(0, keepdim=True),)

    inpainter.pipe.unet.register_forward_hook(mix)
    assert not rows_are_independent(inpainter, 4)
