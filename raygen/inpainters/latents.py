"""Pictures to latents, as painting and textual inversion both need them."""

# H height and W width of the picture, C channels, h and w of the latent

from typing import Any

import numpy as np
import torch

from raygen.inpainters.row import EncodedPicture


def encode_picture(
    vae: Any,
    canvas_HWC: np.ndarray,
    repaint_HW: np.ndarray,
    *,
    stride_px: int,
    with_image: bool,
    with_masked: bool,
    dtype: torch.dtype,
) -> EncodedPicture:
    """A canvas in latent space.

    Args:
        vae: The autoencoder; its device is the latents'.
        canvas_HWC: (H, W, 3) uint8 RGB, sides multiples of `stride_px`.
        repaint_HW: True = paint anew, (H, W) bool.
        stride_px: Pixels of one latent cell.
        with_image: Whether the picture's latent is needed.
        with_masked: Whether that of the picture without its repaint region is needed (9-channel models).
        dtype: Numbers of the UNet; the autoencoder may have others.
    """
    pixels = torch.from_numpy(np.array(canvas_HWC))
    image_1CHW = (pixels.permute(2, 0, 1)[None].float() / 255 * 2 - 1).to(vae.device)
    mask_11HW = torch.from_numpy(repaint_HW.astype(np.float32))[None, None].to(vae.device)
    size = (canvas_HWC.shape[0] // stride_px, canvas_HWC.shape[1] // stride_px)
    return EncodedPicture(
        image=_posterior(vae, image_1CHW) if with_image else None,
        masked=_posterior(vae, image_1CHW * (mask_11HW < 0.5)) if with_masked else None,
        mask_11hw=torch.nn.functional.interpolate(mask_11HW, size=size).to(dtype),
    )


def draw_latent(vae: Any, posterior: Any, generator: torch.Generator, *, dtype: torch.dtype) -> torch.Tensor:
    """A latent of a posterior, (1, C, h, w), scaled and in the numbers of the UNet."""
    latent: torch.Tensor = posterior.sample(generator) * vae.config.scaling_factor
    return latent.to(dtype)


def _posterior(vae: Any, image_1CHW: torch.Tensor) -> Any:
    return vae.encode(image_1CHW.to(vae.dtype)).latent_dist
