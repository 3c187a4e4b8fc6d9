"""How a picture comes into a classifier's square, and how maps and masks come there and back.

One place for all that look at pictures with a classifier: fits, scorer, predictor, pruner, CAM masker and report.
"""

# N images, H height, W width, C colour channels, S side of the classifier's square, T side of the whole picture's

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from raygen.images import resize_mask

Framing = Literal["squash", "resize_crop"]

# The whole picture's side to that of the crop in its middle: 256 to 224, as of old (group DRO's, JTT's and DFR's code).
WHOLE_TO_CROP = (256, 224)


@dataclass(frozen=True, slots=True)
class Frame:
    """What of a picture a classifier sees, and at which size.

    A picture is squashed to a square of T x T, its aspect ratio lost; "resize_crop" then takes the S x S in the middle.
    Positions in that square and in the picture differ by a scale per axis only.

    Attributes:
        size_px: S, side of the classifier's square.
        framing: "squash": all of the picture, T = S; "resize_crop": its middle, T = S * 256 / 224, rounded down.
    """

    size_px: int
    framing: Framing = "squash"

    @property
    def whole_px(self) -> int:
        """T, side of the square to which the whole picture is squashed."""
        whole, crop = WHOLE_TO_CROP
        return self.size_px if self.framing == "squash" else self.size_px * whole // crop

    @property
    def margin_px(self) -> int:
        """Where the crop begins on either axis, as torchvision's `CenterCrop` rounds it."""
        return round((self.whole_px - self.size_px) / 2)

    @property
    def inside(self) -> slice:
        """What of the whole picture's square is in the crop, on either axis."""
        return slice(self.margin_px, self.margin_px + self.size_px)

    def picture(self, image_HWC: np.ndarray) -> np.ndarray:
        """What the classifier sees of a picture of any size, (S, S, 3) uint8."""
        return squash(image_HWC, self.whole_px)[self.inside, self.inside]

    def mask(self, mask_HW: np.ndarray) -> np.ndarray:
        """What the classifier sees of a picture's mask, (S, S) bool, by nearest neighbour."""
        return resize_mask(mask_HW, height=self.whole_px, width=self.whole_px)[self.inside, self.inside]

    def on_whole(self, map_SS: np.ndarray) -> np.ndarray:
        """A map or mask over what the classifier sees, over the whole picture, (T, T).

        What the classifier does not see is 0, or False: it led to nothing. The rest of the way to the picture is
        stretching.
        """
        whole_TT = np.zeros((self.whole_px, self.whole_px), dtype=map_SS.dtype)
        whole_TT[self.inside, self.inside] = map_SS
        return whole_TT


def squash(image_HWC: np.ndarray, size_px: int) -> np.ndarray:
    """Picture squashed to size_px x size_px by bilinear resampling, uint8; unchanged when the size is right."""
    if image_HWC.shape[:2] == (size_px, size_px):
        return image_HWC
    return np.asarray(Image.fromarray(image_HWC).resize((size_px, size_px), Image.Resampling.BILINEAR))


def preprocess(images: Sequence[np.ndarray], frame: Frame) -> torch.Tensor:
    """Pictures of any size as a classifier's input.

    Args:
        images: Each (H, W, 3) uint8 RGB.
        frame: The classifier's `frame`.

    Returns:
        images_NCHW, float in [0, 1], (N, 3, S, S).
    """
    return as_input(torch.from_numpy(np.stack([frame.picture(image_HWC) for image_HWC in images])))


def as_input(images_NHWC: torch.Tensor) -> torch.Tensor:
    """Pictures that are framed already, uint8 (N, S, S, 3), as a classifier's input, float in [0, 1], (N, 3, S, S)."""
    return images_NHWC.permute(0, 3, 1, 2).float() / 255
