"""How the pictures of an epoch are varied: drawn for each picture by itself, computed for a whole batch at once.

What a picture gets depends on the seed, the epoch, which picture it is and how often it came before in this epoch; not
on its batch, its place in the order, or how many workers there are. Draws are made on the CPU. The arithmetic is done
where the fit is, and is exact in float32, so that a picture has the same bits in whatever batch, on whatever device.
"""

# N images, M draws of an epoch, D draws of one worker, B images of a batch, U uniform numbers, A attempts,
# T side of the whole picture's square, S side of the classifier's, C colour channels

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from raygen.classifier.framing import Frame, as_input
from raygen.seeding import row_seed

Augment = Literal["none", "flip_shift", "random_resized_crop"]

MAX_SHIFT_PX = 4
# Share of the picture's area, and width to height, of a random crop: group DRO's and DFR's on Waterbirds; torchvision
# has (0.08, 1) for ImageNet.
AREA = (0.7, 1.0)
ASPECT = (3 / 4, 4 / 3)
# Crops that are drawn until one fits, as torchvision does; then all of the picture.
ATTEMPTS = 10
# Uniform numbers of a picture.
NUM_UNIFORMS = {"none": 0, "flip_shift": 3, "random_resized_crop": 3 + 2 * ATTEMPTS}
# Weights of resampling are whole numbers over this. A uint8 times such a weight, and a sum of those of one pixel, are
# whole numbers below 2**24, which float32 has all: no sum is ever rounded, in whatever order it is made. (TF32 would
# round them; torch has it off for matrix products unless it is asked for.)
WEIGHT_UNIT = 1 << 15


def uniforms(kind: Augment, position_M: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Uniform numbers of each draw of an epoch, in [0, 1), (M, U) float64.

    Args:
        kind: What they are for.
        position_M: Which image each draw is, in the epoch's order, (M,) int.
        seed: The fit's.
        epoch: From 0.
    """
    num = NUM_UNIFORMS[kind]
    found_MU = np.empty((len(position_M), num))
    number_M = occurrences_before(position_M)
    for number in range(int(number_M.max(initial=-1)) + 1) if num else ():
        draws = np.flatnonzero(number_M == number)
        # Row after row of one stream: an image's numbers are where they are, whatever comes behind it.
        rng = np.random.default_rng(row_seed(seed, f"augment/{epoch}/{number}"))
        found_MU[draws] = rng.random((int(position_M[draws].max()) + 1, num))[position_M[draws]]
    return found_MU


def occurrences_before(position_M: np.ndarray) -> np.ndarray:
    """How often each draw's image was drawn before, (M,) int."""
    order = np.argsort(position_M, kind="stable")
    in_order = position_M[order]
    starts = np.flatnonzero(np.diff(in_order, prepend=-1))
    number_M = np.empty(len(position_M), dtype=np.int64)
    number_M[order] = np.arange(len(position_M)) - np.repeat(starts, np.diff(starts, append=len(position_M)))
    return number_M


@dataclass(frozen=True, slots=True)
class Crops:
    """Rectangles of square pictures, each mirrored or not.

    Attributes:
        top_D: First row, (D,) int.
        left_D: First column.
        height_D: Rows.
        width_D: Columns.
        flip_D: Whether it is mirrored, (D,) bool.
    """

    top_D: np.ndarray
    left_D: np.ndarray
    height_D: np.ndarray
    width_D: np.ndarray
    flip_D: np.ndarray


def random_crops(uniform_DU: np.ndarray, side_px: int) -> Crops:
    """Random crops as torchvision's `RandomResizedCrop` draws them, mirrored with probability 1/2.

    Args:
        uniform_DU: In [0, 1), (D, 3 + 2 * ATTEMPTS): mirror, row, column, then areas and aspects of the attempts.
        side_px: T.
    """
    area_DA = side_px**2 * (AREA[0] + (AREA[1] - AREA[0]) * uniform_DU[:, 3 : 3 + ATTEMPTS])
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    aspect_DA = np.exp(low + (high - low) * uniform_DU[:, 3 + ATTEMPTS :])
    width_DA, height_DA = np.rint(np.sqrt(area_DA * aspect_DA)), np.rint(np.sqrt(area_DA / aspect_DA))
    fits_DA = (width_DA <= side_px) & (height_DA <= side_px) & (np.minimum(width_DA, height_DA) > 0)
    first_D = fits_DA.argmax(axis=1)[:, None]
    height_D, width_D = (
        np.where(fits_DA.any(axis=1), np.take_along_axis(lengths_DA, first_D, axis=1)[:, 0], side_px).astype(np.int64)
        for lengths_DA in (height_DA, width_DA)
    )
    top_D, left_D = (
        (uniform_DU[:, column] * (side_px - length_D + 1)).astype(np.int64)
        for column, length_D in ((1, height_D), (2, width_D))
    )
    return Crops(top_D, left_D, height_D, width_D, uniform_DU[:, 0] < 0.5)


class Variation:
    """How each of one worker's draws of an epoch is varied.

    Args:
        kind: How.
        uniform_DU: The draws' uniform numbers, (D, U); see `uniforms`.
        frame: What the classifier sees of a picture.
        device: Where the pictures will be.
    """

    def __init__(self, kind: Augment, uniform_DU: np.ndarray, frame: Frame, device: str) -> None:
        self._kind, self._frame = kind, frame
        numbers: tuple[np.ndarray, ...] = ()
        if kind == "flip_shift":
            shift_D2 = (uniform_DU[:, 1:] * (2 * MAX_SHIFT_PX + 1)).astype(np.int64) - MAX_SHIFT_PX
            numbers = (*shift_D2.T, uniform_DU[:, 0] < 0.5)
        elif kind == "random_resized_crop":
            crops = random_crops(uniform_DU, frame.whole_px)
            numbers = (crops.top_D, crops.left_D, crops.height_D, crops.width_D, crops.flip_D)
        # All of an epoch's at once: a small copy to the device at every step would make it wait.
        self._numbers = [torch.from_numpy(np.ascontiguousarray(number_D)).to(device) for number_D in numbers]

    def __call__(self, images_BTTC: torch.Tensor, start: int) -> torch.Tensor:
        """Pictures as the classifier's input, float in [0, 1], (B, C, S, S).

        Args:
            images_BTTC: Whole pictures, uint8, on the device; a mask as one more channel is varied as its picture is.
            start: Which of the draws the first is; the others are those that follow.
        """
        numbers = [number_D[start : start + len(images_BTTC)] for number_D in self._numbers]
        if self._kind == "flip_shift":
            return flip_shift(images_BTTC, *numbers, frame=self._frame)
        if self._kind == "random_resized_crop":
            return resized_crops(images_BTTC, *numbers, size_px=self._frame.size_px)
        return as_input(images_BTTC[:, self._frame.inside, self._frame.inside])


def flip_shift(
    images_BTTC: torch.Tensor, down_B: torch.Tensor, right_B: torch.Tensor, flip_B: torch.Tensor, *, frame: Frame
) -> torch.Tensor:
    """Pictures in the classifier's frame, mirrored or not, then moved, their edges repeated, (B, C, S, S) in [0, 1].

    Args:
        images_BTTC: Whole pictures, uint8.
        down_B: From which row on each is seen, from -MAX_SHIFT_PX to MAX_SHIFT_PX.
        right_B: The same of columns, of the mirrored picture.
        flip_B: Whether it is mirrored.
        frame: The classifier's.
    """
    num, whole_px, device, channels = len(images_BTTC), frame.whole_px, images_BTTC.device, images_BTTC.shape[-1]
    last, places_S = frame.size_px - 1, torch.arange(frame.size_px, device=device)
    row_BS, column_BS = ((places_S + shift_B[:, None]).clamp(0, last) for shift_B in (down_B, right_B))
    column_BS = torch.where(flip_B[:, None], last - column_BS, column_BS)
    first_B11 = torch.arange(num, device=device)[:, None, None] * whole_px**2
    pixel_BSS = (
        first_B11 + (row_BS + frame.margin_px)[:, :, None] * whole_px + (column_BS + frame.margin_px)[:, None, :]
    )
    # As rows of a table of pixels: on a CPU a quarter of the time of an index for each axis.
    chosen = images_BTTC.reshape(-1, channels).index_select(0, pixel_BSS.view(-1))
    return as_input(chosen.view(num, frame.size_px, frame.size_px, channels))


def resized_crops(
    images_BTTC: torch.Tensor,
    top_B: torch.Tensor,
    left_B: torch.Tensor,
    height_B: torch.Tensor,
    width_B: torch.Tensor,
    flip_B: torch.Tensor,
    *,
    size_px: int,
) -> torch.Tensor:
    """Rectangles of pictures at the classifier's size, mirrored or not, (B, C, S, S) in [0, 1].

    Bilinear with antialias, along rows and then along columns, each rounded to uint8, as torchvision resizes uint8
    tensors; a pixel may differ from its by one where a sum lies in the middle between two.
    """
    (num, side_px), channels = images_BTTC.shape[:2], images_BTTC.shape[-1]
    across_BST = resampling_weights(left_B, width_B, flip_B, side_px=side_px, size_px=size_px)
    down_BST = resampling_weights(top_B, height_B, torch.zeros_like(flip_B), side_px=side_px, size_px=size_px)
    lines_BTCT = images_BTTC.permute(0, 1, 3, 2).to(torch.float32, memory_format=torch.contiguous_format)
    narrow_BTCS = _rounded(torch.bmm(lines_BTCT.view(num, side_px * channels, side_px), across_BST.mT))
    small_BSCS = _rounded(torch.bmm(down_BST, narrow_BTCS.view(num, side_px, channels * size_px))).div_(255)
    pictures_BCSS = small_BSCS.view(num, size_px, channels, size_px).permute(0, 2, 1, 3)
    return pictures_BCSS.contiguous(memory_format=torch.channels_last)


def resampling_weights(
    first_B: torch.Tensor, length_B: torch.Tensor, flip_B: torch.Tensor, *, side_px: int, size_px: int
) -> torch.Tensor:
    """What each pixel of a line gives to each of a shorter or longer one, whole numbers over WEIGHT_UNIT, (B, S, T).

    Args:
        first_B: Where the part to be resampled begins, (B,) int.
        length_B: Its pixels.
        flip_B: Whether it is mirrored, (B,) bool.
        side_px: T, pixels of the line.
        size_px: S, pixels of the new one.
    """
    inverse_B11 = size_px / length_B[:, None, None].float()
    places_1S1 = torch.arange(size_px, device=first_B.device)[None, :, None]
    places_BS1 = torch.where(flip_B[:, None, None], size_px - 1 - places_1S1, places_1S1)
    middle_BS1 = (places_BS1 + 0.5) / inverse_B11
    pixel_BT = torch.arange(side_px, device=first_B.device) - first_B[:, None]
    is_inside_BT = (pixel_BT >= 0) & (pixel_BT < length_B[:, None])
    pixel_B1T = torch.where(is_inside_BT, pixel_BT + 0.5, torch.inf)[:, None, :]
    # A triangle over the new pixel's middle, as wide as that pixel or, where it is enlarged, as an old one.
    weight_BST = (pixel_B1T - middle_BS1).abs_().mul_(-inverse_B11.clamp(max=1)).add_(1).clamp_(min=0)
    return weight_BST.mul_(WEIGHT_UNIT / weight_BST.sum(2, keepdim=True)).round_()


def _rounded(sums: torch.Tensor) -> torch.Tensor:
    return sums.div_(WEIGHT_UNIT).add_(0.5).floor_().clamp_(0, 255)
