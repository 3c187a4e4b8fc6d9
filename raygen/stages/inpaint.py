"""The inpainter's stage: repaint masks and prompts in, generated pictures out."""

# B rows of the batch

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from raygen.endpoint.http import Transport, connect_http
from raygen.errors import RowError
from raygen.images import encode_image
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import BatchInpainter
from raygen.inpainters.served import ServedInpainter
from raygen.inpainters.token_files import read_tokens
from raygen.stages.pictures import decode_masks, decode_pictures
from raygen.stages.spec import Batch, fail_row, fill_slots, object_column, ok_rows, with_own_status


class InpaintStage:
    """Generates each row's picture.

    Args:
        inpainter: Fields of `InpainterConfig`.
        num_rows: Rows of every UNet call; an endpoint decides on its own.
        device: "cpu" or "cuda".
        tokens: Files of learned tokens by name, on a folder that all nodes share; an endpoint has them already.
        connect: From a URL to an endpoint, for `kind=served`; an argument, since handles of the cluster are Ray's.
        found_model: Where the model is that the config names; by default it is looked for by that name. Pictures and
            rows tell the config's name.

    Raises:
        ModelError: A token's file is wrong or was learned with another model.
        ResourceError: The device ran out of memory, and the config does not allow fewer rows, or one is too many.
    """

    reads: ClassVar = frozenset({"key", "image_id", "image_png", "repaint_png", "prompt", "seed", "status", "error"})
    writes: ClassVar = frozenset({"generated_png", "model_id", "model_revision", "unet_rows"})

    def __init__(
        self,
        *,
        inpainter: Mapping[str, Any],
        num_rows: int,
        device: str,
        tokens: Mapping[str, str] | None = None,
        connect: Callable[[str], Transport] = connect_http,
        found_model: str | None = None,
    ) -> None:
        config = InpainterConfig.model_validate(inpainter)
        self._model_id = config.model
        self._tokens = read_tokens(tokens or {})
        self._inpainter: BatchInpainter | ServedInpainter
        if config.url is not None:
            self._inpainter = ServedInpainter(config, connect(config.url), self._tokens)
        else:
            found = config if found_model is None else config.model_copy(update={"model": found_model})
            self._inpainter = BatchInpainter(found, num_rows, device, self._tokens)

    def __call__(self, batch: Batch) -> Batch:
        """The rows with generated pictures; a row that fails has none."""
        batch = with_own_status(batch)
        pictures = decode_pictures(batch, ok_rows(batch), "image_png")
        repaints = decode_masks(batch, ok_rows(batch), "repaint_png")
        num_rows = len(batch["status"])
        generated: list[bytes | None] = [None] * num_rows
        if rows := ok_rows(batch):
            # An endpoint fills its own calls: only what is to be painted is sent.
            slots = rows if isinstance(self._inpainter, ServedInpainter) else fill_slots(rows, num_rows)
            painted = self._inpainter.inpaint(
                [pictures[i] for i in slots],
                [repaints[i] for i in slots],
                prompts=[str(batch["prompt"][i]) for i in slots],
                seeds=[int(batch["seed"][i]) for i in slots],
            )
            results = painted if isinstance(self._inpainter, ServedInpainter) else [painted[i] for i in rows]
            for i, result in zip(rows, results, strict=True):
                if isinstance(result, RowError):
                    fail_row(batch, i, result)
                else:
                    generated[i] = encode_image(result, text=self._provenance(batch, i))
        return {
            **batch,
            "generated_png": object_column(generated),
            "model_id": object_column([self._model_id] * num_rows),
            "model_revision": object_column([self._inpainter.model_revision] * num_rows),
            "unet_rows": np.full(num_rows, self._inpainter.num_rows),
        }

    def _provenance(self, batch: Batch, row: int) -> dict[str, str]:
        """Text chunks that say that and how a picture was made."""
        prompt = str(batch["prompt"][row])
        named = [f"{name}@{token.digest}" for name, token in self._tokens.items() if name in prompt]
        return {
            "synthetic": "true",
            "model": f"{self._model_id}@{self._inpainter.model_revision}",
            "prompt": prompt,
            **({"tokens": " ".join(named)} if named else {}),
            "seed": str(int(batch["seed"][row])),
            "source": str(batch["image_id"][row]),
        }
