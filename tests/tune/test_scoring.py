"""Scores of trials, against cases by hand."""

import math

import numpy as np
import pytest

from tune.scoring import halvings, score, standard_error

NONE = np.zeros((0, 8), dtype=bool)
# Two groups of four.
GROUPS = np.array([0, 0, 0, 0, 5, 5, 5, 5])


def rows(*texts: str) -> np.ndarray:
    return np.array([[letter == "1" for letter in text] for text in texts])


def test_the_epoch_of_the_best_worst_group_is_taken() -> None:
    found = score(rows("11110000", "11001100", "11101100", "11111000"), GROUPS, select="best", halves_RN=NONE)
    # Worst groups 0, 1/2, 1/2, 1/4; of the second and third, the third has the higher average.
    assert (found.epoch, found.worst_group, found.average) == (2, 0.5, 5 / 8)


def test_of_equal_epochs_the_earlier_is_taken() -> None:
    assert score(rows("10001000", "01000100"), GROUPS, select="best", halves_RN=NONE).epoch == 0


def test_the_last_epoch_is_taken_where_the_fit_takes_it() -> None:
    found = score(rows("11111111", "10001000"), GROUPS, select="last", halves_RN=NONE)
    assert (found.epoch, found.worst_group) == (1, 0.25)


def test_worst_group_comes_first_and_average_decides_ties() -> None:
    better, worse = (score(rows(text), GROUPS, select="best", halves_RN=NONE) for text in ("11001100", "11111000"))
    assert better.average < worse.average
    assert better.key("worst_group") > worse.key("worst_group")
    assert better.number("worst_group") > worse.number("worst_group")
    assert better.key("average") < worse.key("average")
    tied = score(rows("11101100"), GROUPS, select="best", halves_RN=NONE)
    assert tied.worst_group == better.worst_group
    assert tied.number("worst_group") > better.number("worst_group")


def test_the_standard_error_is_the_binomial_one_with_laplaces_share() -> None:
    assert standard_error(49, 98) == pytest.approx(math.sqrt(0.25 / 98))
    assert standard_error(0, 8) == pytest.approx(math.sqrt(0.1 * 0.9 / 8))
    assert standard_error(8, 8) == pytest.approx(standard_error(0, 8))


def test_the_standard_error_is_that_of_the_smallest_of_the_worst_groups() -> None:
    groups = np.array([0] * 6 + [1] * 2)
    found = score(rows("11100010"), groups, select="best", halves_RN=NONE)
    assert found.worst_group == 0.5
    assert found.standard_error == pytest.approx(standard_error(1, 2))


def test_halvings_halve_every_group_and_repeat_themselves() -> None:
    groups = np.array([0] * 7 + [1] * 4 + [2] * 2)
    halves = halvings(groups, num=20, seed=3)
    assert halves.shape == (20, 13)
    for half in halves:
        counts = np.bincount(groups[half], minlength=3)
        assert counts[0] in (3, 4)
        assert counts[1:].tolist() == [2, 1]
    assert (halves == halvings(groups, num=20, seed=3)).all()
    assert (halves[:5] == halvings(groups, num=5, seed=3)).all()
    assert not (halves == halvings(groups, num=20, seed=4)).all()
    assert {int(half[:7].sum()) for half in halves} == {3, 4}


def test_one_epoch_measured_on_halves_by_hand() -> None:
    halves = rows("11001100")
    found = score(rows("11101000"), GROUPS, select="best", halves_RN=halves)
    # First half: groups 2/2 and 1/2; second: 1/2 and 0/2. Worst 1/2 and 0, averages 3/4 and 1/4.
    assert (found.split_worst_group, found.split_average) == (0.25, 0.5)
    assert found.split_deviation == pytest.approx(np.std([0.5, 0.0], ddof=1))


def test_each_half_chooses_the_epoch_for_the_other() -> None:
    halves = rows("11001100")
    # The first epoch is right on the first half only, the second on the second half only.
    found = score(rows("11001100", "00110011"), GROUPS, select="best", halves_RN=halves)
    assert (found.worst_group, found.split_worst_group) == (0.5, 0.0)


def test_choosing_among_noise_looks_better_than_it_is_except_on_the_other_half() -> None:
    """Fifty epochs of coin tosses: the best of them is above one half on the images that chose it."""
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 1], 40)
    halves = halvings(groups, num=50, seed=0)
    whole, split = [], []
    for _ in range(20):
        found = score(rng.random((50, 80)) < 0.5, groups, select="best", halves_RN=halves)
        whole.append(found.average)
        split.append(found.split_average or 0.0)
    assert np.mean(whole) > 0.56
    # Standard error of the mean of 20 averages over 80 tosses: 1.3 points.
    assert abs(np.mean(split) - 0.5) < 0.03
