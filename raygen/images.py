"""Pictures and masks as bytes and arrays.

Everywhere outside torch code a picture is (H, W, 3) uint8 RGB and a repaint mask is (H, W) bool, True = generated
anew. Files hold masks as 8-bit grey, 255 = True. Encoding is lossless, so pixels outside a mask stay equal.
"""

# N images, H height, W width, C colour channels

import io
import struct
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from raygen.errors import RowError

# Larger pictures are refused before they are decoded: a 12,000 x 12,000 PNG of one colour is 50 kB on disk and
# 432 MB in memory.
MAX_PIXELS = 64_000_000
# Pillow reads more than pictures: it hands EPS to Ghostscript, for one. What data sets hold is listed here.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# What Pillow's decoders raise on damaged bytes (found by flipping bytes of each format).
_DAMAGE = (OSError, ValueError, SyntaxError, RuntimeError, TypeError, LookupError, EOFError, struct.error)


def decode_image(data: bytes) -> np.ndarray:
    """Picture as the viewer sees it, (H, W, 3) uint8 RGB.

    Grey, palette, CMYK, 16-bit and transparent pictures become 8-bit RGB (transparency over black); the EXIF
    orientation is applied.

    Raises:
        RowError: The bytes are not a picture, are cut off, or hold more than MAX_PIXELS pixels.
    """
    image = _open(data)
    try:
        image = _eight_bit(ImageOps.exif_transpose(image))
        if image.has_transparency_data:
            # A plain convert("RGB") would uncover whatever colours lie under the transparent pixels.
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        return np.asarray(image.convert("RGB"))
    except _DAMAGE as error:
        raise RowError(f"the picture is damaged or cut off: {error}") from error


def decode_mask(data: bytes) -> np.ndarray:
    """Mask, (H, W) bool; the upper half of the grey values is True (128..255 of 8 bits).

    Raises:
        RowError: The bytes are not a picture or are cut off.
    """
    image = _open(data)
    try:
        return np.asarray(_eight_bit(image).convert("L")) >= 128
    except _DAMAGE as error:
        raise RowError(f"the mask is damaged or cut off: {error}") from error


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


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RowError(f"the picture has more than the {MAX_PIXELS:,} pixels that are allowed") from error
    except (UnidentifiedImageError, *_DAMAGE) as error:
        raise RowError(f"not a picture that Pillow can read ({len(data)} bytes)") from error
    if image.width * image.height > MAX_PIXELS:
        raise RowError(f"the picture is {image.width} x {image.height}; at most {MAX_PIXELS:,} pixels are allowed")
    return image


def _eight_bit(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I"):
        return image
    # Pillow would cut values above 255 to 255 instead of scaling 16 bits to 8.
    grey = np.asarray(image).clip(0, 65535).astype(np.uint16) >> 8
    return Image.fromarray(grey.astype(np.uint8))


def _png(image: Image.Image, *, pnginfo: PngImagePlugin.PngInfo | None = None) -> bytes:
    out = io.BytesIO()
    # Level 1: half the time of the default for 5% more bytes.
    image.save(out, "PNG", compress_level=1, pnginfo=pnginfo)
    return out.getvalue()
