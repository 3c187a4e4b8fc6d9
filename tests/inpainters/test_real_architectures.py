"""Models built as Stable Diffusion 1.5 and 2 are: loaded from their layouts, and sampled as diffusers samples them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image
from real_architectures import (
    ARCHITECTURES,
    SD2_INPAINTING,
    SD15_INPAINTING,
    build_parts,
    edit_json,
    narrowed,
    save_architecture,
)

from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.model_folder import check_model_folder, model_facts
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter

SIDE = 64
PROMPTS, SEEDS = ["a photo of a landbird", "cat"], [5, 6]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: save_architecture(narrowed(model), root / name) for name, model in ARCHITECTURES.items()}


def pictures() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8) for _ in SEEDS]
    masks = [np.zeros((SIDE, SIDE), dtype=bool) for _ in SEEDS]
    masks[0][8:40, 16:48] = True
    masks[1][24:, :32] = True
    return images, masks


def paint(folder: Path, **options: object) -> list[np.ndarray]:
    config = InpainterConfig.model_validate({"model": str(folder), "num_inference_steps": 4, **options})
    painted = inpaint(StableDiffusionInpainter(config, 2, "cpu"), *pictures(), prompts=PROMPTS, seeds=SEEDS)
    results = [result for result in painted if isinstance(result, np.ndarray)]
    assert len(results) == len(SEEDS), painted
    return results


@pytest.mark.parametrize(
    ("name", "part", "file_mb"),
    [
        ("sd15_inpainting", "unet", 1720),
        ("sd15_inpainting", "vae", 167),
        ("sd15_inpainting", "safety_checker", 608),
        ("sd2_inpainting", "unet", 1730),
        ("sd2_inpainting", "text_encoder", 681),
    ],
)
def test_the_true_size_is_that_of_the_published_files(name: str, part: str, file_mb: int) -> None:
    """The hub lists the weights in float16 as so many megabytes, rounded to three digits."""
    with torch.device("meta"):
        network = build_parts(ARCHITECTURES[name])[part]
    num_bytes = sum(2 * weights.numel() for weights in network.parameters())
    assert num_bytes == pytest.approx(file_mb * 1e6, rel=0.003)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_narrowed_model_differs_in_widths_alone(name: str) -> None:
    full, small = ARCHITECTURES[name], narrowed(ARCHITECTURES[name])
    changed = {
        part: {key for key in getattr(full, part) if getattr(full, part)[key] != getattr(small, part)[key]}
        for part in ("unet", "vae", "text_encoder", "scheduler_config")
    }
    heads = set() if name.startswith("sd15") else {"attention_head_dim"}
    assert changed == {
        "unet": {"block_out_channels", "cross_attention_dim", "sample_size"} | heads,
        "vae": {"block_out_channels"},
        "text_encoder": {"hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"},
        "scheduler_config": set(),
    }
    assert len(small.unet["block_out_channels"]) == len(full.unet["block_out_channels"])
    assert small.scheduler == full.scheduler
    assert small.pad_token == full.pad_token


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_same_pictures_as_the_diffusers_pipeline(models: dict[str, Path], name: str, strength: float) -> None:
    images, masks = pictures()
    painted = paint(models[name], strength=strength, guidance_scale=7.5, composite=False, safety_checker=False)
    pipe = StableDiffusionInpaintPipeline.from_pretrained(models[name], safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=PROMPTS,
        image=[Image.fromarray(image) for image in images],
        mask_image=[Image.fromarray(mask) for mask in masks],
        height=SIDE,
        width=SIDE,
        num_inference_steps=4,
        strength=strength,
        guidance_scale=7.5,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in SEEDS],
        output_type="np",
    ).images
    for result, reference in zip(painted, expected, strict=True):
        # One step of 8-bit rounding: diffusers encodes the pictures in one batch, we one by one.
        assert np.abs(result.astype(float) - reference * 255).max() <= 1.01


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_pixels_outside_the_mask_are_equal_to_the_bit(models: dict[str, Path], name: str) -> None:
    images, masks = pictures()
    for image_HWC, mask_HW, result_HWC in zip(images, masks, paint(models[name]), strict=True):
        assert np.array_equal(result_HWC[~mask_HW], image_HWC[~mask_HW])
        assert not np.array_equal(result_HWC[mask_HW], image_HWC[mask_HW])


def test_the_padding_of_version_two_is_read_from_its_special_tokens(models: dict[str, Path]) -> None:
    """Its tokenizer_config.json says another padding than it was trained with."""
    config = InpainterConfig(model=str(models["sd2_inpainting"]))
    tokenizer = StableDiffusionInpainter(config, 1, "cpu").pipe.tokenizer
    assert (tokenizer.pad_token, tokenizer.model_max_length) == ("!", 77)


def test_weights_of_a_variant_and_in_shards_paint_the_same(tmp_path: Path) -> None:
    model = narrowed(SD2_INPAINTING)
    plain = save_architecture(model, tmp_path / "plain", dtype=torch.float16)
    variant = save_architecture(model, tmp_path / "fp16", dtype=torch.float16, variant="fp16")
    shards = save_architecture(model, tmp_path / "shards", dtype=torch.float16, max_shard_size="8MB")
    assert (variant / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()
    assert (shards / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    check_model_folder(variant, variant="fp16")
    check_model_folder(shards)
    expected = paint(plain)
    assert np.array_equal(paint(variant, variant="fp16"), expected)
    assert np.array_equal(paint(shards), expected)


def test_the_size_of_a_first_release_is_mended_without_loading(tmp_path: Path) -> None:
    """Their configs say 32 for a model of 64 latents; what diffusers makes of it is the oracle."""
    folder = save_architecture(narrowed(SD15_INPAINTING), tmp_path / "model")
    edit_json(folder / "unet" / "config.json", sample_size=32, _diffusers_version="0.6.0.dev0")
    config = InpainterConfig(model=str(folder))
    with pytest.warns(FutureWarning, match="sample_size"):
        loaded = StableDiffusionInpainter(config, 1, "cpu")
    assert model_facts(config).resolution_px == loaded.resolution_px == 512
