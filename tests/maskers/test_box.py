import numpy as np
import pytest

from raygen.errors import RowError
from raygen.maskers.base import Repaint
from raygen.maskers.box import BoxMasker, bounding_box


@pytest.mark.parametrize("margin_px", [0, 1, 3, 20])
@pytest.mark.parametrize("seed", range(5))
def test_box_holds_exactly_the_pixels_between_the_outermost_ones(seed: int, margin_px: int) -> None:
    rng = np.random.default_rng(seed)
    mask_HW = np.zeros((9, 11), dtype=bool)
    mask_HW[rng.integers(9, size=3), rng.integers(11, size=3)] = True
    rows, columns = np.where(mask_HW)
    expected_HW = np.array(
        [
            [
                rows.min() - margin_px <= y <= rows.max() + margin_px
                and columns.min() - margin_px <= x <= columns.max() + margin_px
                for x in range(11)
            ]
            for y in range(9)
        ]
    )
    np.testing.assert_array_equal(bounding_box(mask_HW, margin_px=margin_px), expected_HW)


def test_two_silhouettes_with_one_box_give_one_repaint_mask() -> None:
    """What the box is for: the repaint mask must not tell a disc from a cross."""
    cross_HW = np.zeros((20, 20), dtype=bool)
    cross_HW[10, 5:15] = cross_HW[5:15, 10] = True
    square_HW = np.zeros((20, 20), dtype=bool)
    square_HW[5:15, 5:15] = True
    image_HWC = np.zeros((20, 20, 3), dtype=np.uint8)
    cross, square = BoxMasker(2)([image_HWC, image_HWC], [cross_HW, square_HW], [0, 1])
    assert isinstance(cross, Repaint)
    assert isinstance(square, Repaint)
    np.testing.assert_array_equal(cross.mask_HW, square.mask_HW)
    np.testing.assert_array_equal(cross.object_HW, square_HW)


def test_missing_and_empty_object_masks_are_row_errors() -> None:
    image_HWC = np.zeros((4, 4, 3), dtype=np.uint8)
    masks = BoxMasker(8)([image_HWC, image_HWC], [None, np.zeros((4, 4), dtype=bool)], [0, 0])
    assert all(isinstance(mask, RowError) for mask in masks)
