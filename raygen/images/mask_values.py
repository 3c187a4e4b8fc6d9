"""What a mask selects, whatever it is written in.

Read is what can mean one thing only: grey by its upper half, two values of which one is 0, colour on black. Numbers or
colours of classes are refused, with what was found: which of them is the object, only the dataset's owner knows.
"""

# H height, W width, K colours

import numpy as np
from PIL import Image

from raygen.errors import RowError, UnclearMaskError
from raygen.images.picture_files import PictureFile
from raygen.images.samples import eight_bit, scaled

WHITE = 128
# Masks have few colours. One with more is read by brightness alone.
_MAX_COLOURS = 64
# Distance, in values of 8 bits, up to which a colour lies on the line between two others, as a soft edge does.
_SAME_LINE = 32
# Numbers of classes are below; 255 beside them is many data sets' "ignore".
_MAX_CLASS = 64
# Tones that stand for black (and, from 255 down, for white), and the share of a mask's pixels that have them.
_BLACK = 8
_LEAST_BLACK_AND_WHITE = 0.8
_WAY_OUT = "Make what is meant 255 and everything else 0"


def eight_bit_mask(image: Image.Image, file: PictureFile) -> Image.Image:
    """A mask in a mode of 8 bits, as `eight_bit`: of two values of which one is 0 the other becomes 255.

    Raises:
        UnclearMaskError: The range of its samples is in doubt.
    """
    return eight_bit(image, file, scale=_scaled)


def read_mask(image: Image.Image, file: PictureFile) -> np.ndarray:
    """Where the mask is white, or what stands for white in it, (H, W) bool; its alpha is not looked at.

    Args:
        image: As Pillow opened it.
        file: What it was opened from.

    Raises:
        UnclearMaskError: Its values may mean several things.
    """
    return _read_eight_bit(eight_bit_mask(image, file), is_lossy=file.is_lossy)


def read_object_mask(image: Image.Image, file: PictureFile) -> np.ndarray:
    """The object of a mask as data sets ship them, (H, W) bool: what is opaque in a cut-out, else what is white.

    Raises:
        UnclearMaskError: Its values may mean several things.
    """
    image = eight_bit_mask(image, file)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        opaque_HW = _opaque(np.asarray(rgba.getchannel("A")))
        image = Image.merge("RGB", rgba.split()[:3])
        if opaque_HW is not None:
            inside = np.asarray(image)[opaque_HW]
            if _is_black_and_white(inside):  # a mask with empty corners, say one that was turned, not a cut-out
                return np.asarray(opaque_HW & (np.asarray(image.convert("L")) >= WHITE))
            return opaque_HW
    return _read_eight_bit(image, is_lossy=file.is_lossy)


def _is_black_and_white(pixels_N3: np.ndarray) -> bool:
    """Whether pixels are those of a mask: no colour, some black, some white, and little between (soft edges)."""
    if np.ptp(pixels_N3, axis=1).any():
        return False
    grey_N = pixels_N3[:, 0]
    black, white = float((grey_N <= _BLACK).mean()), float((grey_N >= 255 - _BLACK).mean())
    return black > 0 and white > 0 and black + white >= _LEAST_BLACK_AND_WHITE


def _read_eight_bit(image: Image.Image, *, is_lossy: bool) -> np.ndarray:
    if image.mode in {"1", "L"}:
        return _read_grey(image.convert("L"), is_lossy=is_lossy)
    rgb = image.convert("RGB")
    rgb_HWC = np.asarray(rgb)
    if (rgb_HWC == rgb_HWC[..., :1]).all():
        return _read_grey(rgb.getchannel("R"), is_lossy=is_lossy)
    white_HW = np.asarray(rgb.convert("L")) >= WHITE
    counts = None if is_lossy else rgb.getcolors(_MAX_COLOURS)
    if counts is not None:
        colours_K3 = np.array(sorted(colour for _, colour in counts))
        if len(colours_K3) == 2 and not colours_K3[0].any() and not white_HW.any():
            return np.asarray(rgb_HWC.any(axis=2))
        if len(colours_K3) > 1 and _are_classes(colours_K3):
            some = _listed([str(tuple(colour.tolist())) for colour in colours_K3])
            raise UnclearMaskError(f"it has {len(colours_K3)} colours, {some}, as of several classes. {_WAY_OUT}")
    if white_HW.any():
        return white_HW
    # One colour on black, with soft edges or JPEG's noise: what has half of its brightness or more.
    bright_HW = rgb_HWC.max(axis=2)
    brightest = int(bright_HW.max())
    if brightest >= WHITE // 2 and not (coloured_HW := bright_HW > brightest // 2).all():
        return np.asarray(coloured_HW)
    raise UnclearMaskError(f"nothing in it is white: its brightest value is {brightest} of 255. {_WAY_OUT}")


def _scaled(values: np.ndarray, file: PictureFile, *, is_stated: bool = False) -> np.ndarray:
    is_alpha = values.ndim == 3 and values.shape[2] == 1  # which may be one value: opaque
    lowest, brightest = values.min(), values.max()
    if brightest > 0 and (lowest == 0 or is_alpha) and np.isin(values, (0, brightest)).all() and np.isfinite(brightest):
        return np.where((values == 0) if file.white_is_zero else (values != 0), 255, 0).astype(np.uint8)
    try:
        return scaled(values, file, is_stated=is_stated)
    except RowError as error:
        raise UnclearMaskError(
            f"its values are not 0 and one other and do not span their type's range, the brightest is {brightest:.6g}. "
            f"{_WAY_OUT}"
        ) from error


def _opaque(alpha_HW: np.ndarray) -> np.ndarray | None:
    """The opaque part of a cut-out; None where alpha does not tell one part from another."""
    opaque_HW = alpha_HW >= WHITE
    if not opaque_HW.any() and np.isin(alpha_HW, (0, alpha_HW.max())).all():
        opaque_HW = alpha_HW > 0  # 0 and 1, say
    return np.asarray(opaque_HW) if opaque_HW.any() and not opaque_HW.all() else None


def _read_grey(image: Image.Image, *, is_lossy: bool) -> np.ndarray:
    counts = np.array(image.histogram())
    values = np.flatnonzero(counts)
    grey_HW = np.asarray(image)
    if values[-1] >= WHITE:
        classes = values[(values > 0) & (values < _MAX_CLASS)]
        is_only_255 = values[values >= _MAX_CLASS].tolist() == [255]
        # A few stray pixels are no class.
        if not is_lossy and is_only_255 and counts[classes].sum() > counts[255] / 10:
            raise UnclearMaskError(
                f"its values are {_listed([*map(str, values)])}, as of numbers of classes. {_WAY_OUT}"
            )
    elif values.tolist() != [0]:
        if is_lossy or len(values) != 2 or values[0] != 0:
            raise UnclearMaskError(
                f"nothing in it is white: its values are {_listed([*map(str, values)])}, the brightest is {values[-1]} "
                f"of 255. {_WAY_OUT}"
            )
        return grey_HW > 0
    return grey_HW >= WHITE


def _listed(shown: list[str]) -> str:
    return ", ".join(shown if len(shown) <= 6 else [*shown[:4], "…", shown[-1]])


def _are_classes(colours_K3: np.ndarray) -> bool:
    """Whether there are more colours than those of one thing, its ground, and the tones between on its edge."""
    colours_K3 = colours_K3.astype(float)
    distance_KK = np.linalg.norm(colours_K3[:, None] - colours_K3, axis=2)
    start, end = np.unravel_index(distance_KK.argmax(), distance_KK.shape)
    along_3 = (colours_K3[end] - colours_K3[start]) / distance_KK[start, end]
    from_start_K3 = colours_K3 - colours_K3[start]
    aside_K3 = from_start_K3 - (from_start_K3 @ along_3)[:, None] * along_3
    return bool(np.linalg.norm(aside_K3, axis=1).max() > _SAME_LINE)
