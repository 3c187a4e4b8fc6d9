"""The step-wise sampler against diffusers' own pipeline, and what a row may depend on."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image
from tiny_pipelines import save_pipeline

from raygen.errors import ConfigError, ModelError, RowError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.model_folder import check_model_folder, find_painter
from raygen.inpainters.square import Square, latent_mask, unsquash
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from raygen.model_files import model_revision

SIDE = 32


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Path]:
    root = tmp_path_factory.mktemp("models")
    wanted = [(9, "ddim"), (4, "ddim"), (9, "dpm"), (9, "euler_ancestral")]
    return {(c, s): save_pipeline(root / f"{s}{c}", in_channels=c, scheduler=s) for c, s in wanted}


def pictures(num: int, *, side: int = SIDE) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(num)]
    masks = []
    for _ in range(num):
        mask_HW = np.zeros((side, side), dtype=bool)
        top, left = rng.integers(0, side // 2, 2)
        mask_HW[top : top + side // 2, left : left + side // 3] = True
        masks.append(mask_HW)
    return images, masks


def load(folder: Path, *, num_rows: int = 4, **options: object) -> StableDiffusionInpainter:
    config = InpainterConfig.model_validate({"model": str(folder), "num_inference_steps": 4, **options})
    return StableDiffusionInpainter(config, num_rows, "cpu")


def same(first: np.ndarray | RowError, second: np.ndarray | RowError) -> bool:
    """Whether both are pictures, and equal to the bit."""
    return isinstance(first, np.ndarray) and isinstance(second, np.ndarray) and np.array_equal(first, second)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("model", [(9, "ddim"), (4, "ddim"), (9, "dpm"), (9, "euler_ancestral")])
def test_same_pictures_as_the_diffusers_pipeline(
    models: dict[tuple[int, str], Path], model: tuple[int, str], strength: float, guidance_scale: float
) -> None:
    images, masks = pictures(3)
    prompts, seeds = ["a bird", "cat", "a bird"], [5, 6, 7]
    ours = load(models[model], num_rows=3, strength=strength, guidance_scale=guidance_scale, composite=False)
    painted = inpaint(ours, images, masks, prompts=prompts, seeds=seeds)

    pipe = StableDiffusionInpaintPipeline.from_pretrained(models[model], safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=prompts,
        image=[Image.fromarray(image) for image in images],
        mask_image=[Image.fromarray(mask) for mask in masks],
        height=SIDE,
        width=SIDE,
        num_inference_steps=4,
        strength=strength,
        guidance_scale=guidance_scale,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images
    for result, reference in zip(painted, expected, strict=True):
        assert isinstance(result, np.ndarray)
        # One step of 8-bit rounding: diffusers encodes the pictures in one batch, we one by one.
        assert np.abs(result.astype(float) - reference * 255).max() <= 1.01


def test_a_whole_picture_with_four_channels_is_diffusers_image_to_image(
    models: dict[tuple[int, str], Path],
) -> None:
    """Same noise, same first step: with every pixel repainted nothing is blended in on the way."""
    images, _ = pictures(2)
    whole = [np.ones((SIDE, SIDE), dtype=bool)] * 2
    ours = load(models[4, "ddim"], num_rows=2, strength=0.75, guidance_scale=3.0)
    painted = inpaint(ours, images, whole, prompts=["a bird", "cat"], seeds=[5, 6])

    inpaint_pipe = StableDiffusionInpaintPipeline.from_pretrained(models[4, "ddim"], safety_checker=None)
    pipe = StableDiffusionImg2ImgPipeline(**inpaint_pipe.components, requires_safety_checker=False)
    # The pipeline's constructor sets clip_sample of the scheduler that it is given; the model's own has it.
    pipe.scheduler = DDIMScheduler.from_pretrained(models[4, "ddim"], subfolder="scheduler")
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=["a bird", "cat"],
        image=[Image.fromarray(image) for image in images],
        num_inference_steps=4,
        strength=0.75,
        guidance_scale=3.0,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (5, 6)],
        output_type="np",
    ).images
    for result, reference in zip(painted, expected, strict=True):
        assert isinstance(result, np.ndarray)
        assert np.abs(result.astype(float) - reference * 255).max() <= 1.01


def test_a_whole_picture_with_nine_channels_is_diffusers_inpainting_of_a_white_mask(
    models: dict[tuple[int, str], Path],
) -> None:
    """The UNet sees a blank masked picture; the source is only in the noised latent, as for image-to-image."""
    images, _ = pictures(2)
    whole = [np.ones((SIDE, SIDE), dtype=bool)] * 2
    ours = load(models[9, "ddim"], num_rows=2, strength=0.75, guidance_scale=3.0)
    painted = inpaint(ours, images, whole, prompts=["a bird", "cat"], seeds=[5, 6])
    pipe = StableDiffusionInpaintPipeline.from_pretrained(models[9, "ddim"], safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=["a bird", "cat"],
        image=[Image.fromarray(image) for image in images],
        mask_image=[Image.fromarray(mask) for mask in whole],
        height=SIDE,
        width=SIDE,
        num_inference_steps=4,
        strength=0.75,
        guidance_scale=3.0,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in (5, 6)],
        output_type="np",
    ).images
    for result, reference in zip(painted, expected, strict=True):
        assert isinstance(result, np.ndarray)
        assert np.abs(result.astype(float) - reference * 255).max() <= 1.01
    # Something of the source is left: another one gives another picture.
    other = inpaint(ours, images[::-1], whole, prompts=["a bird", "cat"], seeds=[5, 6])
    assert not same(painted[0], other[0])


def test_pixels_outside_the_mask_are_equal_to_the_bit(models: dict[tuple[int, str], Path]) -> None:
    images, masks = pictures(4, side=45)  # not the model's size: painted at 32 px and brought back
    painted = inpaint(load(models[9, "ddim"]), images, masks, prompts=["a bird"] * 4, seeds=[0, 1, 2, 3])
    for image, mask, result in zip(images, masks, painted, strict=True):
        assert isinstance(result, np.ndarray)
        assert np.array_equal(result[~mask], image[~mask])
        assert not np.array_equal(result[mask], image[mask])


def test_without_composite_the_autoencoder_changes_pixels_outside(
    models: dict[tuple[int, str], Path],
) -> None:
    images, masks = pictures(1)
    (result,) = inpaint(load(models[9, "ddim"], composite=False), images, masks, prompts=["a bird"], seeds=[0])
    assert isinstance(result, np.ndarray)
    assert not np.array_equal(result[~masks[0]], images[0][~masks[0]])


def test_a_picture_does_not_depend_on_its_companions(models: dict[tuple[int, str], Path]) -> None:
    images, masks = pictures(7)
    prompts, seeds = [f"bird {i}" for i in range(7)], list(range(7))
    model = load(models[9, "dpm"], num_rows=4)
    together = inpaint(model, images, masks, prompts=prompts, seeds=seeds)
    for i in (0, 5, 6):
        (alone,) = inpaint(
            model, images[i : i + 1], masks[i : i + 1], prompts=prompts[i : i + 1], seeds=seeds[i : i + 1]
        )
        assert same(together[i], alone)


def test_rows_at_different_steps_share_a_call(models: dict[tuple[int, str], Path]) -> None:
    images, masks = pictures(2)
    model = load(models[9, "dpm"])
    expected = inpaint(model, images, masks, prompts=["a", "b"], seeds=[1, 2])
    first = model.encode_row(Square(images[0], masks[0], prompt="a", seed=1))
    model.step([first])
    second = model.encode_row(Square(images[1], masks[1], prompt="b", seed=2))
    while not second.is_done:
        model.step([row for row in (second, first) if not row.is_done])
    for row, image, mask, picture in zip((first, second), images, masks, expected, strict=True):
        assert same(unsquash(model.decode(row.latent_1Chw), image, mask, composite=True), picture)


def test_the_seed_and_the_prompt_matter(models: dict[tuple[int, str], Path]) -> None:
    images, masks = pictures(1)
    model = load(models[9, "ddim"])

    def paint(prompt: str, seed: int) -> np.ndarray:
        (result,) = inpaint(model, images, masks, prompts=[prompt], seeds=[seed])
        assert isinstance(result, np.ndarray)
        return result

    assert np.array_equal(paint("a", 1), paint("a", 1))
    assert not np.array_equal(paint("a", 1), paint("a", 2))
    assert not np.array_equal(paint("a", 1), paint("zebra", 1))


def test_bad_rows_fail_alone(models: dict[tuple[int, str], Path]) -> None:
    images, masks = pictures(4)
    masks[1] = np.zeros_like(masks[1])
    masks[2] = np.zeros_like(masks[2])
    masks[2][1:4, 1:4] = True  # between the pixels that the latent mask takes
    prompts = ["a", "a", "a", "far too long for a text encoder that reads two dozen tokens at most"]
    results = inpaint(load(models[9, "ddim"]), images, masks, prompts=prompts, seeds=[0] * 4)
    assert isinstance(results[0], np.ndarray)
    assert "selects no pixel" in str(results[1])
    assert "no latent cell" in str(results[2])
    assert "reads at most 24" in str(results[3])
    assert all(isinstance(result, RowError) for result in results[1:])


def test_a_negative_prompt_that_is_too_long_is_refused_when_the_model_loads(
    models: dict[tuple[int, str], Path],
) -> None:
    with pytest.raises(ConfigError, match=r"inpainter\.negative_prompt: .*reads at most 24"):
        load(models[9, "ddim"], negative_prompt="ugly " * 30)


@pytest.mark.parametrize("stride", [4, 8])
def test_latent_mask_is_what_diffusers_interpolates(stride: int) -> None:
    mask_HW = np.random.default_rng(3).random((64, 64)) < 0.5
    tensor = torch.from_numpy(mask_HW.astype(np.float32))[None, None]
    expected = torch.nn.functional.interpolate(tensor, size=(64 // stride, 64 // stride))[0, 0].numpy() > 0.5
    assert np.array_equal(latent_mask(mask_HW, stride), expected)
    assert np.array_equal(latent_mask(mask_HW, stride), mask_HW[::stride, ::stride])


def test_a_small_blob_vanishes_from_the_latent_mask() -> None:
    mask_HW = np.zeros((64, 64), dtype=bool)
    mask_HW[9:12, 9:13] = True
    assert not latent_mask(mask_HW, 8).any()


def test_an_empty_folder_and_a_wrong_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json"):
        check_model_folder(tmp_path)
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        find_painter(InpainterConfig(model="/no/such/folder"))


def test_revision_changes_with_the_weights(models: dict[tuple[int, str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models[9, "ddim"], folder)
    before = model_revision(folder)
    assert before == model_revision(models[9, "ddim"])
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert model_revision(folder) != before
