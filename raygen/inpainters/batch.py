"""Many pictures through a step-wise inpainter, call by call: what the pool does with a batch."""

# H height and W width of the picture, C colour channels

from collections.abc import Sequence

import numpy as np

from raygen.errors import RowError
from raygen.inpainters.row import InpaintRow
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter


def inpaint(
    inpainter: StableDiffusionInpainter,
    images: Sequence[np.ndarray],
    repaints: Sequence[np.ndarray],
    *,
    prompts: Sequence[str],
    seeds: Sequence[int],
) -> list[np.ndarray | RowError]:
    """Painted pictures, or each row's error, in order.

    Args:
        inpainter: The loaded model.
        images: Pictures, (H, W, 3) uint8 RGB each, of any sizes.
        repaints: Repaint masks, (H, W) bool each.
        prompts: One per picture.
        seeds: One per picture.
    """
    results: list[np.ndarray | RowError] = []
    for start in range(0, len(images), inpainter.num_rows):
        call = slice(start, start + inpainter.num_rows)
        encoded = [
            _encoded(inpainter, *row)
            for row in zip(images[call], repaints[call], prompts[call], seeds[call], strict=True)
        ]
        slots = [None if isinstance(row, RowError) else row for row in encoded]
        while any(row is not None and not row.is_done for row in slots):
            inpainter.step(slots)
        results += [
            row if isinstance(row, RowError) else _decoded(inpainter, row, image_HWC, repaint_HW)
            for row, image_HWC, repaint_HW in zip(encoded, images[call], repaints[call], strict=True)
        ]
    return results


def _encoded(
    inpainter: StableDiffusionInpainter, image_HWC: np.ndarray, repaint_HW: np.ndarray, prompt: str, seed: int
) -> InpaintRow | RowError:
    try:
        return inpainter.encode_row(image_HWC, repaint_HW, prompt=prompt, seed=seed)
    except RowError as error:
        return error


def _decoded(
    inpainter: StableDiffusionInpainter, row: InpaintRow, image_HWC: np.ndarray, repaint_HW: np.ndarray
) -> np.ndarray | RowError:
    try:
        return inpainter.decode_row(row, image_HWC, repaint_HW)
    except RowError as error:
        return error
