"""Repaints scenes with the tiny model, through the very pipeline that users load."""

# N images, H height, W width, C colour channels

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from raygen.seeding import row_seed

NUM_INFERENCE_STEPS = 12
GUIDANCE_SCALE = 3.0
BATCH_SIZE = 32


def repaint(
    pipeline: StableDiffusionInpaintPipeline,
    images_NHWC: np.ndarray,
    masks_NHW: np.ndarray,
    prompts: Sequence[str],
    *,
    seed: int,
) -> np.ndarray:
    """Pictures whose masked part is drawn anew, (N, H, W, 3) uint8; outside the masks every byte is kept."""
    painted = []
    for start in range(0, len(images_NHWC), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        images = [Image.fromarray(image_HWC) for image_HWC in images_NHWC[part]]
        # One generator per image: with one for the batch, a picture would depend on its neighbours.
        generators = [torch.Generator().manual_seed(row_seed(seed, f"repaint/{start + i}")) for i in range(len(images))]
        result = pipeline(
            prompt=list(prompts[part]),
            image=images,
            mask_image=[Image.fromarray(mask_HW.astype(np.uint8) * 255) for mask_HW in masks_NHW[part]],
            height=images_NHWC.shape[1],
            width=images_NHWC.shape[2],
            num_inference_steps=NUM_INFERENCE_STEPS,
            guidance_scale=GUIDANCE_SCALE,
            strength=1.0,
            generator=generators,
            output_type="np",
        )
        painted.append((result.images * 255).round().astype(np.uint8))
    return np.where(masks_NHW[..., None], np.concatenate(painted), images_NHWC)
