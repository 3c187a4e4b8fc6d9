"""Pictures and masks of a request: bytes to arrays with every refusal of the interface, and arrays to bytes.

Everything that a header tells is checked before a pixel is decoded. The colours under a picture's transparent pixels
are its own RGB: alpha says what is painted anew, not what is kept.
"""

# H height and W width of the picture, C colour channels

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from raygen.errors import EndpointError, RowError, UnclearMaskError
from raygen.images import encode_image, resize_image, resize_mask, upright, upright_mask
from raygen.images.mask_values import WHITE, eight_bit_mask, read_mask
from raygen.images.picture_files import PictureFile, read_file
from raygen.images.samples import eight_bit
from serve.http.backend import MaskFacts, OutputFormat
from serve.http.body import Form
from serve.http.limits import MAX_PIXELS, MAX_SIDE_PX, MIN_SIDE_PX

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
        mask: What was understood of it.
        warnings: What was left out, in words.
    """

    image_HWC: np.ndarray
    repaint_HW: np.ndarray
    mask: MaskFacts
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
            `serve.http.errors`.
    """
    if "image" not in form.files:
        raise EndpointError("there is no image", code="missing_required_parameter", param="image")
    image, image_alpha = _rgb_and_alpha(_decode(form.files["image"], "image"))
    mode, repaint_HW = _repaint(form.files.get("mask"), mask_mode, image, image_alpha)
    image_HWC = np.asarray(image)
    if size != "auto":
        assert isinstance(size, tuple)
        width, height = size
        num_selected = int(repaint_HW.sum())
        image_HWC = resize_image(image_HWC, height=height, width=width)
        repaint_HW = resize_mask(repaint_HW, height=height, width=width)
        if not repaint_HW.any():
            raise EndpointError(
                f"of the {num_selected} pixels that the mask selects none is left at the size {width}x{height}",
                code="empty_mask",
                param="mask",
            )
    if image_HWC.shape[0] * image_HWC.shape[1] > max_pixels:
        code, param = ("image_too_large", "image") if size == "auto" else ("invalid_size", "size")
        raise EndpointError(f"this model paints at most {max_pixels} pixels", code=code, param=param)
    rows, columns = np.flatnonzero(repaint_HW.any(1)), np.flatnonzero(repaint_HW.any(0))
    understood: MaskFacts = {
        "mode": mode,
        "edited_fraction": round(float(repaint_HW.mean()), 6),
        "bbox": [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1],
    }
    warnings: tuple[str, ...] = ()
    if image_alpha is not None and image_alpha.min() < 255 and "mask" in form.files:
        warnings = ("the image's transparency is not kept; its colours are, also under transparent pixels",)
    return MaskedPicture(image_HWC, repaint_HW, understood, warnings)


def encode_picture(image_HWC: np.ndarray, *, output_format: OutputFormat, output_compression: int) -> bytes:
    """Bytes of a picture.

    Args:
        image_HWC: (H, W, 3) uint8 RGB.
        output_format: Of the file.
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
            return "alpha", _is_transparent(image_alpha)
        raise EndpointError(
            "there is no mask and no pixel of the image is transparent; send a mask, or mask_mode=full to paint all",
            code="mask_required",
            param="mask",
        )
    mask = _decode(data, "mask")
    if mask.size != image.size:
        raise EndpointError(
            f"mask is {mask.size[0]}x{mask.size[1]}, image is {image.size[0]}x{image.size[1]}",
            code="mask_size_mismatch",
            param="mask",
        )
    has_alpha = mask.image.has_transparency_data and not mask.image.mode.startswith("I")
    if mask_mode == "alpha" or (mask_mode == "auto" and has_alpha):
        if not has_alpha:
            raise EndpointError(
                "mask_mode=alpha, but the mask has no alpha channel; send mask_mode=luminance",
                code="invalid_mask",
                param="mask",
            )
        return "alpha", _transparent(mask)
    return mask_mode if mask_mode == "luminance_inverted" else "luminance", _white(mask, mask_mode)


def _transparent(mask: "_Decoded") -> np.ndarray:
    """Where a mask with alpha is transparent, (H, W) bool."""
    _, alpha_HW = _rgb_and_alpha(mask)
    assert alpha_HW is not None
    lowest = int(alpha_HW.min())
    if lowest >= ALPHA_THRESHOLD:
        raise EndpointError(
            f"the mask selects no pixel: nothing is transparent, the lowest alpha is {lowest} of 255; is it a black "
            "and white mask? Then send mask_mode=luminance",
            code="empty_mask",
            param="mask",
        )
    return _is_transparent(alpha_HW)


def _is_transparent(alpha_HW: np.ndarray) -> np.ndarray:
    # An alpha of 0 and 1 was meant to be 0 and 255.
    return alpha_HW < (1 if (alpha_HW.min(), alpha_HW.max()) == (0, 1) else ALPHA_THRESHOLD)


def _white(mask: "_Decoded", mask_mode: str) -> np.ndarray:
    """Where a mask is white, or black if inverted, (H, W) bool; alpha is not looked at."""
    try:
        white_HW = upright_mask(read_mask(mask.image, mask.file), mask.file.orientation)
    except RowError as error:
        is_dark = isinstance(error, UnclearMaskError) and not (np.asarray(_grey(mask)) >= WHITE).any()
        raise EndpointError(
            f"the mask cannot be understood: {error}", code="empty_mask" if is_dark else "invalid_mask", param="mask"
        ) from error
    if mask_mode == "luminance_inverted":
        white_HW = ~white_HW
    if not white_HW.any():
        values_HW = np.asarray(_grey(mask))
        found = f"its brightest value is {values_HW.max()}; what is white is painted anew"
        if mask_mode == "luminance_inverted":
            found = f"its darkest value is {values_HW.min()}; what is black is painted anew"
        raise EndpointError(f"the mask selects no pixel: {found}", code="empty_mask", param="mask")
    return white_HW


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A picture whose pixels are there, as stored, and its file."""

    image: Image.Image
    file: PictureFile
    param: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height for a viewer."""
        width, height = self.image.size
        return (height, width) if self.file.orientation >= 5 else (width, height)


def _decode(data: bytes, param: str) -> _Decoded:
    if not data:
        raise EndpointError(f"{param} has no bytes", code="empty_file", param=param)
    file = read_file(data)
    if file.is_cut:
        raise EndpointError(f"{param} is cut off or damaged", code="truncated_image", param=param)
    if file.size is not None and file.kind in FORMATS:  # of WebP Pillow allocates the canvas while opening
        _check_size(*file.size, param)
    try:
        image = Image.open(io.BytesIO(file.data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise EndpointError(
            f"{param} has more than {MAX_PIXELS} pixels", code="image_too_large", param=param
        ) from error
    except Exception as error:  # on damaged headers Pillow raises whatever its parsers happen to
        raise EndpointError(f"{param} is no PNG, JPEG or WebP picture", code="invalid_image", param=param) from error
    _check_header(image, file, param)
    try:
        image.load()
    except Exception as error:
        raise EndpointError(f"{param} is cut off or damaged", code="truncated_image", param=param) from error
    return _Decoded(image, file, param)


def _check_header(image: Image.Image, file: PictureFile, param: str) -> None:
    _check_size(*image.size, param)
    # A JPEG can have more pictures behind it, such as a telephone's depth map: the first is what everybody shows.
    if file.num_frames > 1:
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


def _rgb_and_alpha(decoded: _Decoded) -> tuple[Image.Image, np.ndarray | None]:
    """RGB picture for a viewer, and its alpha (H, W) uint8 if it has one."""
    try:
        bring = eight_bit_mask if decoded.param == "mask" else eight_bit
        image = upright(bring(decoded.image, decoded.file), decoded.file.orientation)
    except RowError as error:
        code = "invalid_mask" if decoded.param == "mask" else "invalid_image"
        raise EndpointError(f"{decoded.param}: {error}", code=code, param=decoded.param) from error
    except Exception as error:  # a palette that is no palette, say
        raise EndpointError(
            f"{decoded.param} is cut off or damaged", code="truncated_image", param=decoded.param
        ) from error
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    rgba = image.convert("RGBA")
    # The three colour channels alone: convert("RGB") of a palette would do too, but keeps a transparency entry.
    colours = Image.merge("RGB", rgba.split()[:3])
    return colours, np.asarray(rgba.getchannel("A"))


def _grey(mask: _Decoded) -> Image.Image:
    """A mask's grey values as its file has them, for messages: deep samples are not brought to 8 bits."""
    return mask.image if mask.image.mode.startswith("I") else mask.image.convert("RGB").convert("L")
