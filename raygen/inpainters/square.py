"""A picture of any size at the model's square and back, as the batch pool paints it; no model here.

The endpoint paints pictures in their own size instead (`frame.py`).
"""

# H height and W width of the picture, C colour channels

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from raygen.errors import RowError, or_row_error
from raygen.images import resize_image, resize_mask


@dataclass(frozen=True, slots=True)
class Square:
    """What is to be painted of one row, at the model's square.

    Attributes:
        image_HWC: (H, W, 3) uint8 RGB.
        repaint_HW: True = paint anew, (H, W) bool.
        prompt: What to paint.
        seed: Seed of its own generator.
    """

    image_HWC: np.ndarray
    repaint_HW: np.ndarray
    prompt: str
    seed: int


# Paints squares, in order: each one's picture in the same size, or its error; None where there is no square.
PaintSquares = Callable[[Sequence[Square | None]], list[np.ndarray | RowError | None]]


def paint_pictures(
    paint: PaintSquares,
    images: Sequence[np.ndarray],
    repaints: Sequence[np.ndarray],
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
    side_px: int,
    stride_px: int,
    composite: bool,
) -> list[np.ndarray | RowError]:
    """Painted pictures in their own sizes, or each one's error, in order.

    Args:
        paint: The model.
        images: Pictures, (H, W, 3) uint8 RGB each, of any sizes.
        repaints: Repaint masks, (H, W) bool each.
        prompts: One per picture.
        seeds: One per picture.
        side_px: Side of the model's square.
        stride_px: Pixels of one latent cell.
        composite: Keep the pixels outside of the masks.
    """
    squares = [
        or_row_error(as_square, *row, side_px=side_px, stride_px=stride_px)
        for row in zip(images, repaints, prompts, seeds, strict=True)
    ]
    painted = paint([None if isinstance(square, RowError) else square for square in squares])
    results: list[np.ndarray | RowError] = []
    for square, picture, image_HWC, repaint_HW in zip(squares, painted, images, repaints, strict=True):
        found = square if isinstance(square, RowError) else picture
        assert found is not None
        if not isinstance(found, RowError):
            found = unsquash(found, image_HWC, repaint_HW, composite=composite)
        results.append(found)
    return results


def as_square(
    image_HWC: np.ndarray, repaint_HW: np.ndarray, prompt: str, seed: int, *, side_px: int, stride_px: int
) -> Square:
    """A row at the model's square; see `squash`."""
    canvas_HWC, canvas_repaint_HW = squash(image_HWC, repaint_HW, side_px=side_px, stride_px=stride_px)
    return Square(canvas_HWC, canvas_repaint_HW, prompt, seed)


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
