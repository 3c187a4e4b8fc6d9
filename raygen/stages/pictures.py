"""Decoding a column of pictures or masks: what cannot be decoded becomes a failed row, never an error."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from raygen.classifier.framing import Frame
from raygen.errors import RowError
from raygen.images import decode_image, decode_mask
from raygen.stages.spec import Batch, fail_row

T = TypeVar("T")


def decode_pictures(batch: Batch, rows: Sequence[int], column: str) -> dict[int, np.ndarray]:
    """Pictures by row, (H, W, 3) uint8 each; rows without one are marked as failed in place."""
    return _decode(batch, rows, column, decode_image)


def decode_framed(
    batch: Batch, rows: Sequence[int], column: str, frames: Collection[Frame]
) -> dict[int, dict[Frame, np.ndarray]]:
    """Pictures by row, each by frame, (S, S, 3) uint8; rows without one are marked as failed in place.

    Framed one by one: those of a whole call in their own size may be many times what they are at a classifier's.
    """

    def framed(data: bytes) -> dict[Frame, np.ndarray]:
        image_HWC = decode_image(data)
        return {frame: frame.picture(image_HWC) for frame in frames}

    return _decode(batch, rows, column, framed)


def decode_masks(batch: Batch, rows: Sequence[int], column: str) -> dict[int, np.ndarray]:
    """Masks by row, (H, W) bool each; rows without one are marked as failed in place."""
    return _decode(batch, rows, column, decode_mask)


def decode_objects(batch: Batch, rows: Sequence[int], column: str) -> dict[int, np.ndarray | RowError]:
    """Object masks by row, (H, W) bool each, or why it cannot be read; rows without one are left out."""
    decoded: dict[int, np.ndarray | RowError] = {}
    for row in rows:
        data: Any = batch[column][row]
        if data is not None:
            try:
                decoded[row] = decode_mask(data)
            except RowError as error:
                decoded[row] = RowError(f"{column}: {error}")
    return decoded


def sum_bytes(*decoded: Mapping[int, np.ndarray | RowError]) -> int:
    """Bytes of decoded pictures and masks."""
    return sum(found.nbytes for column in decoded for found in column.values() if isinstance(found, np.ndarray))


def _decode(batch: Batch, rows: Sequence[int], column: str, decode: Callable[[bytes], T]) -> dict[int, T]:
    decoded = {}
    for row in rows:
        data: Any = batch[column][row]
        if data is None:
            fail_row(batch, row, f"there is no {column}: its file is gone or cannot be read")
            continue
        try:
            decoded[row] = decode(data)
        except RowError as error:
            fail_row(batch, row, RowError(f"{column}: {error}"))
    return decoded
