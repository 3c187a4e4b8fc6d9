"""Fills: what goes into a region where no model paints (Chang et al. 2021, arXiv 2106.01127).

A counterfactual picture has another value where the object is and the label "not y"; a factual one has another
background and keeps its label y. Plain numpy on one picture at a time, so that a picture's pixels depend on its own
seed and on nothing else; the same functions make candidates and fill pictures while a classifier is fitted.

The authors' code differs, and is not copied, in this: it shuffles the tensor of the whole batch, so that pixels go from
one picture, channel and region into another; where an object touches the left edge it takes the picture for one without
an object, and leaves it as it is; and where the pictures of a batch are of one class, the background of another class
is grey.
"""

# H height, W width, C colour channels, L pixels of a line

from dataclasses import dataclass
from typing import Literal, Protocol

import cv2
import numpy as np

from raygen.errors import RowError
from raygen.images import resize_image, resize_mask

Role = Literal["counterfactual", "factual"]
CounterfactualValue = Literal["grey", "random", "shuffle", "tile", "telea", "inpaint"]
FactualValue = Literal["random", "shuffle", "mixed_rand", "fgsm"]
# Those that are made here; "inpaint" is a model's, "fgsm" a classifier's gradient.
Fill = Literal["grey", "random", "shuffle", "tile", "telea", "mixed_rand"]
Shape = Literal["box", "segmentation"]
# What the loss of a counterfactual picture asks for; see `raygen.algorithms.terms`.
NotLabel = Literal["exact", "uniform", "uniform_except"]

# The grey that is 0 after scaling to [-1, 1]: 127.5, rounded up.
GREY = 128
# Standard deviation of the noise of "random", of pixels in [0, 1].
NOISE = 0.2
# How far around a pixel "telea" looks, pixels (that of OpenCV's own example).
TELEA_RADIUS_PX = 3
# Which of these functions a picture was made by; another number where one gives other pixels.
VERSION = "1"


@dataclass(frozen=True, slots=True)
class Infilling:
    """What a fit does with counterfactual and factual pictures; plain data.

    Attributes:
        counterfactual: What is put where the object is, in a copy of each picture of a batch; None: nothing is.
        factual: What is put around the object, in another copy.
        counterfactual_region: What of the object.
        factual_region: Around what of it.
        fgsm_epsilon: The most that a pixel changes by "fgsm", of pixels in [0, 1].
        not_label: What the loss of counterfactual pictures asks for, these and candidates.
    """

    counterfactual: CounterfactualValue | None
    factual: FactualValue | None
    counterfactual_region: Shape
    factual_region: Shape
    fgsm_epsilon: float
    not_label: NotLabel


class FindOther(Protocol):
    """Gives a picture of another class and its object mask."""

    def __call__(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]: ...  # noqa: D102


def filled(
    value: Fill,
    image_HWC: np.ndarray,
    repaint_HW: np.ndarray,
    *,
    rng: np.random.Generator,
    other: FindOther | None = None,
) -> np.ndarray:
    """The picture with a value in its region, (H, W, C) uint8; equal to the bit outside of it.

    Args:
        value: Which.
        image_HWC: The picture, uint8.
        repaint_HW: The region, True = filled, bool. "tile" takes its band from outside of it.
        rng: Draws.
        other: Gives the picture whose background "mixed_rand" takes.

    Raises:
        RowError: The region is another size than the picture.
    """
    if repaint_HW.shape != image_HWC.shape[:2]:
        raise RowError(f"the mask is {repaint_HW.shape}, the picture {image_HWC.shape[:2]}")
    if value == "shuffle":
        return shuffled(image_HWC, repaint_HW, rng=rng)
    if value == "grey":
        values_HWC = np.full_like(image_HWC, GREY)
    elif value == "random":
        values_HWC = random_colours(image_HWC, rng=rng)
    elif value == "tile":
        values_HWC = tiled(image_HWC, repaint_HW)
    elif value == "telea":
        values_HWC = continued(image_HWC, repaint_HW)
    else:
        assert other is not None, "mixed_rand needs a picture of another class"
        values_HWC = other_background(*other(rng), height=image_HWC.shape[0], width=image_HWC.shape[1])
    return np.where(repaint_HW[..., None], values_HWC, image_HWC)


def region(object_HW: np.ndarray, role: Role, shape: Shape) -> np.ndarray:
    """What of a picture is replaced, (H, W) bool: the object for a counterfactual, all but the object for a factual.

    Args:
        object_HW: The object, bool.
        role: Of the picture that is made.
        shape: Whether the object counts as it is, or with all of its bounding rectangle, which tells nothing of its
            outline.

    Raises:
        RowError: There is no object, or it covers the whole picture: nothing would change, or nothing would stay.
    """
    if not object_HW.any():
        raise RowError("the object mask selects no pixel, so there is nothing to replace or to keep")
    inside_HW = box_of(object_HW) if shape == "box" else object_HW
    if inside_HW.all():
        what = "the object's bounding rectangle" if shape == "box" else "the object mask"
        raise RowError(
            f"{what} covers the whole picture, so that no background is left; leave the image out"
            + (f", or set synthesis.{role}_region=segmentation" if shape == "box" else ", or mend its mask")
        )
    return inside_HW if role == "counterfactual" else ~inside_HW


def box_of(object_HW: np.ndarray) -> np.ndarray:
    """The bounding rectangle of a mask that is not empty, (H, W) bool."""
    rows, columns = (np.flatnonzero(object_HW.any(axis=axis)) for axis in (1, 0))
    box_HW = np.zeros_like(object_HW)
    box_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box_HW


def random_colours(image_HWC: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """One colour with noise, in the picture's size, uint8.

    Of pixels in [0, 1]: a uniform number for each channel, plus N(0, 0.2) for each pixel and channel, clamped.
    """
    noise_HWC = rng.standard_normal(image_HWC.shape, dtype=np.float32) * np.float32(NOISE)
    colour_C = rng.random(image_HWC.shape[-1], dtype=np.float32)
    return np.rint((colour_C + noise_HWC).clip(0, 1) * 255).astype(np.uint8)


def shuffled(image_HWC: np.ndarray, repaint_HW: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """The picture with all values of its region, of all channels together, in a random order; a new array."""
    picture_HWC = image_HWC.copy()
    picture_HWC[repaint_HW] = rng.permutation(image_HWC[repaint_HW].reshape(-1)).reshape(-1, image_HWC.shape[-1])
    return picture_HWC


def tiled(image_HWC: np.ndarray, object_HW: np.ndarray) -> np.ndarray:
    """The picture's widest band without object, repeated and cut to the picture's size, uint8.

    The longest run of whole rows, or of whole columns, in which there is no object: the thicker of the two, the rows
    where they are alike, the first of several. (The paper speaks of the largest rectangle, its code takes this.)
    Where every row and column has some of the object, grey; where there is no object, the picture.
    """
    if not object_HW.any():
        return image_HWC
    rows, columns = (longest_run(np.asarray(~object_HW.any(axis=axis))) for axis in (1, 0))
    if not len(rows) and not len(columns):
        return np.full_like(image_HWC, GREY)
    if len(rows) >= len(columns):
        return image_HWC[np.resize(rows, image_HWC.shape[0])]
    return image_HWC[:, np.resize(columns, image_HWC.shape[1])]


def continued(image_HWC: np.ndarray, repaint_HW: np.ndarray) -> np.ndarray:
    """The picture with its region filled from the region's edge inwards, (H, W, 3) uint8 (Telea 2004).

    OpenCV's implementation of "An Image Inpainting Technique Based on the Fast Marching Method": the nearest there is
    to an inpainting model where none is at hand. It continues colours and edges, and invents nothing.
    """
    return cv2.inpaint(np.ascontiguousarray(image_HWC), repaint_HW.astype(np.uint8), TELEA_RADIUS_PX, cv2.INPAINT_TELEA)


def longest_run(free_L: np.ndarray) -> np.ndarray:
    """Positions of the longest run of True values, the first of several; none where there is no True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free_L, [False]]).astype(np.int8)))
    starts, stops = edges[::2], edges[1::2]
    if not len(starts):
        return np.arange(0)
    longest = int((stops - starts).argmax())
    return np.arange(starts[longest], stops[longest])


def other_background(image_HWC: np.ndarray, object_HW: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """The background of another picture, tiled around its object's bounding rectangle, at a size, uint8."""
    image_HWC = resize_image(image_HWC, height=height, width=width)
    object_HW = resize_mask(object_HW, height=height, width=width)
    # A small object of a larger picture may be gone.
    return tiled(image_HWC, box_of(object_HW) if object_HW.any() else object_HW)
