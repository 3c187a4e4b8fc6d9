"""Half precision: which part runs in what, and that every sampler keeps it."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from real_architectures import SD2_INPAINTING, SD15, edit_json, narrowed, save_architecture

from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.row import Sampling
from raygen.inpainters.schedulers import SCHEDULERS
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter

SIDE = 64


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("models")
    wanted = {4: SD15, 9: SD2_INPAINTING}
    return {channels: save_architecture(narrowed(model), root / str(channels)) for channels, model in wanted.items()}


@pytest.fixture(scope="module")
def half(models: dict[int, Path]) -> StableDiffusionInpainter:
    return load(models[9], "bfloat16")


def load(folder: Path, dtype: str) -> StableDiffusionInpainter:
    config = InpainterConfig.model_validate({"model": str(folder), "dtype": dtype, "num_inference_steps": 3})
    return StableDiffusionInpainter(config, 1, "cpu")


def picture() -> tuple[np.ndarray, np.ndarray]:
    mask_HW = np.zeros((SIDE, SIDE), dtype=bool)
    mask_HW[16:48, 8:40] = True
    return np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8), mask_HW


@pytest.mark.parametrize(("channels", "dtype", "limit"), [(4, "bfloat16", 4), (9, "float16", 0.5)])
def test_half_precision_paints_nearly_the_same(
    models: dict[int, Path], channels: int, dtype: str, limit: float
) -> None:
    image_HWC, mask_HW = picture()
    exact, coarse = (
        inpaint(load(models[channels], name), [image_HWC], [mask_HW], prompts=["a bird"], seeds=[1])[0]
        for name in ("float32", dtype)
    )
    assert isinstance(exact, np.ndarray)
    assert isinstance(coarse, np.ndarray)
    assert np.array_equal(coarse[~mask_HW], image_HWC[~mask_HW])
    # About three times what was measured: 1.4 of 255 with 8 significant bits, 0.13 with 11; another seed differs by 50.
    assert np.abs(coarse.astype(float) - exact)[mask_HW].mean() < limit


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_sampler_keeps_half_precision(half: StableDiffusionInpainter, scheduler: str) -> None:
    image_HWC, mask_HW = picture()
    embedding = half.prompts.encode(half.prompts.tokenize("a bird"))
    row = half.start_row(
        half.encode_picture(image_HWC, mask_HW, strength=1.0),
        Sampling(num_inference_steps=4, guidance_scale=3.0, scheduler=scheduler),
        prompt_embedding_1TD=embedding,
        negative_embedding_1TD=embedding,
        seed=0,
    )
    while not row.is_done:
        half.step([row])
        assert row.latent_1Chw.dtype == torch.bfloat16
    assert half.decode(row.latent_1Chw).shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    ("dtype", "says", "expected"),
    [
        ("float16", None, torch.float32),  # what diffusers takes a config to mean that says nothing
        ("float16", True, torch.float32),
        ("float16", False, torch.float16),
        ("bfloat16", True, torch.bfloat16),  # as wide a range as float32: nothing overflows
        ("float32", True, torch.float32),
    ],
)
def test_the_autoencoder_is_as_safe_as_its_config_wants(
    models: dict[int, Path], dtype: str, says: bool | None, expected: torch.dtype
) -> None:
    path = models[9] / "vae" / "config.json"
    before = path.read_text()
    edit_json(path, force_upcast=says)
    try:
        model = load(models[9], dtype)
    finally:
        path.write_text(before)
    assert model.pipe.vae.dtype == expected
    assert model.pipe.unet.dtype == model.pipe.text_encoder.dtype == getattr(torch, dtype)


def test_float16_on_a_cpu_is_warned_of(models: dict[int, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="raygen"):
        load(models[9], "bfloat16")
        assert not caplog.records
        load(models[9], "float16")
    assert "float16 on a CPU" in caplog.text


def test_attention_is_not_sliced(half: StableDiffusionInpainter) -> None:
    kinds = {type(processor).__name__ for processor in half.pipe.unet.attn_processors.values()}
    assert kinds == {"AttnProcessor2_0"}
