"""Copy and paste, by pictures of plain colours."""

import numpy as np
import pytest

from raygen.synthesis.pasting import MAX_SIDE_PX, paste_object, shrink

GREEN, RED, BLUE = ((0, 200, 0), (200, 0, 0), (0, 0, 200))
# Of the ground where something was taken out: the inpainter goes on with its gradients, and is not exact.
NEAR = 8


def picture(
    side: int, ground: tuple[int, ...], box: tuple[slice, slice], colour: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """A rectangle of one colour on a ground of another, and where it is."""
    image_HWC = np.full((side, side, 3), ground, dtype=np.uint8)
    object_HW = np.zeros((side, side), dtype=bool)
    image_HWC[box], object_HW[box] = colour, True
    return image_HWC, object_HW


def grown(mask_HW: np.ndarray, by: int) -> np.ndarray:
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    found_HW = np.zeros_like(mask_HW)
    found_HW[rows[0] - by : rows[-1] + by + 1, columns[0] - by : columns[-1] + by + 1] = True
    return found_HW


@pytest.mark.parametrize("donor_side", [32, 64, 200])
def test_the_old_object_is_gone_and_the_new_one_fits_into_its_place(donor_side: int) -> None:
    image_HWC, old_HW = picture(64, GREEN, np.s_[20:40, 16:48], RED)
    before = image_HWC.copy()
    square = slice(donor_side // 4, donor_side // 2)
    donor_HWC, new_HW = picture(donor_side, RED, (square, square), BLUE)
    found_HWC = paste_object(image_HWC, grown(old_HW, 4), donor_HWC, new_HW, grown_px=4)
    # As large as fits into 20 x 32 pixels in its own proportions, in the middle: a square of 20.
    inside = np.s_[20:40, 22:42]
    assert (found_HWC[inside] == BLUE).all()
    found_HWC[inside] = GREEN
    # Nothing is left of the old object, nor of the ground that the new one came from.
    assert np.abs(found_HWC.astype(int) - GREEN).max() <= NEAR
    assert np.array_equal(image_HWC, before)


def test_only_the_object_is_pasted() -> None:
    image_HWC, old_HW = picture(64, GREEN, np.s_[16:48, 16:48], RED)
    donor_HWC, new_HW = picture(64, RED, np.s_[0:32, 0:32], BLUE)
    donor_HWC[:16, :16], new_HW[:16, :16] = RED, False  # an L
    found_HWC = paste_object(image_HWC, old_HW, donor_HWC, new_HW, grown_px=0)
    assert (found_HWC[32:48, 16:48] == BLUE).all()
    assert (found_HWC[16:32, 32:48] == BLUE).all()
    assert np.abs(found_HWC[16:30, 16:30].astype(int) - GREEN).max() <= NEAR


def test_without_an_old_object_the_new_one_stands_where_its_own_picture_has_it() -> None:
    image_HWC = np.full((64, 32, 3), GREEN, dtype=np.uint8)
    donor_HWC, new_HW = picture(64, RED, np.s_[0:32, 32:64], BLUE)
    for removed_HW in (None, np.zeros((64, 32), dtype=bool)):
        found_HWC = paste_object(image_HWC, removed_HW, donor_HWC, new_HW, grown_px=3)
        # Its place is 32 x 16 pixels, of which a square takes 16 x 16.
        assert (found_HWC[8:24, 16:32] == BLUE).all()
        assert (found_HWC == BLUE).all(axis=2).sum() == 256


def test_where_all_is_taken_out_the_mean_colour_stays() -> None:
    image_HWC, _ = picture(8, GREEN, np.s_[0:4, :], RED)
    donor_HWC, new_HW = picture(8, GREEN, np.s_[2:4, 2:4], BLUE)
    found_HWC = paste_object(image_HWC, np.ones((8, 8), dtype=bool), donor_HWC, new_HW, grown_px=3)
    assert (found_HWC == BLUE).all(axis=2).sum() == 4
    assert (found_HWC[0] == (100, 100, 0)).all()


def test_large_pictures_are_made_smaller() -> None:
    image_HWC, old_HW = picture(2 * MAX_SIDE_PX, GREEN, np.s_[200:400, 200:400], RED)
    found_HWC = paste_object(image_HWC, grown(old_HW, 8), *picture(64, RED, np.s_[8:16, 8:16], BLUE), grown_px=8)
    assert found_HWC.shape == (MAX_SIDE_PX, MAX_SIDE_PX, 3)
    assert (found_HWC[101:199, 101:199] == BLUE).all()
    assert np.abs(found_HWC[300].astype(int) - GREEN).max() <= NEAR


def test_the_longer_side_is_what_is_at_most_so_long() -> None:
    image_HWC, old_HW = picture(2 * MAX_SIDE_PX, GREEN, np.s_[100:140, 100:140], RED)
    half = np.s_[:MAX_SIDE_PX]
    found_HWC = paste_object(image_HWC[half], old_HW[half], *picture(64, RED, np.s_[8:16, 8:16], BLUE), grown_px=0)
    assert found_HWC.shape == (MAX_SIDE_PX // 2, MAX_SIDE_PX, 3)


def test_shrinking_undoes_growth_and_leaves_something() -> None:
    _, mask_HW = picture(32, GREEN, np.s_[8:20, 0:20], RED)
    shrunk_HW = shrink(mask_HW, 3)
    rows, columns = (np.flatnonzero(shrunk_HW.any(axis=axis)) for axis in (1, 0))
    # The picture's edge is no outline of the object.
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (11, 16, 0, 16)
    assert np.array_equal(shrink(mask_HW, 0), mask_HW)
    assert np.array_equal(shrink(mask_HW, 9), mask_HW)
