from typing import Any

import numpy as np
import pytest

from raygen.errors import DataError
from raygen.metrics import (
    GroupAccuracy,
    adjusted_average_accuracy,
    group_accuracies,
    worst_group_accuracy,
)

# Waterbirds' training counts, and accuracies for which the averages are known (Sagawa et al. 2020; three roundings).
WATERBIRDS_TRAIN = np.array([3498, 184, 56, 1057])
WATERBIRDS_TEST = (2255, 2255, 642, 642)
ACCURACY = (0.99, 0.80, 0.60, 0.95)


def test_accuracies_agree_with_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    correct_N, group_N = rng.random(500) < 0.7, rng.integers(0, 6, 500)
    found = group_accuracies(correct_N, group_N, num_groups=6)
    for entry in found:
        of_group = [bool(c) for c, g in zip(correct_N, group_N, strict=True) if g == entry.group]
        assert (entry.num, entry.correct) == (len(of_group), sum(of_group))
    assert [entry.group for entry in found] == list(range(6))
    assert worst_group_accuracy(correct_N, group_N, num_groups=6) == min(entry.accuracy for entry in found)


def test_empty_group_is_not_the_worst_group() -> None:
    found = group_accuracies(np.array([True, False, True]), np.array([0, 0, 3]), num_groups=4)
    assert [(g.group, g.accuracy) for g in found] == [(0, 0.5), (3, 1.0)]
    assert worst_group_accuracy(np.array([True, True]), np.array([2, 2]), num_groups=4) == 1.0


@pytest.mark.parametrize("group", [-1, 4])
def test_group_out_of_range_is_an_error(group: Any) -> None:
    with pytest.raises(DataError, match=r"expected 0\.\.3"):
        group_accuracies(np.array([True]), np.array([group]), num_groups=4)


def test_no_image_is_an_error() -> None:
    with pytest.raises(DataError, match="empty"):
        worst_group_accuracy(np.array([], dtype=bool), np.array([], dtype=int), num_groups=2)


def test_adjusted_average_of_waterbirds() -> None:
    groups = [GroupAccuracy(g, 100, round(100 * a)) for g, a in enumerate(ACCURACY)]
    adjusted = adjusted_average_accuracy(groups, train_counts_G=WATERBIRDS_TRAIN)
    assert adjusted == pytest.approx(0.96934, abs=5e-6)
    assert sum(a * n for a, n in zip(ACCURACY, WATERBIRDS_TEST, strict=True)) / sum(WATERBIRDS_TEST) == pytest.approx(
        0.86841, abs=5e-6
    )  # the raw average is another number


def test_adjusted_average_needs_every_training_group() -> None:
    groups = [GroupAccuracy(0, 10, 9), GroupAccuracy(1, 10, 5)]
    assert adjusted_average_accuracy(groups, train_counts_G=np.array([5, 5, 1, 0])) is None
    assert adjusted_average_accuracy(groups, train_counts_G=np.array([3, 1, 0, 0])) == pytest.approx(0.8)
    assert adjusted_average_accuracy(groups, train_counts_G=np.zeros(4, dtype=int)) is None
