"""Pictures and masks as bytes and arrays.

Everywhere outside torch code a picture is (H, W, 3) uint8 RGB and a repaint mask is (H, W) bool, True = generated
anew. Files hold masks as 8-bit grey, 255 = True. Encoding is lossless, so pixels outside a mask stay equal.
"""

# N images, H height, W width, C colour channels

import io
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image, PngImagePlugin

from raygen.errors import RowError
from raygen.images.mask_values import read_object_mask
from raygen.images.picture_files import PictureFile, read_file
from raygen.images.samples import eight_bit

# Larger pictures are refused before they are decoded: a 12,000 x 12,000 PNG of one colour is 50 kB on disk and
# 432 MB in memory.
MAX_PIXELS = 64_000_000
# Pillow reads more than pictures: it hands EPS to Ghostscript, for one. What data sets hold is listed here.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(data: bytes) -> np.ndarray:
    """Picture as the viewer sees it, (H, W, 3) uint8 RGB.

    Grey, palette, CMYK, 16-bit and transparent pictures become 8-bit RGB (transparency over black), samples of more
    than 8 bits as `raygen.images.samples` says; the orientation is applied. Other metadata is not looked at.

    Raises:
        RowError: The bytes are not a picture, are cut off, hold more than MAX_PIXELS pixels, or samples whose range is
            in doubt.
    """
    image, file = _open(data)
    try:
        image = upright(eight_bit(image, file), file.orientation)
        if image.has_transparency_data:
            # A plain convert("RGB") would uncover whatever colours lie under the transparent pixels.
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        return np.asarray(image.convert("RGB"))
    except (RowError, MemoryError):
        raise
    except Exception as error:  # on damaged bytes Pillow raises whatever its parsers happen to, assertions too
        raise RowError(f"the picture is damaged or cut off: {error}") from error


def decode_mask(data: bytes) -> np.ndarray:
    """Mask, (H, W) bool, turned as its orientation says.

    The object of a cut-out (what is opaque), else the upper half of the grey values (128..255 of 8 bits), or what
    stands for it: `raygen.images.mask_values`.

    Raises:
        UnclearMaskError: The values do not say what is selected.
        RowError: The bytes are not a picture or are cut off.
    """
    image, file = _open(data)
    try:
        return upright_mask(read_object_mask(image, file), file.orientation)
    except (RowError, MemoryError):
        raise
    except Exception as error:  # likewise
        raise RowError(f"the mask is damaged or cut off: {error}") from error


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as a viewer shows it; the same object where it is stored so.

    Args:
        image: As stored.
        orientation: 1 to 8, EXIF's count.
    """
    # Image.transpose also keeps what a palette's or a grey picture's transparency is, as ImageOps does.
    return image if orientation not in _TURNS else image.transpose(_TURNS[orientation])


def upright_mask(mask_HW: np.ndarray, orientation: int) -> np.ndarray:
    """As `upright`, of a mask, (H, W) bool."""
    return mask_HW if orientation == 1 else np.asarray(upright(Image.fromarray(mask_HW), orientation))


def encode_image(image_HWC: np.ndarray, *, text: Mapping[str, str] | None = None) -> bytes:
    """PNG bytes of a picture, with `text` in its text chunks (provenance)."""
    chunks = PngImagePlugin.PngInfo()
    for name, value in (text or {}).items():
        chunks.add_itxt(name, value)
    return _png(Image.fromarray(image_HWC), pnginfo=chunks)


def encode_mask(mask_HW: np.ndarray) -> bytes:
    """PNG bytes of a mask, 255 = True, which is every value but 0."""
    return _png(Image.fromarray(mask_HW.astype(bool).astype(np.uint8) * 255))


def resize_image(image_HWC: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Picture squashed to height x width with Lanczos, as diffusers does; unchanged when the size is right."""
    if image_HWC.shape[:2] == (height, width):
        return image_HWC
    return np.asarray(Image.fromarray(image_HWC).resize((width, height), Image.Resampling.LANCZOS))


def resize_mask(mask_HW: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """Mask brought to height x width by nearest neighbour; unchanged when the size is right."""
    if mask_HW.shape == (height, width):
        return mask_HW
    grey = Image.fromarray(mask_HW.astype(np.uint8) * 255)
    return np.asarray(grey.resize((width, height), Image.Resampling.NEAREST)) >= 128


def _open(data: bytes) -> tuple[Image.Image, PictureFile]:
    file = read_file(data)
    if file.size is not None:
        _check_size(*file.size)
    try:
        image = Image.open(io.BytesIO(file.data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow's own limit, which is higher and looked at first.
        found = re.search(r"(\d+) pixels", str(error))
        many = f"{int(found[1]):,}, " if found else ""
        raise RowError(f"the picture has {many}more than the {MAX_PIXELS:,} pixels that are allowed") from error
    except MemoryError:
        raise
    except Exception as error:  # likewise
        raise RowError(f"not a picture that Pillow can read ({len(data)} bytes{_reason(file)})") from error
    _check_size(*image.size)
    if file.kind == "AVIF":  # Pillow tells as EXIF what the file has as a property of its own
        file = replace(file, orientation=image.getexif().get(_ORIENTATION, 1))
    return image, file


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise RowError(
            f"the picture is {width} x {height}, more than the {MAX_PIXELS:,} pixels that are allowed; make it smaller"
        )


def _reason(file: PictureFile) -> str:
    if file.kind == "TIFF" and file.bits is not None:
        kinds = {1: "whole-number", 2: "signed", 3: "floating-point"}
        return f", a TIFF of {file.bits}-bit {kinds.get(file.sample_format, 'unknown')} samples"
    return f", a {file.kind} file" if file.kind else ""


def _png(image: Image.Image, *, pnginfo: PngImagePlugin.PngInfo | None = None) -> bytes:
    out = io.BytesIO()
    # Level 1: half the time of the default for 5% more bytes.
    image.save(out, "PNG", compress_level=1, pnginfo=pnginfo)
    return out.getvalue()
