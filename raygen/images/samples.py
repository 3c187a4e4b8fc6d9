"""Samples of more than 8 bits brought to 8, by the range that the file states or its type has; never a guess.

Stretching each picture to its own lowest and highest value would make a dark picture as bright as its neighbour, and
a class that is told by brightness would be lost. So where the range is in doubt the row fails, and says what it has.
"""

# H height, W width, C colour channels

import io
import sys
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageFile, PpmImagePlugin

from raygen.errors import RowError
from raygen.images.picture_files import PictureFile

# A range is believed when the brightest value reaches a quarter of it: 14 bits of data or fewer, kept in 16 without
# a word, stay below, and would come out dark or black.
_BELIEVED_FRACTION = 0.25
# JPEG 2000: where a code stream begins, with its size; and the byte of the first colour's depth behind that.
_JPEG2000_SIZE, _JPEG2000_DEPTH = b"\xff\x4f\xff\x51", 42
_WAY_OUT = (
    "Save the picture with 8 bits, or its values times what is missing up to 65535, or state the highest value that "
    "they can have (TIFF tag SMaxSampleValue, PNG chunk sBIT)"
)


def is_deep(image: Image.Image, file: PictureFile) -> bool:
    """Whether the samples of a picture, not decoded yet, have more than 8 bits or a sign."""
    return (
        image.mode.startswith(("I", "F"))
        or file.bits in {12, 16}
        or file.sample_format == 2
        or _ppm_highest(image) == 65535
    )


class Scale(Protocol):
    """Samples of any shape to 8 bits, as `scaled`."""

    def __call__(self, values: np.ndarray, file: PictureFile, *, is_stated: bool = False) -> np.ndarray: ...  # noqa: D102


def eight_bit(image: Image.Image, file: PictureFile, *, scale: "Scale | None" = None) -> Image.Image:
    """The picture in a mode of 8 bits, or of 1; the same object where it is in one.

    Args:
        image: As Pillow opened it.
        file: What it was opened from.
        scale: What brings the samples to 8 bits; `scaled` by default. Alpha comes apart from the colours, as
            (H, W, 1).

    Raises:
        RowError: The range of the values is in doubt.
        OSError: As Pillow, where the pixels are damaged; many others likewise.
    """
    scale = scale or scaled
    if not is_deep(image, file):
        _check_jpeg2000(image, file)
        return image.convert("LA") if image.mode == "La" else image
    if image.mode.startswith(("I", "F")):
        # Pillow brings PGM to 65535 by the highest value that the header states.
        is_stated = _ppm_highest(image) not in {None, 65535}
        return Image.fromarray(scale(np.asarray(image), file, is_stated=is_stated))
    if image.mode == "L":
        return Image.fromarray(scale(np.asarray(image).view(np.int8), file))
    return _colours(image, file, scale)


def _check_jpeg2000(image: Image.Image, file: PictureFile) -> None:
    """Checks that colours of 16 bits, of which Pillow gives the upper eight alone, use their range."""
    at = file.data.find(_JPEG2000_SIZE)
    if image.format != "JPEG2000" or not image.mode.startswith("RGB") or at < 0:
        return
    bits = (file.data[at + _JPEG2000_DEPTH] & 0x7F) + 1
    brightest = max(high for _, high in image.convert("RGB").getextrema())  # type: ignore[misc]
    if bits == 16 and 0 < brightest < 256 * _BELIEVED_FRACTION:
        raise RowError(
            f"its values go up to about {brightest << 8}, far below 65535, and the file does not say how many bits "
            f"count. {_WAY_OUT}"
        )


def scaled(values: np.ndarray, file: PictureFile, *, is_stated: bool = False) -> np.ndarray:
    """Samples as 8 bits, of the same shape, uint8.

    Args:
        values: Any numbers.
        file: Where they are from.
        is_stated: They have been brought to 0..65535 by a range that the file stated.

    Raises:
        RowError: The range is in doubt.
    """
    if values.dtype.kind == "f":
        grey = _scaled_floats(values, file)
    else:
        grey = _scaled_integers(values, file, is_stated=is_stated)
    # Pillow turns grey of 8 bits round, where white is zero, and no other.
    return 255 - grey if file.white_is_zero and file.bits in {16, 32} else grey


def _scaled_integers(values: np.ndarray, file: PictureFile, *, is_stated: bool) -> np.ndarray:
    lowest, brightest = int(values.min()), int(values.max())
    found = f"its values go from {lowest} to {brightest}"
    if lowest < 0:
        raise RowError(f"{found}; a picture's start at 0. Bring them to 0 to 255, the same way for all pictures")
    highest = 65535 if is_stated else _stated_highest(values, file)
    if highest is None:
        # The positive half of a type with a sign, as in scikit-image.
        highest = (127 if file.bits == 8 else 32767) if file.sample_format == 2 and file.bits in {8, 16} else 65535
        if 0 < brightest < (highest + 1) * _BELIEVED_FRACTION:
            raise RowError(f"{found}, far below {highest}, and the file does not say how many bits count. {_WAY_OUT}")
    if brightest > highest:
        raise RowError(f"{found}, above {highest}, the highest that is read. {_WAY_OUT}")
    bits = (highest + 1).bit_length() - 1
    if highest == (1 << bits) - 1 and bits >= 8:
        return (values >> (bits - 8)).astype(np.uint8)
    return ((values.astype(np.int32) * 255 + highest // 2) // highest).astype(np.uint8)


def _scaled_floats(values: np.ndarray, file: PictureFile) -> np.ndarray:
    if not np.isfinite(values).all():
        raise RowError("some of its values are not finite numbers (NaN or infinite); save it with 8 bits")
    lowest, brightest = float(values.min()), float(values.max())
    stated = file.highest if file.lowest in {None, 0} and _is_full_range(file.highest) else None
    # 1.0000001 and -1e-9 are rounding: up to half a step of 8 bits is cut off.
    highest = stated or (1 if brightest <= 1 + 0.5 / 255 else 255)
    slack = highest * 0.5 / 255
    is_doubtful = stated is None and highest == 255 and brightest < 255 * _BELIEVED_FRACTION
    if lowest < -slack or brightest > highest + slack or is_doubtful:
        raise RowError(
            f"its values go from {lowest:.6g} to {brightest:.6g}; floating-point values are read as 0 to 1, or as 0 to "
            "255 where they reach 64. Bring them to one of these, the same way for all pictures"
        )
    if highest == 255:
        return values.clip(0, 255).astype(np.uint8)
    return np.rint(values.clip(0, highest) * (255 / highest)).astype(np.uint8)


def _stated_highest(values: np.ndarray, file: PictureFile) -> int | None:
    """The highest value that integer samples can have, where the file says it and they keep to it."""
    stated = None
    if file.kind == "TIFF":
        # Some programs write the picture's own extremes there, which are no range that all pictures share.
        is_range = file.lowest in {None, 0} and _is_full_range(file.highest)
        stated = 4095 if file.bits == 12 else int(file.highest or 0) if is_range else None
    elif file.significant_bits in range(1, 17):
        stated = 65535 if _is_at_top(values, file.significant_bits or 16) else (1 << (file.significant_bits or 16)) - 1
    return stated if stated is not None and values.max() <= stated else None


def _is_at_top(values: np.ndarray, bits: int) -> bool:
    """Whether the significant bits are the upper of 16, with zeros or copies of themselves below, as PNG wants it."""
    shift = 16 - bits
    top = values >> shift
    zeros, copies = top << shift, top << shift
    while shift > 0:
        shift -= bits
        copies = copies | (top << shift if shift >= 0 else top >> -shift)
    return bool(np.array_equal(values, zeros) or np.array_equal(values, copies))


def _is_full_range(highest: float | None) -> bool:
    """1, or all ones in 8 to 31 bits."""
    return highest is not None and (
        highest == 1 or (highest in range(255, 1 << 31) and (int(highest) + 1).bit_count() == 1)
    )


def _ppm_highest(image: Image.Image) -> int | None:
    """The highest value that the header of a PPM or PGM states; 65535 is what writers set who know of none."""
    if not isinstance(image, PpmImagePlugin.PpmImageFile) or not image.tile:
        return None
    args = image.tile[0].args
    return args[-1] if isinstance(args, tuple) and isinstance(args[-1], int) else None


def _colours(image: Image.Image, file: PictureFile, scale: Scale) -> Image.Image:
    """Colours of 16 bits. Pillow gives the upper 8 bits, which is all there is to see where they are bright."""
    if any(raw in {"R", "G", "B", "A"} for raw in _raw_modes(image)):
        # Pillow 13 takes each byte for a sample.
        raise RowError(
            "its colours lie in planes of 16 bits, which Pillow misreads; save it with 8 bits, or in one plane"
        )
    upper_HWC = np.asarray(image)
    if image.mode not in {"RGB", "RGBA"}:
        return image
    parts = [part_HWC for part_HWC in np.split(upper_HWC, [3], axis=2) if part_HWC.size]
    states_less = file.significant_bits in range(1, 16) or (_is_full_range(file.highest) and file.highest != 65535)
    if all(part_HWC.max() >= 256 * _BELIEVED_FRACTION for part_HWC in parts) and not states_less:
        return image
    lower_HWC = _lower_bytes(file)
    values_HWC = upper_HWC.astype(np.int32) << 8 | (0 if lower_HWC is None else lower_HWC)
    grey = [scale(part_HWC, file) for part_HWC in np.split(values_HWC, [3], axis=2) if part_HWC.size]
    return Image.fromarray(np.concatenate(grey, axis=2))


def _raw_modes(image: Image.Image) -> list[Any]:
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    return [tile.args[0] if isinstance(tile.args, tuple) else tile.args for tile in tiles]


def _lower_bytes(file: PictureFile) -> np.ndarray | None:
    """The lower 8 of 16 bits, (H, W, C) uint8: what Pillow gives when it is told the other order of bytes."""
    if not file.kind:
        return None
    image: Any = Image.open(io.BytesIO(file.data), formats=(file.kind,))
    other = {"16L": "16B", "16B": "16L", "16N": "16B" if sys.byteorder == "little" else "16L"}
    tiles = []
    for tile, raw in zip(image.tile, _raw_modes(image), strict=True):
        colours, _, order = raw.partition(";")
        if colours not in {"RGB", "RGBA", "RGBX", "LA"} or order not in other:
            return None
        # Grey and alpha of 16 bits have four bytes a pixel: as four colours they come out one by one.
        turned = "RGBA" if colours == "LA" else f"{colours};{other[order]}"
        tiles.append(tile._replace(args=(turned, *tile.args[1:]) if isinstance(tile.args, tuple) else turned))
    is_grey = any(raw.startswith("LA") for raw in _raw_modes(image))
    image.tile = tiles
    return np.asarray(image)[..., [1, 1, 1, 3]] if is_grey else np.asarray(image)
