"""How a picture comes into a classifier's square, and how maps and masks come there and back.

One place for all that look at pictures with a classifier: fits, scorer, predictor, pruner, CAM masker and report.
"""

# N images, H height, W width, C colour channels, S side of the classifier's square, T side of the whole picture's

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from raygen.images import resize_mask

Framing = Literal["squash", "resize_crop", "center_crop", "square_crop"]
Shape = Literal["squash", "resize", "cut"]
Interpolation = Literal["bilinear", "bicubic", "lanczos", "nearest", "box", "hamming"]

# The whole picture's side to that of the crop in its middle: 256 to 224, as of old (group DRO's, JTT's and DFR's code).
WHOLE_TO_CROP = (256, 224)


@dataclass(frozen=True, slots=True)
class Resizing:
    """How a picture becomes a square of T x T.

    Attributes:
        shape: "squash": all of it is squashed. "resize": the shorter side is resized to T, and the middle cut out then;
            "cut": the largest square in its middle is cut out first. These differ by less than a pixel.
        interpolation: Pillow's filter.
    """

    shape: Shape = "squash"
    interpolation: Interpolation = "bilinear"

    def __call__(self, image_HWC: np.ndarray, size_px: int) -> np.ndarray:
        """The square, (T, T, 3) uint8."""
        if self.shape != "resize":
            rows, columns = self.part(*image_HWC.shape[:2])
            return squash(image_HWC[rows, columns], size_px, self.interpolation)
        # The same as resizing all of the picture and cutting then, as torchvision does, its rounding included: what
        # lies beyond the cut has a part in the pixels at its border.
        sides = image_HWC.shape[1::-1]
        resized = [size_px if side == min(sides) else int(size_px * side / min(sides)) for side in sides]
        first = [round((length - size_px) / 2) for length in resized]
        left, top = (at * side / length for at, side, length in zip(first, sides, resized, strict=True))
        right, bottom = ((at + size_px) * side / length for at, side, length in zip(first, sides, resized, strict=True))
        return squash(image_HWC, size_px, self.interpolation, box=(left, top, right, bottom))

    @property
    def takes_middle(self) -> bool:
        """Whether only the largest square in the middle of a picture is seen, its aspect ratio kept."""
        return self.shape != "squash"

    def plain(self) -> dict[str, Any]:
        """Plain data for what decides stored pictures; empty for squashing bilinearly."""
        return {} if self == Resizing() else asdict(self)

    def part(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of a picture that the square shows, to the pixel."""
        if not self.takes_middle:
            return slice(0, height), slice(0, width)
        side = min(height, width)
        top, left = (round((length - side) / 2) for length in (height, width))  # as torchvision's CenterCrop
        return slice(top, top + side), slice(left, left + side)


SQUASHING = Resizing()


@dataclass(frozen=True, slots=True)
class Frame:
    """What of a picture a classifier sees, and at which size.

    A picture becomes a square of T x T, by squashing it or from its middle; where T is more than S, the S x S in the
    middle of that is taken. Positions in that square and in what it shows differ by a scale per axis only.

    Attributes:
        size_px: S, side of the classifier's square.
        framing: "squash": all of the picture, T = S; "resize_crop": its middle, squashed to T first; "center_crop":
            its middle, the aspect ratio kept; "square_crop": the same, T = S.
        resize_px: T, where that is not S; None: S * 256 / 224, rounded down.
        interpolation: Pillow's filter.
    """

    size_px: int
    framing: Framing = "squash"
    resize_px: int | None = None
    interpolation: Interpolation = "bilinear"

    @property
    def whole_px(self) -> int:
        """T, side of the square to which the whole picture, or the square in its middle, is brought."""
        whole, crop = WHOLE_TO_CROP
        if self.framing in ("squash", "square_crop"):
            return self.size_px
        return self.size_px * whole // crop if self.resize_px is None else self.resize_px

    @property
    def margin_px(self) -> int:
        """Where the crop begins on either axis, as torchvision's `CenterCrop` rounds it."""
        return round((self.whole_px - self.size_px) / 2)

    @property
    def inside(self) -> slice:
        """What of the square of T x T is in the crop, on either axis."""
        return slice(self.margin_px, self.margin_px + self.size_px)

    @property
    def resizing(self) -> Resizing:
        """How a picture becomes the square of T x T."""
        shapes: dict[Framing, Shape] = {"center_crop": "resize", "square_crop": "cut"}
        return Resizing(shapes.get(self.framing, "squash"), self.interpolation)

    def whole(self, image_HWC: np.ndarray) -> np.ndarray:
        """The square of T x T of a picture of any size, (T, T, 3) uint8."""
        return self.resizing(image_HWC, self.whole_px)

    def picture(self, image_HWC: np.ndarray) -> np.ndarray:
        """What the classifier sees of a picture of any size, (S, S, 3) uint8."""
        return self.whole(image_HWC)[self.inside, self.inside]

    def mask(self, mask_HW: np.ndarray) -> np.ndarray:
        """What the classifier sees of a picture's mask, (S, S) bool, by nearest neighbour."""
        part_HW = mask_HW[self.resizing.part(*mask_HW.shape)]
        return resize_mask(part_HW, height=self.whole_px, width=self.whole_px)[self.inside, self.inside]

    def on_whole(self, map_SS: np.ndarray) -> np.ndarray:
        """A map or mask over what the classifier sees, over the square of T x T, (T, T).

        What the classifier does not see is 0, or False: it led to nothing.
        """
        whole_TT = np.zeros((self.whole_px, self.whole_px), dtype=map_SS.dtype)
        whole_TT[self.inside, self.inside] = map_SS
        return whole_TT

    def on_picture(self, map_SS: np.ndarray, *, height: int, width: int) -> np.ndarray:
        """A mask or heat over what the classifier sees, over a picture of that size.

        Args:
            map_SS: (S, S), bool, which is stretched by nearest neighbour, or float32, bilinearly.
            height: The picture's height, pixels.
            width: Its width.

        Returns:
            (height, width); False or 0 where the classifier does not see.
        """
        on_picture_HW = np.zeros((height, width), dtype=map_SS.dtype)
        part = self.resizing.part(height, width)
        part_height, part_width = on_picture_HW[part].shape
        whole_TT = self.on_whole(map_SS)
        if map_SS.dtype == np.bool_:
            on_picture_HW[part] = resize_mask(whole_TT, height=part_height, width=part_width)
        else:
            heat = Image.fromarray(whole_TT).resize((part_width, part_height), Image.Resampling.BILINEAR)
            on_picture_HW[part] = np.asarray(heat)
        return on_picture_HW


def squash(
    image_HWC: np.ndarray,
    size_px: int,
    interpolation: Interpolation = "bilinear",
    *,
    box: tuple[float, float, float, float] | None = None,
) -> np.ndarray:
    """Picture, or the part of it in a box (left, top, right, bottom), squashed to size_px x size_px, uint8.

    Unchanged when the size is right.
    """
    if image_HWC.shape[:2] == (size_px, size_px):
        return image_HWC
    kind = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(np.ascontiguousarray(image_HWC)).resize((size_px, size_px), kind, box=box))


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
