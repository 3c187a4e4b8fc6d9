"""Pictures and masks of a request: bytes to arrays with every refusal of the interface, and arrays to bytes.

Everything that a header tells is checked before a pixel is decoded. The colours under a picture's transparent pixels
are its own RGB: alpha says what is painted anew, not what is kept.
"""

# H height and W width of the picture, C colour channels

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from raygen.errors import EndpointError
from raygen.images import encode_image, resize_image, resize_mask
from serve.body import Form
from serve.limits import MAX_PIXELS, MAX_SIDE_PX, MIN_SIDE_PX

# By content, never by name. Pillow reads more: EPS, for one, starts Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP")
# Modes that become RGB without a guess.
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B", "I"}
ALPHA_THRESHOLD = 128


@dataclass(frozen=True, slots=True)
class MaskedPicture:
    """A picture and what is to be painted anew.

    Attributes:
        image_HWC: (H, W, 3) uint8 RGB.
        repaint_HW: True = paint anew, (H, W) bool.
        mask: What was understood: {"mode", "edited_fraction", "bbox": [left, top, right, bottom]}.
        warnings: What was left out, in words.
    """

    image_HWC: np.ndarray
    repaint_HW: np.ndarray
    mask: dict[str, Any]
    warnings: tuple[str, ...] = ()


def read_pictures(form: Form, *, mask_mode: str, size: tuple[int, int] | str, max_pixels: int) -> MaskedPicture:
    """The request's picture and mask at the size to paint.

    Args:
        form: Its files are used up.
        mask_mode: As sent.
        size: "auto", or width and height.
        max_pixels: What the model can paint.

    Raises:
        EndpointError: Everything that can be wrong with a picture or mask; see the codes under "pictures" in
            `serve.errors`.
    """
    if "image" not in form.files:
        raise EndpointError("there is no image", code="missing_required_parameter", param="image")
    image, image_alpha = _decode(form.files["image"], "image")
    mode, repaint_HW = _repaint(form.files.get("mask"), mask_mode, image, image_alpha)
    image_HWC = np.asarray(image)
    if size != "auto":
        assert isinstance(size, tuple)
        width, height = size
        image_HWC = resize_image(image_HWC, height=height, width=width)
        repaint_HW = resize_mask(repaint_HW, height=height, width=width)
    if image_HWC.shape[0] * image_HWC.shape[1] > max_pixels:
        code, param = ("image_too_large", "image") if size == "auto" else ("invalid_size", "size")
        raise EndpointError(f"this model paints at most {max_pixels} pixels", code=code, param=param)
    if not repaint_HW.any():
        hint = "nothing is transparent; is it a black and white mask? Then send mask_mode=luminance"
        if mode != "alpha":
            hint = "nothing is selected; is it the other way round? Then send mask_mode=luminance_inverted"
        raise EndpointError(f"the mask selects no pixel: {hint}", code="empty_mask", param="mask")
    rows, columns = np.flatnonzero(repaint_HW.any(1)), np.flatnonzero(repaint_HW.any(0))
    understood = {
        "mode": mode,
        "edited_fraction": round(float(repaint_HW.mean()), 6),
        "bbox": [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1],
    }
    warnings: tuple[str, ...] = ()
    if image_alpha is not None and image_alpha.min() < 255 and "mask" in form.files:
        warnings = ("the image's transparency is not kept; its colours are, also under transparent pixels",)
    return MaskedPicture(image_HWC, repaint_HW, understood, warnings)


def encode_picture(image_HWC: np.ndarray, *, output_format: str, output_compression: int) -> bytes:
    """Bytes of a picture.

    Args:
        image_HWC: (H, W, 3) uint8 RGB.
        output_format: "png", "jpeg" or "webp".
        output_compression: 0 to 100; the quality of JPEG and WebP, where 100 is lossless WebP.
    """
    if output_format == "png":
        return encode_image(image_HWC)
    options: dict[str, Any] = {"quality": output_compression}
    if output_format == "webp" and output_compression == 100:
        options = {"lossless": True}
    out = io.BytesIO()
    Image.fromarray(image_HWC).save(out, output_format.upper(), **options)
    return out.getvalue()


def _repaint(
    data: bytes | None, mask_mode: str, image: Image.Image, image_alpha: np.ndarray | None
) -> tuple[str, np.ndarray]:
    """Which mode holds, and the repaint mask."""
    if mask_mode == "full":
        if data is not None:
            raise EndpointError(
                "mask_mode=full paints everything; leave the mask away", code="invalid_mask", param="mask"
            )
        return "full", np.ones((image.height, image.width), dtype=bool)
    if data is None:
        if mask_mode in {"auto", "alpha"} and image_alpha is not None and (image_alpha < ALPHA_THRESHOLD).any():
            return "alpha", image_alpha < ALPHA_THRESHOLD
        raise EndpointError(
            "there is no mask and no pixel of the image is transparent; send a mask, or mask_mode=full to paint all",
            code="mask_required",
            param="mask",
        )
    mask, mask_alpha = _decode(data, "mask")
    if mask.size != image.size:
        raise EndpointError(
            f"mask is {mask.size[0]}x{mask.size[1]}, image is {image.size[0]}x{image.size[1]}",
            code="mask_size_mismatch",
            param="mask",
        )
    if mask_mode == "alpha" or (mask_mode == "auto" and mask_alpha is not None):
        if mask_alpha is None:
            raise EndpointError(
                "mask_mode=alpha, but the mask has no alpha channel; send mask_mode=luminance",
                code="invalid_mask",
                param="mask",
            )
        return "alpha", mask_alpha < ALPHA_THRESHOLD
    white_HW = np.asarray(mask.convert("L")) >= 128
    if mask_mode == "luminance_inverted":
        return mask_mode, ~white_HW
    return "luminance", white_HW


def _decode(data: bytes, param: str) -> tuple[Image.Image, np.ndarray | None]:
    """RGB picture, and its alpha (H, W) uint8 if it has one."""
    if not data:
        raise EndpointError(f"{param} has no bytes", code="empty_file", param=param)
    _check_webp(data, param)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise EndpointError(
            f"{param} has more than {MAX_PIXELS} pixels", code="image_too_large", param=param
        ) from error
    except Exception as error:  # on damaged headers Pillow raises whatever its parsers happen to
        raise EndpointError(f"{param} is no PNG, JPEG or WebP picture", code="invalid_image", param=param) from error
    _check_header(image, param)
    try:
        image.load()
        return _rgb_and_alpha(ImageOps.exif_transpose(image))
    except Exception as error:
        raise EndpointError(f"{param} is cut off or damaged", code="truncated_image", param=param) from error


def _check_webp(data: bytes, param: str) -> None:
    """Refuses a WebP file that is cut off, or whose canvas is too large: Pillow allocates it while opening."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise EndpointError(f"{param} is cut off or damaged", code="truncated_image", param=param)
    if data[12:16] == b"VP8X":  # the other two kinds of file have sides of 14 bits, and no canvas of their own
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        _check_size(width, height, param)


def _check_header(image: Image.Image, param: str) -> None:
    _check_size(*image.size, param)
    # MPO is a JPEG with more pictures behind it, such as a telephone's depth map: the first is what everybody shows.
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise EndpointError(f"{param} is animated; send one frame", code="animated_image", param=param)
    if image.mode not in MODES:
        code = "invalid_mask" if param == "mask" else "invalid_image"
        raise EndpointError(f"{param} has the colour mode {image.mode}; send RGB or grey", code=code, param=param)


def _check_size(width: int, height: int, param: str) -> None:
    if max(width, height) > MAX_SIDE_PX or width * height > MAX_PIXELS:
        raise EndpointError(
            f"{param} is {width}x{height}; at most {MAX_SIDE_PX} a side and {MAX_PIXELS} pixels",
            code="image_too_large",
            param=param,
        )
    if min(width, height) < MIN_SIDE_PX:
        raise EndpointError(
            f"{param} is {width}x{height}; at least {MIN_SIDE_PX} a side", code="image_too_small", param=param
        )


def _rgb_and_alpha(image: Image.Image) -> tuple[Image.Image, np.ndarray | None]:
    if image.mode.startswith("I"):
        # Pillow would cut values above 255 to 255 instead of scaling 16 bits to 8.
        grey = np.asarray(image).clip(0, 65535).astype(np.uint16) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB"), None
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    rgba = image.convert("RGBA")
    # The three colour channels alone: convert("RGB") of a palette would do too, but keeps a transparency entry.
    colours = Image.merge("RGB", rgba.split()[:3])
    return colours, np.asarray(rgba.getchannel("A"))
