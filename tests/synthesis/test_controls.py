import numpy as np
import pytest

from raygen.errors import DataError
from raygen.synthesis.controls import (
    CONTROL_KINDS,
    FIRST_KINDS,
    ControlKind,
    control_label,
    control_picture,
    draw_colour,
    minority_rows,
    object_colours,
    shuffled_labels,
)

IMAGE = np.random.default_rng(0).integers(256, size=(6, 7, 3), dtype=np.uint8)
REPAINT = np.zeros((6, 7), dtype=bool)
REPAINT[2:4, 3:6] = True
COLOUR = np.array([10, 20, 30], dtype=np.uint8)


@pytest.mark.parametrize("kind", FIRST_KINDS)
def test_pixels_outside_the_repaint_region_are_the_sources(kind: ControlKind) -> None:
    before = IMAGE.copy()
    picture_HWC = control_picture(kind, IMAGE, REPAINT, colour=COLOUR)
    np.testing.assert_array_equal(picture_HWC[~REPAINT], IMAGE[~REPAINT])
    np.testing.assert_array_equal(IMAGE, before)
    assert picture_HWC.dtype == np.uint8


def test_inside_it_a_control_has_the_source_grey_or_the_colour() -> None:
    inside = {kind: control_picture(kind, IMAGE, REPAINT, colour=COLOUR)[REPAINT] for kind in FIRST_KINDS}
    np.testing.assert_array_equal(inside["duplicate"], IMAGE[REPAINT])
    np.testing.assert_allclose(inside["hole"] / 127.5 - 1, 0, atol=1 / 255)
    assert (inside["flat"] == COLOUR).all()


def test_only_a_copy_keeps_the_sources_label() -> None:
    labels = {kind: control_label(kind, source_label=0, target_label=1) for kind in CONTROL_KINDS}
    assert labels == {"duplicate": 0, **dict.fromkeys(CONTROL_KINDS[1:], 1)}


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


def shares(label_M: np.ndarray, dealt_M: np.ndarray) -> np.ndarray:
    """How many pictures of each class got each label."""
    num = int(label_M.max()) + 1
    return np.array([[int(((label_M == a) & (dealt_M == b)).sum()) for b in range(num)] for a in range(num)])


@pytest.mark.parametrize("counts", [(375, 375), (600, 226), (50, 30, 20), (7, 5), (1, 9), (3, 0, 4)])
def test_shuffled_labels_are_a_permutation_that_says_nothing_of_the_class(counts: tuple[int, ...]) -> None:
    label_M = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    dealt_M = shuffled_labels(label_M, run_seed=0)
    assert sorted(dealt_M.tolist()) == sorted(label_M.tolist())
    # Independence: a class's pictures have each label as often as all pictures have, to a picture.
    expected = np.outer(counts, counts) / sum(counts)
    assert np.abs(shares(label_M, dealt_M) - expected).max() < 1
    assert (dealt_M != label_M).any()


def test_who_gets_which_label_depends_on_the_seed() -> None:
    label_M = np.repeat([0, 1], 200)
    dealt = [shuffled_labels(label_M, run_seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(dealt[0], dealt[1])
    assert 100 < (dealt[0] != dealt[2]).sum() < 300
    # Nor does it depend on where in its class a picture stands.
    assert 80 < (dealt[0][:200:2] == 0).sum() + (dealt[0][200::2] == 0).sum() < 120


def test_labels_stay_with_their_role() -> None:
    label_M, roles = np.array([0, 0, 1, 1] * 10), ["factual", "counterfactual"] * 20
    label_M[:20:2] = 0  # the roles' shares differ
    dealt_M = shuffled_labels(label_M, run_seed=0, roles=roles)
    for role in ("factual", "counterfactual"):
        own = np.array(roles) == role
        assert sorted(dealt_M[own].tolist()) == sorted(label_M[own].tolist())


def test_the_rarest_group_of_the_target_class_is_taken_in_turn() -> None:
    # Class 0: five images of attribute 0, two of attribute 1; class 1: one of 0, three of 2, none of 1.
    label_N = np.array([0] * 7 + [1] * 4)
    attribute_N = np.array([0] * 5 + [1] * 2 + [0] + [2] * 3)
    target_M = np.array([0, 1, 0, 0, 1, 0, 0])
    chosen_M = minority_rows(target_M, label_N, attribute_N, run_seed=0)
    assert sorted(chosen_M[target_M == 0].tolist()) in ([5, 5, 5, 6, 6], [5, 5, 6, 6, 6])
    assert set(chosen_M[target_M == 1].tolist()) == {7}
