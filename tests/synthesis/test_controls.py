import numpy as np
import pytest

from raygen.errors import DataError
from raygen.synthesis.controls import (
    CONTROL_KINDS,
    ControlKind,
    control_label,
    control_picture,
    draw_colour,
    object_colours,
)

IMAGE = np.random.default_rng(0).integers(256, size=(6, 7, 3), dtype=np.uint8)
REPAINT = np.zeros((6, 7), dtype=bool)
REPAINT[2:4, 3:6] = True
COLOUR = np.array([10, 20, 30], dtype=np.uint8)


@pytest.mark.parametrize("kind", CONTROL_KINDS)
def test_pixels_outside_the_repaint_region_are_the_sources(kind: ControlKind) -> None:
    before = IMAGE.copy()
    picture_HWC = control_picture(kind, IMAGE, REPAINT, colour=COLOUR)
    np.testing.assert_array_equal(picture_HWC[~REPAINT], IMAGE[~REPAINT])
    np.testing.assert_array_equal(IMAGE, before)
    assert picture_HWC.dtype == np.uint8


def test_inside_it_a_control_has_the_source_grey_or_the_colour() -> None:
    inside = {kind: control_picture(kind, IMAGE, REPAINT, colour=COLOUR)[REPAINT] for kind in CONTROL_KINDS}
    np.testing.assert_array_equal(inside["duplicate"], IMAGE[REPAINT])
    np.testing.assert_allclose(inside["hole"] / 127.5 - 1, 0, atol=1 / 255)
    assert (inside["flat"] == COLOUR).all()


def test_only_a_copy_keeps_the_sources_label() -> None:
    labels = {kind: control_label(kind, source_label=0, target_label=1) for kind in CONTROL_KINDS}
    assert labels == {"duplicate": 0, "hole": 1, "flat": 1}


def test_object_colour_is_the_mean_over_the_object() -> None:
    empty_HW = np.zeros((6, 7), dtype=bool)
    colours_MC = object_colours([(IMAGE, REPAINT), (IMAGE, empty_HW), (IMAGE, ~REPAINT)])
    expected = [[sum(int(v) for v in IMAGE[mask][:, c]) / mask.sum() for c in range(3)] for mask in (REPAINT, ~REPAINT)]
    np.testing.assert_allclose(colours_MC, expected, atol=0.5)
    assert colours_MC.dtype == np.uint8


def test_without_any_object_there_is_no_colour() -> None:
    with pytest.raises(DataError, match="control_flat"):
        object_colours([(IMAGE, np.zeros((6, 7), dtype=bool))])


def test_colour_depends_on_key_and_seed_only_and_any_may_come() -> None:
    colours_MC = np.arange(30, dtype=np.uint8).reshape(10, 3)
    drawn = [tuple(draw_colour(colours_MC, run_seed=0, key=f"k{n}").tolist()) for n in range(300)]
    assert drawn == [tuple(draw_colour(colours_MC, run_seed=0, key=f"k{n}").tolist()) for n in range(300)]
    assert len(set(drawn)) == 10
    assert drawn != [tuple(draw_colour(colours_MC, run_seed=1, key=f"k{n}").tolist()) for n in range(300)]
