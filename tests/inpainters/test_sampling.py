"""Guidance on part of the steps, samplers by name, and a compiled UNet."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.guiders import ClassifierFreeGuidance
from PIL import Image
from tiny_pipelines import save_pipeline

from raygen.errors import ConfigError, ResourceError, RowError
from raygen.inpainters import InpainterConfig, guided_steps
from raygen.inpainters.batch import inpaint
from raygen.inpainters.compilation import compile_unet
from raygen.inpainters.square import Square
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter

SIDE, ROWS, STEPS = 32, 2, 4
PROMPTS, SEEDS = ["a bird", "cat"], [5, 6]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Path]:
    root = tmp_path_factory.mktemp("models")
    wanted = [(9, "dpm"), (4, "ddim")]
    return {(c, s): save_pipeline(root / f"{s}{c}", in_channels=c, scheduler=s) for c, s in wanted}


def load(folder: Path, **options: object) -> StableDiffusionInpainter:
    fields = {"model": str(folder), "num_inference_steps": STEPS, "composite": False, **options}
    return StableDiffusionInpainter(InpainterConfig.model_validate(fields), ROWS, "cpu")


def pictures() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    mask_HW = np.zeros((SIDE, SIDE), dtype=bool)
    mask_HW[8:24, 4:20] = True
    return [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(ROWS)], [mask_HW] * ROWS


def painted(model: StableDiffusionInpainter) -> np.ndarray:
    results = inpaint(model, *pictures(), prompts=PROMPTS, seeds=SEEDS)
    return np.stack([result for result in results if not isinstance(result, RowError)])


@contextmanager
def call_sizes(model: StableDiffusionInpainter) -> Iterator[list[int]]:
    sizes: list[int] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        sizes.append(len(inputs[0]))

    handle = model.pipe.unet.register_forward_pre_hook(note)
    yield sizes
    handle.remove()


@pytest.mark.parametrize(("start", "stop"), [(0.0, 1.0), (0.0, 0.5), (0.25, 0.7), (0.3, 0.9), (0.5, 1.0), (0.1, 0.29)])
def test_the_interval_is_counted_as_diffusers_counts_it(start: float, stop: float) -> None:
    for num_steps in (1, 2, 7, 10, 100):
        guider = ClassifierFreeGuidance(guidance_scale=3.0, start=start, stop=stop)
        expected = []
        for step in range(num_steps):
            guider.set_state(step=step, num_inference_steps=num_steps, timestep=torch.tensor(0))
            if guider.num_conditions == 2:
                expected.append(step)
        assert list(guided_steps(num_steps, start, stop)) == expected


@pytest.mark.parametrize("model", [(9, "dpm"), (4, "ddim")])
def test_guidance_that_stops_is_that_of_the_diffusers_pipeline(
    models: dict[tuple[int, str], Path], model: tuple[int, str]
) -> None:
    """Whose documentation switches it off from a callback."""

    def switch_off(pipe: Any, step: int, time: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if step + 1 == STEPS // 2:
            vars(pipe).update(_guidance_scale=0.0)
            return {name: tensor.chunk(2)[-1] for name, tensor in tensors.items()}
        return {}

    pipe = StableDiffusionInpaintPipeline.from_pretrained(models[model], safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    images, masks = pictures()
    expected = pipe(
        prompt=PROMPTS,
        image=[Image.fromarray(image) for image in images],
        mask_image=[Image.fromarray(mask) for mask in masks],
        height=SIDE,
        width=SIDE,
        num_inference_steps=STEPS,
        strength=1.0,
        guidance_scale=7.5,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in SEEDS],
        output_type="np",
        callback_on_step_end=switch_off,
        callback_on_step_end_tensor_inputs=["prompt_embeds", "mask", "masked_image_latents"],
    ).images
    ours = load(models[model], guidance_scale=7.5, guidance_stop=0.5)
    # One step of 8-bit rounding: diffusers encodes the pictures in one batch, we one by one.
    assert np.abs(painted(ours).astype(float) - expected * 255).max() <= 1.01


def test_a_step_without_guidance_costs_half(models: dict[tuple[int, str], Path]) -> None:
    model = load(models[9, "dpm"], guidance_start=0.25, guidance_stop=0.75)
    with call_sizes(model) as sizes:
        painted(model)
    assert sizes == [ROWS, 2 * ROWS, 2 * ROWS, ROWS]


def test_before_it_starts_a_row_is_that_of_a_model_without_guidance(models: dict[tuple[int, str], Path]) -> None:
    images, masks = pictures()
    rows = []
    for options in ({"guidance_start": 0.5}, {"guidance_scale": 1.0}):
        model = load(models[9, "dpm"], **{"guidance_scale": 7.5, **options})
        row = model.encode_row(Square(images[0], masks[0], prompt="cat", seed=1))
        rows.append((model, row))
    for step in range(STEPS):
        for model, row in rows:
            model.step([row])
        assert torch.equal(rows[0][1].latent_1Chw, rows[1][1].latent_1Chw) is (step < STEPS // 2)


def test_a_sampler_is_named_as_a_request_names_it(models: dict[tuple[int, str], Path]) -> None:
    """The model's own by default; by another name, that of a model that has it."""
    names = (None, "DPMSolverMultistepScheduler", "DDIMScheduler")
    own, same, other = (painted(load(models[9, "dpm"], scheduler=name)) for name in names)
    assert np.array_equal(own, same)
    assert not np.array_equal(own, other)


def test_the_warm_up_makes_a_call_of_each_shape(models: dict[tuple[int, str], Path]) -> None:
    for options, expected in (
        ({"guidance_stop": 0.5}, {ROWS, 2 * ROWS}),
        ({}, {2 * ROWS}),
        ({"guidance_scale": 1.0, "strength": 0.5}, {ROWS}),
    ):
        model = load(models[4, "ddim"], **options)
        with call_sizes(model) as sizes:
            model.warm_up()
        assert len(sizes) == len(expected)
        assert set(sizes) == expected


def test_a_compiled_unet_paints_the_same_and_is_compiled_before_the_first_row(
    models: dict[tuple[int, str], Path],
) -> None:
    """With a backend that runs what was captured as it is."""
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    model = load(models[9, "dpm"], guidance_scale=1.0)
    expected = painted(model)
    compile_unet(model.pipe.unet, model.warm_up, backend=backend)
    assert len(graphs) == 1
    np.testing.assert_array_equal(painted(model), expected)
    assert len(graphs) == 1


def test_without_a_compiler_the_message_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    linear = torch.nn.Linear(2, 2)
    with pytest.raises(ResourceError, match=r"not be compiled here: .*ompiler.*C compiler \(gcc\) on every node"):
        compile_unet(linear, lambda: linear(torch.zeros(1, 2)), backend="inductor")


def test_compiling_for_a_cpu_is_refused_where_the_model_loads(models: dict[tuple[int, str], Path]) -> None:
    with pytest.raises(ConfigError, match="paints on a CPU"):
        load(models[9, "dpm"], compile=True)
