"""Copy and paste: an object taken out of a picture by a classical inpainter, another one put in its place."""

# H height, W width, C colour channels, h and w of an object's crop

import cv2
import numpy as np

from raygen.inpainters.fills import continued
from raygen.maskers.truth import dilate

# Longer side of a picture here: the inpainter's time grows with the hole, and a classifier's pictures are not larger.
MAX_SIDE_PX = 512


def paste_object(
    image_HWC: np.ndarray,
    removed_HW: np.ndarray | None,
    donor_HWC: np.ndarray,
    object_HW: np.ndarray,
    *,
    grown_px: int,
) -> np.ndarray:
    """A picture with another one's object in the place of its own, (H, W, 3) uint8, at most `MAX_SIDE_PX` long.

    The old object goes by `cv2.inpaint` (Telea). The new one is scaled, in its own proportions, to fit into the old
    one's bounding box, and stands in its middle; nothing of it is cut off, so that the old outline does not show.

    Args:
        image_HWC: The picture, (H, W, 3) uint8.
        removed_HW: What is taken out of it, (H, W) bool; None or empty: nothing, and the new object stands where its
            own picture has it.
        donor_HWC: The picture that the new object is of, (H, W, 3) uint8, of any size.
        object_HW: That object, (H, W) bool, not empty.
        grown_px: How far what is taken out reaches beyond the old object on each side.
    """
    height, width = image_HWC.shape[:2]
    scale = min(1.0, MAX_SIDE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        image_HWC = cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA)
        if removed_HW is not None:
            removed_HW = cv2.resize(removed_HW.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if removed_HW is None or not removed_HW.any():
        picture_HWC, box = image_HWC.copy(), _scaled(_box(object_HW), object_HW.shape[:2], (size[1], size[0]))
    else:
        picture_HWC, box = _without(image_HWC, removed_HW), _shrunk(_box(removed_HW), round(grown_px * scale))
    top, left, bottom, right = _box(object_HW)
    return _placed(picture_HWC, donor_HWC[top:bottom, left:right], object_HW[top:bottom, left:right], box)


def shrink(mask_HW: np.ndarray, by_px: int) -> np.ndarray:
    """A mask without its outermost pixels, (H, W) bool; the mask itself where nothing would be left.

    It undoes the growth of a repaint mask: the rim still shows the background that the object came from.
    """
    shrunk_HW = ~dilate(~mask_HW, radius_px=by_px)
    return shrunk_HW if shrunk_HW.any() else mask_HW


Box = tuple[int, int, int, int]  # top, left, bottom, right; the last two are not of it


def _box(mask_HW: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def _scaled(box: Box, of: tuple[int, ...], to: tuple[int, int]) -> Box:
    ratios = (to[0] / of[0], to[1] / of[1]) * 2
    top, left, bottom, right = (round(edge * ratio) for edge, ratio in zip(box, ratios, strict=True))
    return top, left, max(top + 1, bottom), max(left + 1, right)


def _shrunk(box: Box, by_px: int) -> Box:
    """A box, smaller on each side; of a box that is too small for that, its middle pixel."""
    top, left, bottom, right = box
    down, across = min(by_px, (bottom - top - 1) // 2), min(by_px, (right - left - 1) // 2)
    return top + down, left + across, bottom - down, right - across


def _without(image_HWC: np.ndarray, removed_HW: np.ndarray) -> np.ndarray:
    if removed_HW.all():  # nothing is left to go by
        return np.broadcast_to(image_HWC.mean(axis=(0, 1)).round().astype(np.uint8), image_HWC.shape).copy()
    return continued(image_HWC, removed_HW)


def _placed(picture_HWC: np.ndarray, crop_hwC: np.ndarray, object_hw: np.ndarray, box: Box) -> np.ndarray:
    """The picture with the crop's object in the middle of a box, as large as fits into it."""
    top, left, bottom, right = box
    height, width = object_hw.shape
    scale = min((bottom - top) / height, (right - left) / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    crop_hwC = cv2.resize(np.ascontiguousarray(crop_hwC), size, interpolation=how)
    share_hw1 = cv2.resize(object_hw.astype(np.float32), size, interpolation=how)[..., None]
    top, left = top + (bottom - top - size[1]) // 2, left + (right - left - size[0]) // 2
    place = (slice(top, top + size[1]), slice(left, left + size[0]))
    mixed_hwC = share_hw1 * crop_hwC + (1 - share_hw1) * picture_HWC[place]
    picture_HWC[place] = np.round(mixed_hwC).astype(np.uint8)
    return picture_HWC
