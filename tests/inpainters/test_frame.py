"""Where the model paints and what comes back, in pixels."""

import numpy as np
import pytest

from raygen.errors import RowError
from raygen.inpainters.frame import frame_picture

RNG = np.random.default_rng(0)


def picture(height: int, width: int) -> np.ndarray:
    return RNG.integers(256, size=(height, width, 3), dtype=np.uint8)


def mask(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    repaint_HW = np.zeros((height, width), dtype=bool)
    repaint_HW[box[0] : box[1], box[2] : box[3]] = True
    return repaint_HW


@pytest.mark.parametrize(("height", "width"), [(64, 64), (77, 91), (65, 64), (64, 71)])
@pytest.mark.parametrize("crop", [None, 0, 12])
def test_any_size_comes_back_and_outside_the_mask_nothing_changes(height: int, width: int, crop: int | None) -> None:
    image_HWC, repaint_HW = picture(height, width), mask(height, width, (20, 40, 10, 50))
    frame = frame_picture(image_HWC, repaint_HW, stride_px=8, padding_mask_crop=crop)
    assert all(side % 8 == 0 for side in frame.canvas_repaint_HW.shape)
    assert frame.canvas_HWC.shape == (*frame.canvas_repaint_HW.shape, 3)
    painted_HWC = np.full_like(frame.canvas_HWC, 7)
    result_HWC = frame.put_back(painted_HWC, preserve_unmasked=True)
    assert np.array_equal(result_HWC[~repaint_HW], image_HWC[~repaint_HW])
    assert (result_HWC[repaint_HW] == 7).all()


def test_a_canvas_that_nobody_painted_gives_the_picture_back() -> None:
    image_HWC = picture(77, 91)
    frame = frame_picture(image_HWC, mask(77, 91, (0, 9, 0, 9)), stride_px=8)
    for preserve in (True, False):
        assert np.array_equal(frame.put_back(frame.canvas_HWC, preserve_unmasked=preserve), image_HWC)


def test_padding_repeats_the_edge_and_is_never_repainted() -> None:
    image_HWC, repaint_HW = picture(65, 64), np.ones((65, 64), dtype=bool)
    frame = frame_picture(image_HWC, repaint_HW, stride_px=8)
    assert frame.canvas_HWC.shape == (72, 64, 3)
    assert (frame.canvas_HWC[65:] == image_HWC[64]).all()
    assert not frame.canvas_repaint_HW[65:].any()


def test_without_preserving_all_that_the_canvas_shows_is_taken() -> None:
    image_HWC = picture(64, 64)
    frame = frame_picture(image_HWC, mask(64, 64, (0, 8, 0, 8)), stride_px=8)
    assert (frame.put_back(np.full_like(frame.canvas_HWC, 7), preserve_unmasked=False) == 7).all()


def test_blur_widens_the_edge_and_keeps_what_it_does_not_reach() -> None:
    image_HWC, repaint_HW = picture(96, 96), mask(96, 96, (40, 56, 40, 56))
    frame = frame_picture(image_HWC, repaint_HW, stride_px=8, mask_blur=4)
    reached_HW = frame.paste_HW > 0
    assert reached_HW.sum() > repaint_HW.sum()
    assert np.array_equal(frame.canvas_repaint_HW, reached_HW)
    result_HWC = frame.put_back(np.full_like(frame.canvas_HWC, 7), preserve_unmasked=True)
    assert np.array_equal(result_HWC[~reached_HW], image_HWC[~reached_HW])
    assert (result_HWC[48, 48] != image_HWC[48, 48]).any()


def test_a_blur_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(RowError, match="lower mask_blur"):
        frame_picture(picture(64, 64), mask(64, 64, (3, 4, 3, 4)), stride_px=8, mask_blur=64)


def test_a_mask_between_the_latent_cells_is_still_seen() -> None:
    repaint_HW = mask(64, 64, (9, 12, 9, 13))
    frame = frame_picture(picture(64, 64), repaint_HW, stride_px=8)
    assert frame.canvas_repaint_HW[::8, ::8].any()
    assert np.array_equal(frame.canvas_repaint_HW, mask(64, 64, (8, 16, 8, 16)))
    assert np.array_equal(frame.paste_HW > 0, repaint_HW)


def test_the_crop_shows_the_masks_box_with_its_padding() -> None:
    frame = frame_picture(picture(128, 128), mask(128, 128, (60, 68, 40, 48)), stride_px=8, padding_mask_crop=4)
    assert frame.box == (36, 56, 52, 72)
    assert frame.canvas_HWC.shape == (128, 128, 3)
    assert frame.canvas_repaint_HW.mean() == pytest.approx(0.25, abs=0.02)
