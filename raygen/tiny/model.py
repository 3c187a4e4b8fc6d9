"""The tiny model's parts, and the folder they are shipped in: a StableDiffusionInpaintPipeline in half precision."""

import copy
import json
import os
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from raygen.tiny.tokenizer import MAX_TOKENS

TEXT_WIDTH = 64
# The noise schedule of Stable Diffusion, with v-prediction (Salimans & Ho 2022, arXiv 2202.00512).
NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}


def build_unet() -> UNet2DConditionModel:
    """Untrained denoiser of 4.75 M parameters; 9 channels in: noisy latent (4), mask (1), kept picture's latent (4).

    Most of the parameters sit at 8 x 8 and 4 x 4 cells, where a convolution costs little.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=9,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(48, 80, 128),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Untrained text encoder of two layers."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=TEXT_WIDTH,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    encoder = CLIPTextModel(config)
    for module in encoder.modules():
        if isinstance(module, torch.nn.Embedding):
            # CLIP's own deviation of 0.02 lets words differ too little for so short a training.
            torch.nn.init.normal_(module.weight, std=0.5)
    return encoder


def build_training_scheduler() -> DDPMScheduler:
    """Adds noise and gives the velocity to predict."""
    return DDPMScheduler(**NOISE)


def build_sampling_scheduler() -> DPMSolverMultistepScheduler:
    """The scheduler in the model's folder, for 12 to 15 steps; "trailing" starts at the noisiest time step."""
    return DPMSolverMultistepScheduler(**NOISE, solver_order=2, timestep_spacing="trailing", steps_offset=1)


def save_model(
    folder: Path,
    *,
    autoencoder: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Writes the pipeline in half precision; other files that the folder holds stay."""
    pipeline = StableDiffusionInpaintPipeline(
        vae=copy.deepcopy(autoencoder).cpu().half(),
        text_encoder=copy.deepcopy(text_encoder).cpu().half(),
        tokenizer=tokenizer,
        unet=copy.deepcopy(unet).cpu().half(),
        scheduler=build_sampling_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary, safe_serialization=True)
    put_in_place(temporary, folder, last="model_index.json")


def load_model(folder: Path, *, device: str) -> StableDiffusionInpaintPipeline:
    """The shipped pipeline, run in single precision."""
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.to(memory_format=torch.channels_last)
    pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline.to(device)


def put_in_place(made: Path, folder: Path, *, last: str) -> None:
    """Moves a saved model's files into their folder, `last` at the end: a folder without it is not a model.

    Takes out where on its maker's disk a part was loaded from: diffusers writes that into its config.
    """
    for path in made.rglob("config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    for part in sorted(made.iterdir(), key=lambda path: path.name == last):
        target = folder / part.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(part, target)
    made.rmdir()
