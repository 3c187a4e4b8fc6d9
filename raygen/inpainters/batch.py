"""Many pictures through a step-wise inpainter, call by call: what the pool does with a batch.

And what it does when a GPU's memory does not hold the configured rows.
"""

# H height and W width of the picture, C colour channels

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from raygen.endpoint.edits import LearnedToken
from raygen.errors import ResourceError, RowError, or_row_error
from raygen.inpainters import InpainterConfig
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
    results: list[np.ndarray | RowError] = []
    for start in range(0, len(images), inpainter.num_rows):
        call = slice(start, start + inpainter.num_rows)
        rows = zip(images[call], repaints[call], prompts[call], seeds[call], strict=True)
        encoded = [
            or_row_error(inpainter.encode_row, image_HWC, repaint_HW, prompt=prompt, seed=seed)
            for image_HWC, repaint_HW, prompt, seed in rows
        ]
        slots = [None if isinstance(row, RowError) else row for row in encoded]
        while any(row is not None and not row.is_done for row in slots):
            inpainter.step(slots)
        results += [
            row if isinstance(row, RowError) else or_row_error(inpainter.decode_row, row, image_HWC, repaint_HW)
            for row, image_HWC, repaint_HW in zip(encoded, images[call], repaints[call], strict=True)
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
    """

    def __init__(
        self, config: InpainterConfig, num_rows: int, device: str, learned: Mapping[str, LearnedToken] | None = None
    ) -> None:
        self._config = config
        self._inpainter = StableDiffusionInpainter(config, num_rows, device, learned or {})
        self.model_id, self.model_revision = self._inpainter.model_id, self._inpainter.model_revision

    @property
    def num_rows(self) -> int:
        """Rows of every UNet call; fewer than configured once memory ran out."""
        return self._inpainter.num_rows

    def inpaint(
        self,
        images: Sequence[np.ndarray],
        repaints: Sequence[np.ndarray],
        *,
        prompts: Sequence[str],
        seeds: Sequence[int],
    ) -> list[np.ndarray | RowError]:
        """Painted pictures, or each row's error, in order; see `inpaint`.

        Raises:
            ResourceError: Memory does not hold a call, and the config does not allow fewer rows, or one is too many.
        """
        wanted = self._inpainter.num_rows

        def attempt(num_rows: int, num: int) -> list[np.ndarray | RowError] | None:
            """The first pictures, or None when memory does not hold that many rows per UNet call.

            None, not the error: its traceback would keep the tensors that filled the memory.
            """
            self._inpainter.num_rows = num_rows
            try:
                return inpaint(self._inpainter, images[:num], repaints[:num], prompts=prompts[:num], seeds=seeds[:num])
            except torch.OutOfMemoryError:
                return None

        painted = attempt(wanted, len(images))
        if painted is not None:
            return painted
        fitting = self._largest(lambda num: attempt(num, num) is not None)
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
        return inpaint(self._inpainter, images, repaints, prompts=prompts, seeds=seeds)

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
