"""The inpainter's stage: repaint masks and prompts in, generated pictures out."""

# B rows of the batch

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from raygen.endpoint.http import Transport, connect_http
from raygen.errors import RowError, or_row_error
from raygen.images import encode_image
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import BatchInpainter
from raygen.inpainters.served import ServedInpainter
from raygen.inpainters.square import Square, as_square, unsquash
from raygen.inpainters.token_files import read_tokens
from raygen.stages.pictures import decode_masks, decode_pictures, sum_bytes
from raygen.stages.spec import Batch, ModelStage, Prepared, fail_row, object_column, ok_rows, with_own_status

Painted = list[np.ndarray | RowError | None]


class Painter(Protocol):
    """A model that paints squares.

    Attributes:
        model_revision: Which one it is.
        side_px: Side of a square.
        stride_px: Pixels of one latent cell.
        num_rows: Rows of its UNet calls.
    """

    model_revision: str
    side_px: int
    stride_px: int

    @property
    def num_rows(self) -> int: ...  # noqa: D102

    def paint(self, squares: Sequence[Square | None]) -> Painted:
        """See `raygen.inpainters.square.PaintSquares`."""
        ...


@dataclass(frozen=True, slots=True)
class _Pictures:
    """By row: pictures and repaint masks in their own size, and both at the model's square."""

    images: dict[int, np.ndarray]
    repaints: dict[int, np.ndarray]
    squares: dict[int, Square]


@dataclass(frozen=True, slots=True)
class _Outputs:
    """What a call's slots became, and the rows of the UNet calls that it took."""

    painted: Painted
    num_rows: int


class InpaintStage(ModelStage[_Pictures, _Outputs]):
    """Generates each row's picture.

    Args:
        inpainter: Fields of `InpainterConfig`.
        num_rows: Rows of every UNet call; an endpoint decides on its own.
        device: "cpu" or "cuda".
        tokens: Files of learned tokens by name, on a folder that all nodes share; an endpoint has them already.
        connect: From a URL to an endpoint, for `kind=served`; an argument, since handles of the cluster are Ray's.
        found_model: Where the model is that the config names; by default it is looked for by that name. Pictures and
            rows tell the config's name.
        painter: The model, where it is loaded already.

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
        painter: Painter | None = None,
    ) -> None:
        config = InpainterConfig.model_validate(inpainter)
        self._model_id = config.model
        self._tokens = read_tokens(tokens or {})
        self._composite = config.composite
        self._painter: Painter
        if painter is not None:
            self._painter = painter
        elif config.url is not None:
            self._painter = ServedInpainter(config, connect(config.url), self._tokens)
        else:
            found = config if found_model is None else config.model_copy(update={"model": found_model})
            self._painter = BatchInpainter(found, num_rows, device, self._tokens)

    def prepare(self, batch: Batch) -> Prepared[_Pictures]:
        """The decoded pictures, and what of them the model sees."""
        batch = with_own_status(batch)
        images = decode_pictures(batch, ok_rows(batch), "image_png")
        repaints = decode_masks(batch, ok_rows(batch), "repaint_png")
        squares = {}
        for i in ok_rows(batch):
            row = (images[i], repaints[i], str(batch["prompt"][i]), int(batch["seed"][i]))
            square = or_row_error(as_square, *row, side_px=self._painter.side_px, stride_px=self._painter.stride_px)
            if isinstance(square, RowError):
                fail_row(batch, i, square)
            else:
                squares[i] = square
        return Prepared(batch, _Pictures(images, repaints, squares), sum_bytes(images, repaints))

    def work(self, prepared: Prepared[_Pictures]) -> _Outputs:
        """The painted squares."""
        squares = [prepared.inputs.squares.get(i) for i in range(len(prepared.batch["status"]))]
        painted = self._painter.paint(squares) if prepared.inputs.squares else []
        return _Outputs(painted, self._painter.num_rows)

    def finish(self, prepared: Prepared[_Pictures], outputs: _Outputs) -> Batch:
        """The rows with generated pictures; a row that fails has none."""
        batch, pictures = prepared.batch, prepared.inputs
        num_rows = len(batch["status"])
        generated: list[bytes | None] = [None] * num_rows
        for i in ok_rows(batch):
            painted = outputs.painted[i]
            assert painted is not None
            if isinstance(painted, RowError):
                fail_row(batch, i, painted)
            else:
                result = unsquash(painted, pictures.images[i], pictures.repaints[i], composite=self._composite)
                generated[i] = encode_image(result, text=self._provenance(batch, i))
        return {
            **batch,
            "generated_png": object_column(generated),
            "model_id": object_column([self._model_id] * num_rows),
            "model_revision": object_column([self._painter.model_revision] * num_rows),
            "unet_rows": np.full(num_rows, outputs.num_rows),
        }

    def _provenance(self, batch: Batch, row: int) -> dict[str, str]:
        """Text chunks that say that and how a picture was made."""
        prompt = str(batch["prompt"][row])
        named = [f"{name}@{token.digest}" for name, token in self._tokens.items() if name in prompt]
        return {
            "synthetic": "true",
            "model": f"{self._model_id}@{self._painter.model_revision}",
            "prompt": prompt,
            **({"tokens": " ".join(named)} if named else {}),
            "seed": str(int(batch["seed"][row])),
            "source": str(batch["image_id"][row]),
        }
