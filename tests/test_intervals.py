"""Intervals of accuracies, against scipy, a published example, and how often they hold."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from raygen.errors import DataError
from raygen.intervals import difference_interval, mean_interval, wilson_interval, worst_interval

# Accuracies of groups and their images: ties and none, one group and many, small groups, all right and none right.
SETTINGS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "four that tie": ((0.7,) * 4, (500,) * 4),
    "two that tie": ((0.8, 0.8), (100, 100)),
    "nine small ones that tie": ((0.5,) * 9, (20,) * 9),
    "nearly a tie": ((0.75, 0.76, 0.9, 0.95), (500,) * 4),
    "Waterbirds": ((0.99, 0.9, 0.6, 0.95), (2255, 2255, 642, 642)),
    "three of other sizes": ((0.95, 0.9, 0.92), (8, 10, 12)),
    "all right": ((1.0,) * 3, (10,) * 3),
    "none right in one": ((0.0, 0.9, 0.9, 0.9), (56,) * 4),
    "nearly all right": ((0.98,) * 4, (30,) * 4),
    "a single one": ((0.6,), (40,)),
}
DRAWS = 2000
# Of the share of 2,000 draws that an interval of 95% holds for: 3 standard errors.
LEAST = 0.95 - 3 * (0.95 * 0.05 / DRAWS) ** 0.5


def drawn(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracies (G,), images (G,) and right images (draws, G)."""
    accuracy_G, num_G = (np.array(values) for values in SETTINGS[name])
    return accuracy_G, num_G, np.random.default_rng(0).binomial(num_G, accuracy_G, size=(DRAWS, len(num_G)))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_worst_groups_interval_holds_as_often_as_it_says(name: str) -> None:
    accuracy_G, num_G, correct_DG = drawn(name)
    found = [worst_interval(correct_G, num_G) for correct_G in correct_DG]
    assert np.mean([low <= accuracy_G.min() <= high for low, high in found]) >= LEAST
    lowest_D = (correct_DG / num_G).min(axis=1)
    assert all(low <= lowest <= high for (low, high), lowest in zip(found, lowest_D, strict=True))


def test_wilsons_interval_of_whichever_group_came_lowest_does_not() -> None:
    accuracy_G, num_G, correct_DG = drawn("four that tie")
    of_lowest = [
        wilson_interval(int(correct_G[g]), int(num_G[g]))
        for correct_G, g in zip(correct_DG, (correct_DG / num_G).argmin(axis=1), strict=True)
    ]
    assert np.mean([low <= accuracy_G.min() <= high for low, high in of_lowest]) < LEAST


@pytest.mark.parametrize(
    ("correct", "num"),
    [((350, 340, 360, 480), (500,) * 4), ((0, 5), (7, 9)), ((10, 10, 10), (10,) * 3), ((12,), (40,))],
)
def test_its_ends_are_the_lowest_of_exact_ones(correct: tuple[int, ...], num: tuple[int, ...]) -> None:
    ends: Any = [
        (
            binomtest(k, n).proportion_ci(confidence_level=0.95, method="exact").low,
            # One-sided: all of them together hold with 97.5%.
            binomtest(k, n, alternative="less").proportion_ci(0.975 ** (1 / len(num)), method="exact").high,
        )
        for k, n in zip(correct, num, strict=True)
    ]
    expected = tuple(min(values) for values in zip(*ends, strict=True))
    assert worst_interval(np.array(correct), np.array(num)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("num", [(), (10, 0)])
def test_a_worst_group_needs_images(num: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="at least one"):
        worst_interval(np.zeros(len(num), dtype=int), np.array(num, dtype=int))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_means_interval_holds_as_often_as_it_says(name: str) -> None:
    accuracy_G, num_G, correct_DG = drawn(name)
    found = [mean_interval(correct_G, num_G) for correct_G in correct_DG]
    assert np.mean([low <= accuracy_G.mean() <= high for low, high in found]) >= LEAST


def test_the_means_interval_is_the_normal_one_of_many_images_and_the_exact_one_of_one_group() -> None:
    correct_G, num_G = np.array([700_000, 600_000, 900_000]), np.full(3, 1_000_000)
    share_G = correct_G / num_G
    half = 1.959964 * np.sqrt((share_G * (1 - share_G) / num_G).sum()) / 3
    assert mean_interval(correct_G, num_G) == pytest.approx((share_G.mean() - half, share_G.mean() + half), abs=2e-6)
    exact = binomtest(3, 4).proportion_ci(method="exact")
    assert mean_interval(np.array([3]), np.array([4])) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(("correct", "num"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 10), (4000, 5000)])
def test_wilson_interval_agrees_with_scipy(correct: int, num: int) -> None:
    expected = binomtest(correct, num).proportion_ci(confidence_level=0.95, method="wilson")
    # z has seven digits.
    assert wilson_interval(correct, num) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_interval_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one"):
        wilson_interval(0, 0)


def test_difference_interval_of_a_published_example() -> None:
    # Newcombe 1998, table II, example (a): 56/70 against 48/80; method 10 gives 0.0524 to 0.3339.
    low, high = difference_interval(56 / 70, wilson_interval(56, 70), 48 / 80, wilson_interval(48, 80))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_difference_interval_is_antisymmetric() -> None:
    a, b = (0.7, wilson_interval(7, 10)), (0.4, wilson_interval(8, 20))
    low, high = difference_interval(*a, *b)
    assert difference_interval(*b, *a) == pytest.approx((-high, -low))
    assert low < 0.7 - 0.4 < high
