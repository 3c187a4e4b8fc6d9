"""Many pictures through a step-wise inpainter, call by call: what the pool does with a batch.

And what it does when a GPU's memory does not hold the configured rows.
"""

# H height and W width of the picture, C colour channels

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from raygen.endpoint.edits import LearnedToken
from raygen.errors import ResourceError, RowError, or_row_error
from raygen.inpainters import InpainterConfig
from raygen.inpainters.row import InpaintRow
from raygen.inpainters.square import Square, paint_pictures
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter

logger = logging.getLogger(__name__)


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
    return paint_pictures(
        partial(paint, inpainter),
        images,
        repaints,
        prompts=prompts,
        seeds=seeds,
        side_px=inpainter.resolution_px,
        stride_px=inpainter.stride_px,
        composite=inpainter.config.composite,
    )


def paint(inpainter: StableDiffusionInpainter, squares: Sequence[Square | None]) -> list[np.ndarray | RowError | None]:
    """Squares painted call by call, in order; see `PaintSquares`.

    Args:
        inpainter: The loaded model.
        squares: What to paint, at the model's square; None leaves a slot of a call empty.
    """
    results: list[np.ndarray | RowError | None] = []
    for start in range(0, len(squares), inpainter.num_rows):
        call = [
            None if square is None else or_row_error(inpainter.encode_row, square)
            for square in squares[start : start + inpainter.num_rows]
        ]
        slots = [row if isinstance(row, InpaintRow) else None for row in call]
        while any(row is not None and not row.is_done for row in slots):
            inpainter.step(slots)
        results += [
            or_row_error(inpainter.decode, row.latent_1Chw) if isinstance(row, InpaintRow) else row for row in call
        ]
    return results


class BatchInpainter:
    """The model of a pool's actor, which knows how many rows a call may have.

    Args:
        config: The model and its sampling.
        num_rows: Rows of every UNet call.
        device: "cpu" or "cuda".
        learned: Learned tokens by name.

    Attributes:
        model_id: What the config calls the model.
        model_revision: Hash of a local folder, or the revision of a hub id.
        side_px: Side of the square that is painted.
        stride_px: Pixels of one latent cell.
    """

    def __init__(
        self, config: InpainterConfig, num_rows: int, device: str, learned: Mapping[str, LearnedToken] | None = None
    ) -> None:
        self._config = config
        self._inpainter = StableDiffusionInpainter(config, num_rows, device, learned or {})
        self.model_id, self.model_revision = self._inpainter.model_id, self._inpainter.model_revision
        self.side_px, self.stride_px = self._inpainter.resolution_px, self._inpainter.stride_px

    @property
    def num_rows(self) -> int:
        """Rows of every UNet call; fewer than configured once memory ran out."""
        return self._inpainter.num_rows

    def paint(self, squares: Sequence[Square | None]) -> list[np.ndarray | RowError | None]:
        """Painted squares, or each one's error, in order; see `paint`.

        Raises:
            ResourceError: Memory does not hold a call, and the config does not allow fewer rows, or one is too many.
        """
        wanted = self._inpainter.num_rows
        there = [square for square in squares if square is not None]

        def attempt(num_rows: int, tried: Sequence[Square | None]) -> list[np.ndarray | RowError | None] | None:
            """The painted squares, or None when memory does not hold that many rows per UNet call.

            None, not the error: its traceback would keep the tensors that filled the memory.
            """
            self._inpainter.num_rows = num_rows
            try:
                return paint(self._inpainter, tried)
            except torch.OutOfMemoryError:
                return None

        painted = attempt(wanted, squares)
        if painted is not None:
            return painted
        fitting = self._largest(lambda num: attempt(num, there[:num]) is not None)
        if fitting == 0:
            raise ResourceError(
                f"the inpainter ran out of memory on {self._inpainter.device} even with one row per UNet call; "
                "take inpainter.dtype=float16, a smaller inpainter.resolution_px, or a larger GPU"
            )
        if self._config.on_out_of_memory == "stop":
            raise ResourceError(
                f"the inpainter ran out of memory on {self._inpainter.device} with {wanted} rows per UNet call; "
                f"{fitting} fit. Set pools.inpainter.batch_size={fitting} (and unit_rows to a multiple of it) with "
                "--fresh or another --out, or go on here with inpainter.on_out_of_memory=reduce"
            )
        logger.warning("out of memory with %d rows per UNet call; going on with %d", wanted, fitting)
        self._inpainter.num_rows = fitting
        return paint(self._inpainter, squares)

    def _largest(self, fits: Callable[[int], bool]) -> int:
        """Most rows per UNet call that fit in memory, fewer than now, found by bisection; 0 if one is too many."""
        most, too_many = 0, self._inpainter.num_rows
        while too_many - most > 1:
            num = (most + too_many) // 2
            if self._inpainter.device == "cuda":
                torch.cuda.empty_cache()
            if fits(num):
                most = num
            else:
                too_many = num
        return most
