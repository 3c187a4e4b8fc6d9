"""Repaint masks from the object masks that a dataset ships, dilated.

The object's own outline: a picture repainted inside it can keep the outline's shape, and with it the class.
Where that matters use `raygen.maskers.box`.
"""

# N images, H height, W width, C colour channels

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.ndimage import distance_transform_edt, find_objects

from raygen.errors import RowError, or_row_error
from raygen.maskers.base import MaskerBase, Repaint


class TruthConfig(MaskerBase):
    """Repaint the object.

    Attributes:
        dilation_px: Radius by which the object is grown, pixels of the picture. 8 is the stride of Stable
            Diffusion's latents: diffusers samples the mask at every 8th pixel, so thinner regions can vanish.
    """

    name: Literal["truth"] = "truth"
    dilation_px: int = Field(8, ge=0)


class ObjectMasker:
    """Repaint = what is made of the dataset's object mask.

    Args:
        dilation_px: How far it grows.
    """

    label_column: ClassVar = "source_label"

    def __init__(self, dilation_px: int) -> None:
        self.dilation_px = dilation_px

    def __call__(
        self, images: Sequence[np.ndarray], objects: Sequence[np.ndarray | RowError | None], labels: Sequence[int]
    ) -> list[Repaint | RowError]:
        """Masks per picture; a RowError where there is no usable object mask."""
        return [or_row_error(self._checked, *pair) for pair in zip(images, objects, strict=True)]

    def _checked(self, image_HWC: np.ndarray, object_HW: np.ndarray | RowError | None) -> Repaint:
        return self.repaint(checked_object(image_HWC, object_HW))

    def repaint(self, object_HW: np.ndarray) -> Repaint:
        """The mask, dilated, and the mask."""
        return Repaint(dilate(object_HW, radius_px=self.dilation_px), object_HW)


Config = TruthConfig


def load(config: TruthConfig, classifier_folder: str, *, device: str) -> ObjectMasker:
    """The masker of a config."""
    return ObjectMasker(config.dilation_px)


def checked_object(image_HWC: np.ndarray, object_HW: np.ndarray | RowError | None) -> np.ndarray:
    """The object mask, (H, W) bool, once it is known to fit its picture.

    Args:
        image_HWC: The picture, (H, W, 3) uint8.
        object_HW: (H, W) bool, why it could not be read, or None where there is none.

    Raises:
        RowError: There is none, it could not be read, is of another size than the picture, or selects nothing.
    """
    if isinstance(object_HW, RowError):
        raise object_HW
    if object_HW is None:
        raise RowError("the dataset ships no object mask for this image; add `object_png` to it, or use another masker")
    if object_HW.shape != image_HWC.shape[:2]:
        found, expected = (" x ".join(map(str, shape)) for shape in (object_HW.shape, image_HWC.shape[:2]))
        raise RowError(f"the object mask is {found} but the picture is {expected} (height x width); mend the dataset")
    if not object_HW.any():
        raise RowError(
            "the object mask selects no pixel: it is black all over; mend it in the dataset, or leave this image out"
        )
    return object_HW


def dilate(mask_HW: np.ndarray, *, radius_px: int) -> np.ndarray:
    """Every pixel whose centre is within `radius_px` of a True pixel's centre, (H, W) bool."""
    if radius_px == 0 or not mask_HW.any():
        return mask_HW
    # By distances, in the mask's own corner: a dilation with a disc takes 25 ms of a 512 px picture, this 3 to 6.
    (box,) = find_objects(mask_HW.astype(np.uint8))
    near = tuple(slice(max(0, side.start - radius_px), side.stop + radius_px) for side in box)
    grown_HW = np.zeros_like(mask_HW)
    grown_HW[near] = distance_transform_edt(~mask_HW[near]) <= radius_px
    return grown_HW
