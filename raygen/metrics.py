"""Numbers of classifiers: accuracies per group, their lowest, their mean, their average; what attention and pairs say.

What a classifier gives, and what it looked at, comes as arrays; `raygen.attention` and `raygen.maskers.cam` make them.
"""

# N images, G groups, C classes or colour channels, H height, W width, P pixels, K classes or scores that occur

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from raygen.errors import DataError
from raygen.groups import group_index
from raygen.intervals import mean_interval, wilson_interval, worst_interval


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
    Not SubpopBench's "adjusted accuracy", which is the unweighted mean over groups (`group_mean` in summary.json).

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
    correct_G, num_G = np.array([group.correct for group in groups]), np.array([group.num for group in groups])
    return {
        "average": float(correct_N.mean()),
        "adjusted_average": adjusted,
        "worst_group": min(group.accuracy for group in groups),
        "worst_group_ci": list(worst_interval(correct_G, num_G)),
        # What a classifier that says always the same, or anything by chance, has at 1/C, whatever the groups' sizes.
        "group_mean": float(np.mean([group.accuracy for group in groups])),
        "group_mean_ci": list(mean_interval(correct_G, num_G)),
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


@dataclass(frozen=True, slots=True)
class Measure:
    """One number of one classifier on one split.

    Attributes:
        value: The number; None where it cannot be given.
        num: Images, or pairs of them, that it is of.
        interval: 95%, of what that number leaves open; None where none can be given.
        constant: What a score that knows nothing gives in the mean, such as one value for all pixels; None where there
            is no such number.
        reason: Why there is no value.
    """

    value: float | None
    num: int
    interval: tuple[float, float] | None = None
    constant: float | None = None
    reason: str | None = None

    def plain(self) -> dict[str, Any]:
        """In the form of summary.json."""
        return {
            "value": self.value,
            "n": self.num,
            "interval": None if self.interval is None else list(self.interval),
            "constant": self.constant,
            "reason": self.reason,
        }


def average_precision(attribution_CHW: np.ndarray, object_HW: np.ndarray) -> float | None:
    """Area under precision and recall of an attribution as a score of the object's pixels, in [0, 1].

    A pixel's score is the sum over its colours of the squared attribution (Chang et al. 2021, arXiv 2106.01127, whose
    measure this is), so that its sign does not count. One score for all pixels gives the object's share of the pixels,
    a score that is higher on every pixel of the object than on any other gives 1.

    Args:
        attribution_CHW: Attribution, (C, H, W) float.
        object_HW: Object mask, (H, W) bool.

    Returns:
        The area; None where the object covers all pixels or none, and where the attribution is not finite.
    """
    if object_HW.all() or not object_HW.any() or not np.isfinite(attribution_CHW).all():
        return None
    # In double precision: the square of a small gradient is 0 in single precision, and all scores would be alike.
    score_HW = np.square(attribution_CHW, dtype=np.float64).sum(axis=0)
    # Not scikit-learn's, whose checks take four times as long: a run asks for it a thousand times.
    order = np.argsort(-score_HW, axis=None)
    score_P, found_P = score_HW.flat[order], np.cumsum(object_HW.flat[order])
    last_P = np.append(score_P[1:] != score_P[:-1], True)  # of each run of equal scores
    found_K, place_K = found_P[last_P], np.flatnonzero(last_P) + 1
    return float(np.sum(np.diff(found_K, prepend=0) * found_K / place_K) / found_P[-1])


def pointing_hit(heat_HW: np.ndarray, object_HW: np.ndarray) -> float | None:
    """Whether a heat map is hottest on the object: 1 or 0 (the pointing game, Zhang et al. 2018).

    Where several pixels are hottest, the share of them that lies on the object: a map of one value, such as one that is
    0 everywhere, points nowhere, and gets what a random pixel would.

    Args:
        heat_HW: Heat map, (H, W) float.
        object_HW: Object mask, (H, W) bool.

    Returns:
        In [0, 1]; None where the object covers all pixels or none, and where the map is not finite.
    """
    if object_HW.all() or not object_HW.any() or not np.isfinite(heat_HW).all():
        return None
    return float(object_HW[heat_HW == heat_HW.max()].mean())


def mean_measure(values_N: np.ndarray, *, constant_N: np.ndarray | None = None, reason: str) -> Measure:
    """Mean of a number that each image has, with the normal interval of a mean.

    Args:
        values_N: One value an image, (N,) float.
        constant_N: What a score that knows nothing gives on each, (N,) float; None where there is no such number.
        reason: Why there is none, where there is none.
    """
    if not len(values_N):
        return Measure(None, 0, reason=reason)
    mean, interval = float(np.mean(values_N)), None
    if len(values_N) > 1:
        half = 1.959964 * float(np.std(values_N, ddof=1)) / math.sqrt(len(values_N))
        interval = (mean - half, mean + half)
    return Measure(mean, len(values_N), interval, None if constant_N is None else float(np.mean(constant_N)))


def share_measure(hits_N: np.ndarray, *, constant_N: np.ndarray | None = None, reason: str) -> Measure:
    """Share of images, or of pairs, that something holds for, with its Wilson interval; see `mean_measure`."""
    if not len(hits_N):
        return Measure(None, 0, reason=reason)
    total = float(np.sum(hits_N))
    constant = None if constant_N is None else float(np.mean(constant_N))
    return Measure(total / len(hits_N), len(hits_N), wilson_interval(total, len(hits_N)), constant)


def macro_auc(logits_NC: np.ndarray, label_N: np.ndarray) -> Measure:
    """Mean over the classes that occur of the area under each one's ROC curve, one class against the rest, in [0, 1].

    Of logits: a softmax would compare an image's classes with each other before its score is compared with other
    images', and gives another number. Classes without any image are left out (Chang et al. 2021, on Caltech Camera
    Traps). The interval is DeLong's (DeLong et al. 1988), whose components add up over classes.

    Args:
        logits_NC: Logits, (N, C) float.
        label_N: True labels, (N,) int.
    """
    present = np.unique(label_N)
    if len(present) < 2:
        found = "no image" if not len(present) else f"images of class {int(present[0])} only"
        return Measure(None, len(label_N), reason=f"it needs images of two classes, and there are {found}")
    is_class_NK = label_N[:, None] == present
    of_class = list(zip(is_class_NK.T, logits_NC.T[present], strict=True))
    placed_NK = np.stack([_placements(logit_N, is_class_N) for is_class_N, logit_N in of_class], axis=1)
    areas_K, share_K = np.mean(placed_NK, axis=0, where=is_class_NK), is_class_NK.mean(axis=0)
    pull_NK = (placed_NK - areas_K) / np.where(is_class_NK, share_K, 1 - share_K)
    error = float(np.std(pull_NK.mean(axis=1))) / math.sqrt(len(label_N))
    area, half = float(areas_K.mean()), 1.959964 * error
    # Without any error the components do not vary: that is no certainty.
    interval = (max(0.0, area - half), min(1.0, area + half)) if error else None
    return Measure(area, len(label_N), interval, 0.5)


def _placements(score_N: np.ndarray, is_class_N: np.ndarray) -> np.ndarray:
    """Share of the images on the other side that each image's score is right against, equal ones by half, (N,).

    Their mean over the class's images is the area under its ROC curve.
    """
    placed_N = np.empty(len(score_N))
    for side_N, sign in ((is_class_N, 1), (~is_class_N, -1)):
        others = np.sort(sign * score_N[~side_N])
        own = sign * score_N[side_N]
        below = np.searchsorted(others, own, side="left") + np.searchsorted(others, own, side="right")
        placed_N[side_N] = below / (2 * len(others))
    return placed_N


def next_class_shift(logits_NC: np.ndarray, exchanged_NC: np.ndarray, label_N: np.ndarray) -> Measure:
    """Mean rise of the next class's probability when only the background becomes that class's, in [-1, 1].

    p_{y+1}(object before the next class's background) - p_{y+1}(the picture as it was), y + 1 modulo C, as on
    ImageNet-9 (Chang et al. 2021). 0: the background does not count; 1: it is all that counts.

    Args:
        logits_NC: Logits of the pictures, (N, C) float.
        exchanged_NC: Those of the same objects before the next class's background.
        label_N: True labels, (N,) int.
    """
    rows = np.arange(len(label_N))
    following_N = (label_N + 1) % logits_NC.shape[1] if len(label_N) else label_N
    rise_N = _softmax(exchanged_NC)[rows, following_N] - _softmax(logits_NC)[rows, following_N]
    return mean_measure(rise_N, constant_N=np.zeros(len(rise_N)), reason="there are no pairs with the next class")


def flip_rate(predicted_N: np.ndarray, exchanged_N: np.ndarray) -> Measure:
    """Share of pictures whose predicted label changes when only the background is exchanged, in [0, 1]."""
    reason = "the dataset has no pictures with the background exchanged"
    flipped_N = np.asarray(predicted_N) != np.asarray(exchanged_N)
    return share_measure(flipped_N, constant_N=np.zeros(len(flipped_N)), reason=reason)


def _softmax(logits_NC: np.ndarray) -> np.ndarray:
    logits_NC = np.asarray(logits_NC, dtype=np.float64)
    shifted_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return np.asarray(shifted_NC / shifted_NC.sum(axis=1, keepdims=True))
