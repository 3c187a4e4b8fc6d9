"""Values of counterfactual and factual pictures: closed forms, and examples worked out by hand."""

from typing import get_args

import numpy as np
import pytest

from raygen.errors import RowError
from raygen.inpainters.fills import Fill, box_of, filled, longest_run, other_background, random_colours, region, tiled


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def mask(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    mask_HW = np.zeros((height, width), dtype=bool)
    mask_HW[rows, columns] = True
    return mask_HW


OBJECT = mask(8, 10, slice(2, 5), slice(3, 6))
OBJECT[3, 4] = False


def fill(value: Fill, image: np.ndarray, repaint: np.ndarray, seed: int = 0) -> np.ndarray:
    other = picture(6, 7, seed=9), mask(6, 7, slice(1, 3), slice(2, 4))
    return filled(value, image, repaint, rng=np.random.default_rng(seed), other=lambda rng: other)


@pytest.mark.parametrize("value", get_args(Fill))
def test_only_the_region_changes_and_a_picture_depends_on_its_own_seed(value: Fill) -> None:
    image = picture(8, 10)
    for role in ("counterfactual", "factual"):
        repaint = region(OBJECT, role, "segmentation")
        before = image.copy()
        found = fill(value, image, repaint)
        assert found.dtype == np.uint8
        assert np.array_equal(found[~repaint], image[~repaint])
        assert not np.array_equal(found[repaint], image[repaint])
        assert np.array_equal(image, before)
        assert np.array_equal(found, fill(value, image, repaint))
        if value in ("random", "shuffle"):
            assert not np.array_equal(found, fill(value, image, repaint, seed=1))
    assert np.array_equal(fill(value, image, np.zeros((8, 10), bool)), image)


# These take their values from the picture.
@pytest.mark.parametrize("value", [value for value in get_args(Fill) if value not in ("shuffle", "tile", "telea")])
def test_counterfactual_and_factual_with_one_value_part_the_picture(value: Fill) -> None:
    image, everything = picture(8, 10), np.ones((8, 10), bool)
    inside = region(OBJECT, "counterfactual", "segmentation")
    values = fill(value, image, everything)
    without, alone = fill(value, image, inside), fill(value, image, ~inside)
    assert np.array_equal(without, np.where(inside[..., None], values, image))
    assert np.array_equal(alone, np.where(inside[..., None], image, values))
    assert np.array_equal(without.astype(int) + alone, image.astype(int) + values)


def test_a_shuffle_keeps_the_values_of_its_region_and_mixes_the_channels() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[..., 0] = 200
    repaint = mask(20, 20, slice(5, 15), slice(5, 15))
    image[repaint] += np.array([0, 30, 60], np.uint8)
    found = fill("shuffle", image, repaint)
    assert np.array_equal(np.sort(found[repaint], axis=None), np.sort(image[repaint], axis=None))
    assert np.array_equal(found[~repaint], image[~repaint])
    for channel in range(3):  # a third of each channel comes from each
        assert {0, 30, 60, 200} >= {*np.unique(found[repaint][:, channel])} >= {30, 60, 200}


def test_random_is_a_colour_with_noise_clamped() -> None:
    """For u ~ U(0, 1) and n ~ N(0, 0.2): a share 2 * 0.2 / sqrt(2 pi) = 0.1596 leaves [0, 1]; it is symmetric."""
    drawn = np.stack([random_colours(picture(12, 12), rng=np.random.default_rng(i)) for i in range(2000)])
    scaled = drawn / 127.5 - 1
    # 6,000 colours: the mean's standard error is 0.008; a clamped value is 0 or 255, and few others round to them.
    assert scaled.mean() == pytest.approx(0, abs=0.03)
    assert scaled.std() == pytest.approx(0.627, abs=0.01)
    assert np.isin(drawn, [0, 255]).mean() == pytest.approx(0.1596, abs=0.01)
    assert drawn[0].std(axis=(0, 1)).max() < 0.25 * 255


def test_the_tile_is_the_thicker_band_without_object() -> None:
    """6 x 8, object in rows 0 to 1 and columns 3 to 4: rows 2 to 5 beat three columns."""
    image = picture(6, 8)
    found = tiled(image, mask(6, 8, slice(0, 2), slice(3, 5)))
    assert np.array_equal(found[:4], image[2:6])
    assert np.array_equal(found[4:], image[2:4])
    # Of equal bands rows, and of those the first.
    image = picture(6, 6)
    found = tiled(image, mask(6, 6, slice(2, 4), slice(2, 4)))
    assert np.array_equal(found, np.tile(image[0:2], (3, 1, 1)))
    # A narrow picture, of which columns are free.
    image = picture(4, 9)
    found = tiled(image, mask(4, 9, slice(0, 4), slice(0, 2)))
    assert np.array_equal(found, np.concatenate([image[:, 2:], image[:, 2:4]], axis=1))


def test_a_tile_without_background_is_grey_and_without_object_the_picture() -> None:
    image = picture(6, 6)
    assert np.array_equal(tiled(image, np.eye(6, dtype=bool)), np.full((6, 6, 3), 128))
    assert np.array_equal(tiled(image, np.zeros((6, 6), bool)), image)


def test_telea_continues_what_is_around_its_region() -> None:
    """Two halves of one colour each: a hole across their border is filled with these two, not with what it hid."""
    image = np.zeros((24, 24, 3), np.uint8)
    image[:, :12], image[:, 12:] = (200, 40, 10), (20, 60, 180)
    repaint = mask(24, 24, slice(8, 16), slice(8, 16))
    hidden = np.where(repaint[..., None], np.uint8(255), image)
    found = fill("telea", hidden, repaint)
    assert np.array_equal(found[~repaint], image[~repaint])
    difference = np.abs(found.astype(int) - image)
    assert difference[9:15, 8:10].max() < 12
    assert difference[9:15, 14:16].max() < 12


@pytest.mark.parametrize("columns", [slice(0, 2), slice(4, 6)])
def test_an_object_at_an_edge_is_taken_out_of_its_picture(columns: slice) -> None:
    image, here = picture(8, 6), mask(8, 6, slice(2, 4), columns)
    found = filled("tile", image, region(here, "counterfactual", "box"), rng=np.random.default_rng(0))
    assert np.array_equal(found[2:4, columns], image[6:8, columns])
    # "mixed_rand" takes no object along.
    image[2:4, columns] = 255
    image[:2], image[4:] = 10, 20
    assert set(np.unique(other_background(image, here, height=8, width=6))) <= {10, 20}


def test_runs_are_of_lines_without_object() -> None:
    assert longest_run(np.array([1, 1, 0, 1, 1, 0, 1], bool)).tolist() == [0, 1]
    assert longest_run(np.array([0, 1, 0, 1, 1, 1], bool)).tolist() == [3, 4, 5]
    assert longest_run(np.zeros(3, bool)).tolist() == []


def test_regions_are_the_object_or_all_but_it() -> None:
    box = mask(8, 10, slice(2, 5), slice(3, 6))
    assert np.array_equal(box_of(OBJECT), box)
    assert np.array_equal(region(OBJECT, "counterfactual", "box"), box)
    assert np.array_equal(region(OBJECT, "counterfactual", "segmentation"), OBJECT)
    assert np.array_equal(region(OBJECT, "factual", "segmentation"), ~OBJECT)
    assert np.array_equal(region(OBJECT, "factual", "box"), ~box)


@pytest.mark.parametrize("role", ["counterfactual", "factual"])
def test_a_region_that_covers_everything_or_nothing_is_refused_with_its_reason(role: str) -> None:
    for found, shape, reason in (
        (np.zeros((4, 4), bool), "box", "selects no pixel"),
        (np.ones((4, 4), bool), "segmentation", "the object mask covers the whole picture"),
        (np.eye(4, dtype=bool), "box", f"synthesis.{role}_region=segmentation"),
    ):
        with pytest.raises(RowError, match=reason):
            region(found, role, shape)  # type: ignore[arg-type]
    region(np.eye(4, dtype=bool), role, "segmentation")  # type: ignore[arg-type]
