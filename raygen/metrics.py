"""Accuracies per group, their lowest, their average, and intervals."""

# N images, G groups

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from raygen.errors import DataError
from raygen.groups import group_index


@dataclass(frozen=True, slots=True)
class GroupAccuracy:
    """Accuracy of one group that occurs: `num` images, `correct` of them right."""

    group: int
    num: int
    correct: int

    @property
    def accuracy(self) -> float:
        """Share of the group's images that are right, in [0, 1]."""
        return self.correct / self.num

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of the accuracy."""
        return wilson_interval(self.correct, self.num)


def group_accuracies(correct_N: np.ndarray, group_N: np.ndarray, *, num_groups: int) -> list[GroupAccuracy]:
    """Accuracy of each group that occurs, in order of group.

    Args:
        correct_N: Whether each prediction is right, (N,) bool.
        group_N: Group of each image, (N,) int in [0, num_groups).
        num_groups: How many groups there are, empty ones included.

    Raises:
        DataError: No image at all, or a group index out of range.
    """
    correct_N, group_N = np.asarray(correct_N, dtype=bool), np.asarray(group_N, dtype=np.int64)
    if correct_N.size == 0:
        raise DataError("no image to evaluate: the split is empty")
    if group_N.min() < 0 or group_N.max() >= num_groups:
        raise DataError(f"group has values {group_N.min()}..{group_N.max()}; expected 0..{num_groups - 1}")
    counts_G = np.bincount(group_N, minlength=num_groups)
    correct_G = np.bincount(group_N, weights=correct_N, minlength=num_groups)
    return [GroupAccuracy(g, int(counts_G[g]), round(correct_G[g])) for g in range(num_groups) if counts_G[g]]


def worst_group_accuracy(correct_N: np.ndarray, group_N: np.ndarray, *, num_groups: int) -> float:
    """Lowest of `group_accuracies`, in [0, 1] (Sagawa et al. 2020, arXiv 1911.08731, section 2)."""
    return min(g.accuracy for g in group_accuracies(correct_N, group_N, num_groups=num_groups))


def adjusted_average_accuracy(groups: list[GroupAccuracy], *, train_counts_G: np.ndarray) -> float | None:
    """Group accuracies averaged with the training split's group shares, in [0, 1].

    Sagawa et al. 2020 report this for Waterbirds, whose test split has other group shares than its training split.
    Not SubpopBench's "adjusted accuracy", which is the unweighted mean over groups.

    Returns:
        The average, or None when a group of the training split does not occur among `groups`.
    """
    accuracy = {g.group: g.accuracy for g in groups}
    present = np.flatnonzero(train_counts_G)
    if not present.size or any(int(g) not in accuracy for g in present):
        return None
    weights = np.asarray(train_counts_G, dtype=float) / float(np.sum(train_counts_G))
    return float(sum(weights[g] * accuracy[int(g)] for g in present))


def evaluate_predictions(
    label_N: np.ndarray,
    predicted_N: np.ndarray,
    attribute_N: np.ndarray,
    *,
    num_classes: int,
    num_attributes: int,
    train_counts_G: np.ndarray | None,
) -> dict[str, Any]:
    """One result on one split, in the form of summary.json.

    Args:
        label_N: True labels, (N,) int.
        predicted_N: Predicted labels, (N,) int.
        attribute_N: Attributes, (N,) int; an image of which none is known has -1, and counts in the average only.
        num_classes: Number of labels.
        num_attributes: Number of attribute values; 0 where there are none: then the groups are the classes.
        train_counts_G: Training images per group, for the adjusted average; None where that is not known.

    Raises:
        DataError: No image at all.
    """
    correct_N, known_N = label_N == predicted_N, attribute_N >= 0
    has_groups = bool(num_attributes) and bool(known_N.any())
    if has_groups:
        group_N = group_index(label_N[known_N], attribute_N[known_N], num_attributes=num_attributes)
        groups = group_accuracies(correct_N[known_N], group_N, num_groups=num_classes * num_attributes)
    else:
        groups = group_accuracies(correct_N, label_N, num_groups=num_classes)
    adjusted = None
    if has_groups and train_counts_G is not None:
        adjusted = adjusted_average_accuracy(groups, train_counts_G=train_counts_G)
    worst = min(groups, key=lambda group: group.accuracy)
    return {
        "average": float(correct_N.mean()),
        "adjusted_average": adjusted,
        "worst_group": worst.accuracy,
        "worst_group_ci": list(worst.interval),
        "groups": [
            {
                "group": group.group,
                "label": group.group // num_attributes if has_groups else group.group,
                "attribute": group.group % num_attributes if has_groups else None,
                "n": group.num,
                "accuracy": group.accuracy,
            }
            for group in groups
        ],
    }


def wilson_interval(correct: int, num: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion, in [0, 1]; z = 1.96 for 95%.

    Wilson 1927; unlike the normal interval it stays inside [0, 1] and has width at 0 and 1.
    """
    if num < 1:
        raise DataError("an interval needs at least one image")
    share = correct / num
    center = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return max(0.0, center - half), min(1.0, center + half)


def difference_interval(
    first: float, first_interval: tuple[float, float], second: float, second_interval: tuple[float, float]
) -> tuple[float, float]:
    """95% interval of `first - second`, two accuracies with their Wilson intervals, in [-1, 1].

    Newcombe 1998 (Statistics in Medicine 17, 873-890), method 10. It is for independent samples; for two classifiers
    on the same images, which tend to be right on the same ones, it is wider than it need be.
    """
    (first_low, first_high), (second_low, second_high) = first_interval, second_interval
    below = math.hypot(first - first_low, second_high - second)
    above = math.hypot(first_high - first, second - second_low)
    return first - second - below, first - second + above
