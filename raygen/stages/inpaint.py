"""The inpainter's stage: repaint masks and prompts in, generated pictures out."""

from collections.abc import Mapping
from typing import Any, ClassVar

from raygen.errors import RowError
from raygen.images import encode_image
from raygen.inpainters import InpainterConfig
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter, inpaint
from raygen.stages.pictures import decode_masks, decode_pictures
from raygen.stages.spec import Batch, fail_row, object_column, ok_rows, with_own_status


class InpaintStage:
    """Generates each row's picture.

    Args:
        inpainter: Fields of `InpainterConfig`.
        num_rows: Rows of every UNet call.
        device: "cpu" or "cuda".
    """

    reads: ClassVar = frozenset({"key", "image_id", "image_png", "repaint_png", "prompt", "seed", "status", "error"})
    writes: ClassVar = frozenset({"generated_png", "model_id", "model_revision"})

    def __init__(self, *, inpainter: Mapping[str, Any], num_rows: int, device: str) -> None:
        self._inpainter = StableDiffusionInpainter(InpainterConfig.model_validate(inpainter), num_rows, device)

    def __call__(self, batch: Batch) -> Batch:
        """The unit with generated pictures; a row that fails has none."""
        batch = with_own_status(batch)
        pictures = decode_pictures(batch, ok_rows(batch), "image_png")
        repaints = decode_masks(batch, ok_rows(batch), "repaint_png")
        rows = ok_rows(batch)
        painted = inpaint(
            self._inpainter,
            [pictures[i] for i in rows],
            [repaints[i] for i in rows],
            prompts=[str(batch["prompt"][i]) for i in rows],
            seeds=[int(batch["seed"][i]) for i in rows],
        )
        generated: list[bytes | None] = [None] * len(batch["status"])
        for i, result in zip(rows, painted, strict=True):
            if isinstance(result, RowError):
                fail_row(batch, i, result)
            else:
                generated[i] = encode_image(result, text=self._provenance(batch, i))
        num_rows = len(batch["status"])
        return {
            **batch,
            "generated_png": object_column(generated),
            "model_id": object_column([self._inpainter.model_id] * num_rows),
            "model_revision": object_column([self._inpainter.model_revision] * num_rows),
        }

    def _provenance(self, batch: Batch, row: int) -> dict[str, str]:
        """Text chunks that say that and how a picture was made."""
        return {
            "synthetic": "true",
            "model": f"{self._inpainter.model_id}@{self._inpainter.model_revision}",
            "prompt": str(batch["prompt"][row]),
            "seed": str(int(batch["seed"][row])),
            "source": str(batch["image_id"][row]),
        }
