from typing import Any

import numpy as np
import oracles
import pytest
from scipy.ndimage import binary_dilation

from raygen.errors import RowError
from raygen.maskers.base import Repaint
from raygen.maskers.truth import ObjectMasker, dilate

IMAGE = np.zeros((12, 14, 3), dtype=np.uint8)


def blob(*pixels: tuple[int, int]) -> np.ndarray:
    mask_HW = np.zeros((12, 14), dtype=bool)
    for pixel in pixels:
        mask_HW[pixel] = True
    return mask_HW


@pytest.mark.parametrize("radius_px", [0, 1, 2, 3, 5])
def test_dilation_reaches_every_pixel_within_the_radius(radius_px: int) -> None:
    mask_HW = blob((0, 0), (6, 7), (6, 8), (11, 3))
    np.testing.assert_array_equal(dilate(mask_HW, radius_px=radius_px), oracles.dilate(mask_HW, radius_px))


def test_repaint_mask_is_the_dilated_object() -> None:
    (repaint,) = ObjectMasker(2)([IMAGE], [blob((6, 7))], [0])
    assert isinstance(repaint, Repaint)
    np.testing.assert_array_equal(repaint.mask_HW, oracles.dilate(blob((6, 7)), 2))
    np.testing.assert_array_equal(repaint.object_HW, blob((6, 7)))


@pytest.mark.parametrize(
    ("object_HW", "reason"),
    [
        (None, "no object mask"),
        (blob(), "selects no pixel"),
        (np.ones((14, 12), dtype=bool), "14 x 12 but the picture is 12 x 14"),
    ],
)
def test_row_without_a_usable_object_mask_says_why_and_leaves_its_neighbours_alone(object_HW: Any, reason: str) -> None:
    good = blob((6, 7))
    masks = ObjectMasker(8)([IMAGE, IMAGE, IMAGE], [good, object_HW, good], [0, 0, 0])
    assert isinstance(masks[1], RowError)
    assert reason in str(masks[1])
    assert isinstance(masks[0], Repaint)
    assert isinstance(masks[2], Repaint)


def test_growing_is_a_dilation_with_a_disc_at_borders_and_of_nothing_too() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        height, width, radius_px = rng.integers(1, 40), rng.integers(1, 40), int(rng.integers(0, 10))
        mask_HW = rng.random((height, width)) < rng.choice([0, 0.005, 0.05, 0.5])
        steps = np.arange(-radius_px, radius_px + 1)
        disc_HW = steps[:, None] ** 2 + steps[None, :] ** 2 <= radius_px**2
        expected_HW = binary_dilation(mask_HW, structure=disc_HW)
        np.testing.assert_array_equal(dilate(mask_HW, radius_px=radius_px), expected_HW)
