"""95% intervals of accuracies: of one, of the lowest of several, of their mean, of a difference of two.

They say what the number of images leaves open, with the fits as they are. They do not cover other seeds.
"""

# G groups

import math

import numpy as np
from scipy.special import betaincinv

from raygen.errors import DataError

# What lies outside of a 95% interval, on each side.
TAIL = 0.025


def wilson_interval(correct: float, num: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a proportion, in [0, 1]; z = 1.96 for 95%.

    Wilson 1927; unlike the normal interval it stays inside [0, 1] and has width at 0 and 1.
    """
    if num < 1:
        raise DataError("an interval needs at least one image")
    share = correct / num
    center = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z * math.sqrt(share * (1 - share) / num + z * z / (4 * num * num)) / (1 + z * z / num)
    return max(0.0, center - half), min(1.0, center + half)


def worst_interval(correct_G: np.ndarray, num_G: np.ndarray) -> tuple[float, float]:
    """95% interval of the lowest of several groups' accuracies, in [0, 1], whichever group it is.

    Not that of the group which came lowest: it was chosen for being low, and where several groups are alike its
    accuracy is low by chance. The groups' ends are exact, and hold together. Below, the lowest of the
    groups' lower ends, each with 2.5% beyond it: to lie above the lowest accuracy, it must lie above that of the group
    which has it. Above, the lowest of their upper ends, with so little beyond each that all of G independent ones hold
    with 97.5% (Sidak 1967): to lie below the lowest accuracy, one of them must fail. So at least 95%, ties or none.

    Args:
        correct_G: Right images of each group, (G,) int.
        num_G: Images of each, (G,) int, none of them 0.

    Raises:
        DataError: No group, or an empty one.
    """
    correct_G, num_G = np.asarray(correct_G), np.asarray(num_G)
    if not num_G.size or num_G.min() < 1:
        raise DataError("an interval needs at least one image in each group")
    low_G, high_G = _exact(correct_G, num_G, below=TAIL, above=1 - (1 - TAIL) ** (1 / num_G.size))
    return float(low_G.min()), float(high_G.min())


def mean_interval(correct_G: np.ndarray, num_G: np.ndarray) -> tuple[float, float]:
    """95% interval of the unweighted mean of several groups' accuracies, in [0, 1].

    The ends of each group's exact interval, their distances from the accuracies added as variances are (the method of
    variance estimates recovery, Zou & Donner 2008, as Newcombe has it for a difference): it has width where all are
    right, which the normal interval has not, and with Wilson's ends it would hold too seldom where nearly all are.

    Args:
        correct_G: Right images of each group, (G,) int.
        num_G: Images of each, (G,) int, none of them 0.
    """
    correct_G, num_G = np.asarray(correct_G), np.asarray(num_G)
    accuracy_G, ends = correct_G / num_G, _exact(correct_G, num_G, below=TAIL, above=TAIL)
    below, above = (float(np.sqrt(np.square(end_G - accuracy_G).sum())) / len(accuracy_G) for end_G in ends)
    mean = float(accuracy_G.mean())
    return max(0.0, mean - below), min(1.0, mean + above)


def _exact(correct_G: np.ndarray, num_G: np.ndarray, *, below: float, above: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends, (G,) each, with so much beyond them (Clopper & Pearson 1934)."""
    # Quantiles of beta distributions, except where nothing is right, or everything.
    low_G = np.where(correct_G == 0, 0.0, betaincinv(np.maximum(correct_G, 1), num_G - correct_G + 1, below))
    wrong_G = np.maximum(num_G - correct_G, 1)
    return low_G, np.where(correct_G == num_G, 1.0, betaincinv(correct_G + 1, wrong_G, 1 - above))


def difference_interval(
    first: float, first_interval: tuple[float, float], second: float, second_interval: tuple[float, float]
) -> tuple[float, float]:
    """95% interval of `first - second`, two accuracies with their intervals, in [-1, 1].

    Newcombe 1998 (Statistics in Medicine 17, 873-890), method 10. It is for independent samples; for two classifiers
    on the same images, which tend to be right on the same ones, it is wider than it need be.
    """
    (first_low, first_high), (second_low, second_high) = first_interval, second_interval
    below = math.hypot(first - first_low, second_high - second)
    above = math.hypot(first_high - first, second - second_low)
    return first - second - below, first - second + above
