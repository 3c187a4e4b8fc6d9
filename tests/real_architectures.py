"""The architectures of real Stable Diffusion models with random weights, at true size or narrowed for quick tests.

The values are those of the published config files (the originals are withdrawn; the ids are those of the copies):

- SD2_INPAINTING: sd2-community/stable-diffusion-2-inpainting, first stabilityai/stable-diffusion-2-inpainting. Its
  card speaks of the v-objective, but its scheduler, like that of the base model that it goes on from, is PNDM with
  prediction_type epsilon.
- SD2_768: sd2-community/stable-diffusion-2, text to image at 768 px, DDIM with prediction_type v_prediction.
- SD15: stable-diffusion-v1-5/stable-diffusion-v1-5, text to image, PNDM, with a safety checker.
- SD15_INPAINTING: stable-diffusion-v1-5/stable-diffusion-inpainting, first runwayml/stable-diffusion-inpainting, DDIM,
  with a safety checker.

What cannot be had without a download is replaced: weights by random ones, CLIP's vocabulary by single bytes.
"""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from tiny_pipelines import byte_tokenizer
from transformers import CLIPConfig, CLIPImageProcessor, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

_UNET = {
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
# Named `attention_head_dim`, these are numbers of heads: diffusers keeps the wrong name for the sake of old files.
_UNET_1 = {**_UNET, "attention_head_dim": 8, "cross_attention_dim": 768}
_UNET_2 = {
    **_UNET,
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "use_linear_projection": True,
}
_VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
_TEXT = {"bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 77, "pad_token_id": 1, "vocab_size": 49408}
# CLIP ViT-L/14
_TEXT_1 = {
    **_TEXT,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "projection_dim": 768,
}
# OpenCLIP ViT-H/14 without its last layer
_TEXT_2 = {
    **_TEXT,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 512,
}
_NOISE = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_SAFETY: dict[str, Any] = {
    "projection_dim": 768,
    "vision_config": {
        "hidden_act": "quick_gelu",
        "hidden_size": 1024,
        "image_size": 224,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
    },
}
# As published: its type is of a class that transformers no longer has.
PREPROCESSOR = {
    "crop_size": 224,
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": 224,
}


@dataclass(frozen=True)
class Architecture:
    """Config files of a model, by component."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]
    scheduler: str
    scheduler_config: dict[str, Any]
    pad_token: str
    safety_checker: dict[str, Any] | None = None


_PNDM = {**_NOISE, "skip_prk_steps": True}
_DDIM = {**_NOISE, "clip_sample": False}

SD2_INPAINTING = Architecture(
    unet={**_UNET_2, "in_channels": 9},
    vae=_VAE,
    text_encoder=_TEXT_2,
    scheduler="PNDMScheduler",
    scheduler_config={**_PNDM, "prediction_type": "epsilon"},
    pad_token="!",
)
SD2_768 = replace(
    SD2_INPAINTING,
    unet={**_UNET_2, "in_channels": 4, "sample_size": 96},
    vae={**_VAE, "sample_size": 768},
    scheduler="DDIMScheduler",
    scheduler_config={**_DDIM, "prediction_type": "v_prediction"},
)
SD15 = Architecture(
    unet={**_UNET_1, "in_channels": 4},
    vae=_VAE,
    text_encoder=_TEXT_1,
    scheduler="PNDMScheduler",
    scheduler_config=_PNDM,
    pad_token="<|endoftext|>",
    safety_checker=_SAFETY,
)
SD15_INPAINTING = replace(SD15, unet={**_UNET_1, "in_channels": 9}, scheduler="DDIMScheduler", scheduler_config=_DDIM)
ARCHITECTURES = {
    "sd2_inpainting": SD2_INPAINTING,
    "sd2_768": SD2_768,
    "sd15": SD15,
    "sd15_inpainting": SD15_INPAINTING,
}


def narrowed(model: Architecture, *, width_divisor: int = 10, sample_size: int = 8) -> Architecture:
    """The same model with a tenth of its channels, for pictures of `8 * sample_size` pixels.

    Blocks, layers of a block, kinds of attention, projections, norms, channels in and out, scheduler, prediction type
    and the limit of tokens stay; widths and heads go down with the divisor, text layers to two.
    """
    channels = [width // width_divisor for width in model.unet["block_out_channels"]]
    heads = model.unet["attention_head_dim"]
    text = model.text_encoder
    width = text["hidden_size"] // 16
    return replace(
        model,
        unet={
            **model.unet,
            "block_out_channels": channels,
            # One, two, four and four heads where there were 5, 10, 20 and 20; eight where there were eight.
            "attention_head_dim": [head // 5 for head in heads] if isinstance(heads, list) else heads,
            "cross_attention_dim": width,
            "sample_size": sample_size,
        },
        # Not by the divisor: 32 groups need 32 channels.
        vae={**model.vae, "block_out_channels": [width // 4 for width in model.vae["block_out_channels"]]},
        text_encoder={
            **text,
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
        },
        safety_checker=None if model.safety_checker is None else SMALL_CHECKER,
    )


SMALL_CHECKER: dict[str, Any] = {
    "projection_dim": 16,
    "vision_config": {
        **_SAFETY["vision_config"],
        "hidden_size": 32,
        "image_size": 32,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    },
}


def save_architecture(
    model: Architecture, folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any
) -> Path:
    """A model's folder in Hugging Face layout, with random weights.

    Args:
        model: What to build.
        folder: Where.
        seed: Of the weights.
        dtype: Of the weights on the disk.
        options: Of `save_pretrained`, such as `variant` or `max_shard_size`.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = {name: None if part is None else part.to(dtype) for name, part in build_parts(model).items()}
    max_length = model.text_encoder["max_position_embeddings"]
    kind = StableDiffusionInpaintPipeline if model.unet["in_channels"] == 9 else StableDiffusionPipeline
    has_checker = model.safety_checker is not None
    pipe = kind(
        **parts,
        tokenizer=byte_tokenizer(max_length, pad_token=model.pad_token),
        scheduler=getattr(diffusers, model.scheduler).from_config(model.scheduler_config),
        feature_extractor=CLIPImageProcessor() if has_checker else None,
        requires_safety_checker=has_checker,
    )
    pipe.save_pretrained(folder, safe_serialization=True, **options)
    _write_tokenizer(folder / "tokenizer", pipe.tokenizer, model.pad_token)
    if model.safety_checker is not None:
        size = model.safety_checker["vision_config"]["image_size"]
        processor = {**PREPROCESSOR, "size": size, "crop_size": size}
        (folder / "feature_extractor" / "preprocessor_config.json").write_text(json.dumps(processor))
        edit_json(folder / "model_index.json", feature_extractor=["transformers", "CLIPFeatureExtractor"])
    return folder


def build_parts(model: Architecture) -> dict[str, Any]:
    """A model's networks, by component."""
    return {
        "vae": AutoencoderKL(**model.vae),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**model.text_encoder)),
        "unet": UNet2DConditionModel(**model.unet),
        "safety_checker": None if model.safety_checker is None else _checker(model.safety_checker),
    }


def set_threshold(folder: Path, cosine: float) -> Path:
    """Makes the safety checker of a folder block what has a higher cosine to any concept: at -2 all, at 2 nothing."""
    checker = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker")
    torch.nn.init.constant_(checker.concept_embeds_weights, cosine)
    torch.nn.init.constant_(checker.special_care_embeds_weights, 2.0)
    checker.save_pretrained(folder / "safety_checker", safe_serialization=True)
    return folder


def highest_cosine(folder: Path, image_HWC: np.ndarray) -> float:
    """A picture's highest cosine to any concept of a folder's safety checker, by its parts alone."""
    checker = StableDiffusionSafetyChecker.from_pretrained(folder / "safety_checker")
    processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
    pixels = processor(Image.fromarray(image_HWC), return_tensors="pt").pixel_values
    with torch.inference_mode():
        embedding_1D = checker.visual_projection(checker.vision_model(pixels)[1])
    return float(torch.nn.functional.cosine_similarity(embedding_1D, checker.concept_embeds).max())


def edit_json(path: Path, **changes: Any) -> None:
    """Changes fields of a JSON file; None takes one out."""
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def _write_tokenizer(folder: Path, tokenizer: CLIPTokenizer, pad_token: str) -> None:
    """The tokenizer in the files that the models are published with, which are older than tokenizer.json."""
    shutil.rmtree(folder)
    folder.mkdir()
    start, end = (
        {"content": name, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
        for name in ("<|startoftext|>", "<|endoftext|>")
    )
    tokens = {"bos_token": start, "eos_token": end, "unk_token": end}
    config = {name: {"__type": "AddedToken", **token} for name, token in tokens.items()} | {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": tokenizer.model_max_length,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "CLIPTokenizer",
    }
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    # Version 2 pads with "!", which only this file says.
    (folder / "special_tokens_map.json").write_text(json.dumps({**tokens, "pad_token": pad_token}))


def _checker(config: dict[str, Any]) -> StableDiffusionSafetyChecker:
    checker = StableDiffusionSafetyChecker(CLIPConfig(**config))
    # All ones, as they are made, would be one direction for every concept.
    torch.nn.init.normal_(checker.concept_embeds)
    torch.nn.init.normal_(checker.special_care_embeds)
    return checker
