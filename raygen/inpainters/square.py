"""A picture of any size at the model's square and back, as the batch pool paints it; no model here.

The endpoint paints pictures in their own size instead (`frame.py`).
"""

# H height and W width of the picture, C colour channels

import numpy as np

from raygen.errors import RowError
from raygen.images import resize_image, resize_mask


def squash(
    image_HWC: np.ndarray, repaint_HW: np.ndarray, *, side_px: int, stride_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """A picture and its repaint mask at the model's square.

    Args:
        image_HWC: (H, W, 3) uint8 RGB.
        repaint_HW: (H, W) bool.
        side_px: Side of the square.
        stride_px: Pixels of one latent cell.

    Raises:
        RowError: The mask selects nothing, or nothing that the model would see.
    """
    if repaint_HW.shape != image_HWC.shape[:2]:
        raise RowError(f"the mask is {repaint_HW.shape}, the picture {image_HWC.shape[:2]}")
    if not repaint_HW.any():
        raise RowError("the repaint mask selects no pixel")
    mask_HW = resize_mask(repaint_HW, height=side_px, width=side_px)
    if not latent_mask(mask_HW, stride_px).any():
        raise RowError(f"the repaint mask selects no latent cell (one pixel in {stride_px} x {stride_px}); dilate it")
    return resize_image(image_HWC, height=side_px, width=side_px), mask_HW


def unsquash(painted_HWC: np.ndarray, image_HWC: np.ndarray, repaint_HW: np.ndarray, *, composite: bool) -> np.ndarray:
    """A painted square in its picture's own size, (H, W, 3) uint8; with the picture's pixels outside the mask."""
    height, width = repaint_HW.shape
    painted_HWC = resize_image(painted_HWC, height=height, width=width)
    return np.where(repaint_HW[..., None], painted_HWC, image_HWC) if composite else painted_HWC


def latent_mask(mask_HW: np.ndarray, stride_px: int) -> np.ndarray:
    """The mask that the UNet sees: every `stride_px`-th pixel, as nearest-neighbour interpolation takes it."""
    return mask_HW[::stride_px, ::stride_px]
