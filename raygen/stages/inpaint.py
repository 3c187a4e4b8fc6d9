"""The inpainter's stage: repaint masks and prompts in, generated pictures out."""

# B rows of the batch

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from raygen.errors import ResourceError, RowError
from raygen.images import encode_image
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from raygen.stages.pictures import decode_masks, decode_pictures
from raygen.stages.spec import Batch, fail_row, fill_slots, object_column, ok_rows, with_own_status

logger = logging.getLogger(__name__)


class InpaintStage:
    """Generates each row's picture.

    Args:
        inpainter: Fields of `InpainterConfig`.
        num_rows: Rows of every UNet call.
        device: "cpu" or "cuda".

    Raises:
        ResourceError: The device ran out of memory, and the config does not allow fewer rows, or one is too many.
    """

    reads: ClassVar = frozenset({"key", "image_id", "image_png", "repaint_png", "prompt", "seed", "status", "error"})
    writes: ClassVar = frozenset({"generated_png", "model_id", "model_revision", "unet_rows"})

    def __init__(self, *, inpainter: Mapping[str, Any], num_rows: int, device: str) -> None:
        self._config = InpainterConfig.model_validate(inpainter)
        self._inpainter = StableDiffusionInpainter(self._config, num_rows, device)

    def __call__(self, batch: Batch) -> Batch:
        """The rows with generated pictures; a row that fails has none."""
        batch = with_own_status(batch)
        pictures = decode_pictures(batch, ok_rows(batch), "image_png")
        repaints = decode_masks(batch, ok_rows(batch), "repaint_png")
        num_rows = len(batch["status"])
        generated: list[bytes | None] = [None] * num_rows
        if rows := ok_rows(batch):
            slots = fill_slots(rows, num_rows)
            painted = self._paint(
                images=[pictures[i] for i in slots],
                repaints=[repaints[i] for i in slots],
                prompts=[str(batch["prompt"][i]) for i in slots],
                seeds=[int(batch["seed"][i]) for i in slots],
            )
            for i in rows:
                result = painted[i]
                if isinstance(result, RowError):
                    fail_row(batch, i, result)
                else:
                    generated[i] = encode_image(result, text=self._provenance(batch, i))
        return {
            **batch,
            "generated_png": object_column(generated),
            "model_id": object_column([self._inpainter.model_id] * num_rows),
            "model_revision": object_column([self._inpainter.model_revision] * num_rows),
            "unet_rows": np.full(num_rows, self._inpainter.num_rows),
        }

    def _paint(
        self, *, images: list[np.ndarray], repaints: list[np.ndarray], prompts: list[str], seeds: list[int]
    ) -> Sequence[np.ndarray | RowError]:
        wanted = self._inpainter.num_rows
        painted = self._try(wanted, images, repaints, prompts, seeds)
        if painted is not None:
            return painted
        fitting = self._largest_that_fits(images, repaints, prompts, seeds)
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

    def _try(
        self,
        num_rows: int,
        images: list[np.ndarray],
        repaints: list[np.ndarray],
        prompts: list[str],
        seeds: list[int],
    ) -> list[np.ndarray | RowError] | None:
        """The pictures, or None when memory does not hold that many rows per UNet call.

        None, not the error: its traceback would keep the tensors that filled the memory.
        """
        self._inpainter.num_rows = num_rows
        try:
            return inpaint(self._inpainter, images, repaints, prompts=prompts, seeds=seeds)
        except torch.OutOfMemoryError:
            return None

    def _largest_that_fits(
        self, images: list[np.ndarray], repaints: list[np.ndarray], prompts: list[str], seeds: list[int]
    ) -> int:
        """Most rows per UNet call that fit in memory, fewer than now, found by bisection; 0 if one is too many."""
        fits, too_many = 0, self._inpainter.num_rows
        while too_many - fits > 1:
            num = (fits + too_many) // 2
            if self._inpainter.device == "cuda":
                torch.cuda.empty_cache()
            if self._try(num, images[:num], repaints[:num], prompts[:num], seeds[:num]) is None:
                too_many = num
            else:
                fits = num
        return fits

    def _provenance(self, batch: Batch, row: int) -> dict[str, str]:
        """Text chunks that say that and how a picture was made."""
        return {
            "synthetic": "true",
            "model": f"{self._inpainter.model_id}@{self._inpainter.model_revision}",
            "prompt": str(batch["prompt"][row]),
            "seed": str(int(batch["seed"][row])),
            "source": str(batch["image_id"][row]),
        }
