"""What validation says of a trial: the epoch it takes, its accuracies, and how far they can be trusted."""

# E epochs, N validation images, G groups that occur, R random halvings

import math
from dataclasses import dataclass

import numpy as np

from raygen.seeding import row_seed

# A metric's ties are decided by the other accuracy. As one number for Ray Tune: the other one counts a millionth, less
# than two worst-group accuracies can differ by where groups have up to a thousand images.
TIE = 1e-6
# Below this many images in the smallest group, half a right answer is uncertain by five points or more.
SMALL_GROUP = 100


@dataclass(frozen=True, slots=True)
class Score:
    """A trial's validation accuracies, in [0, 1].

    Attributes:
        epoch: The epoch that is taken, 0 = first.
        worst_group: Of the whole validation split, at that epoch.
        average: The same.
        standard_error: Of `worst_group`: binomial, by the size of the worst group.
        split_worst_group: Mean over random halvings of the half that did not choose the epoch; None without any.
        split_average: The same for the average.
        split_deviation: Standard deviation of `split_worst_group` over halvings.
    """

    epoch: int
    worst_group: float
    average: float
    standard_error: float
    split_worst_group: float | None = None
    split_average: float | None = None
    split_deviation: float | None = None

    def key(self, metric: str) -> tuple[float, float]:
        """What trials are ranked by: the metric, then the other accuracy."""
        worst = self.worst_group if self.split_worst_group is None else self.split_worst_group
        average = self.average if self.split_average is None else self.split_average
        return (worst, average) if metric == "worst_group" else (average, worst)

    def number(self, metric: str) -> float:
        """`key` as one number."""
        first, second = self.key(metric)
        return first + TIE * second


def score(correct_EN: np.ndarray, group_N: np.ndarray, *, select: str, halves_RN: np.ndarray) -> Score:
    """The score of a fit after some epochs.

    Args:
        correct_EN: Whether each validation image was right after each epoch, (E, N) bool.
        group_N: Group of each image, (N,) int; of the class where there are no attributes.
        select: "best" or "last", as the fit chooses its epoch.
        halves_RN: Random halvings (`halvings`), (R, N) bool; none: (0, N).
    """
    group_N = np.unique(group_N, return_inverse=True)[1]
    worst_E, average_E = _accuracies(correct_EN, group_N)
    epoch = _chosen(worst_E, average_E, select)
    # Of several groups that are worst, the smallest: the least certain.
    accuracy_G = _group_accuracies(correct_EN[epoch : epoch + 1], group_N)[0]
    num = int(np.bincount(group_N)[accuracy_G == accuracy_G.min()].min())
    split = _split_scores(correct_EN, group_N, select=select, halves_RN=halves_RN)
    return Score(
        epoch=epoch,
        worst_group=float(worst_E[epoch]),
        average=float(average_E[epoch]),
        standard_error=standard_error(round(accuracy_G.min() * num), num),
        split_worst_group=float(split[:, 0].mean()) if len(split) else None,
        split_average=float(split[:, 1].mean()) if len(split) else None,
        split_deviation=float(split[:, 0].std(ddof=1)) if len(split) else None,
    )


def standard_error(correct: int, num: int) -> float:
    """Standard error of an accuracy, sqrt(p (1 - p) / num), with p = (correct + 1) / (num + 2).

    Laplace's p instead of the accuracy itself: 0 of 12 right is not known for certain.
    """
    share = (correct + 1) / (num + 2)
    return math.sqrt(share * (1 - share) / num)


def halvings(group_N: np.ndarray, *, num: int, seed: int) -> np.ndarray:
    """Random halves of the images, each group halved by itself, (num, N) bool; True is one half, False the other.

    The odd image of a group falls to either half, by chance.
    """
    halves_RN = np.zeros((num, len(group_N)), dtype=bool)
    for number in range(num):
        rng = np.random.default_rng(row_seed(seed, f"validation_split/{number}"))
        for group in np.unique(group_N):
            members = rng.permutation(np.flatnonzero(group_N == group))
            half = len(members) // 2 + (int(rng.integers(2)) if len(members) % 2 else 0)
            halves_RN[number, members[:half]] = True
    return halves_RN


def _split_scores(correct_EN: np.ndarray, group_N: np.ndarray, *, select: str, halves_RN: np.ndarray) -> np.ndarray:
    """Worst-group and average accuracy on the half that did not choose, each half in turn, (2R, 2)."""
    scores = []
    for half_N in halves_RN:
        for choose_N in (half_N, ~half_N):
            epoch = _chosen(*_accuracies(correct_EN[:, choose_N], group_N[choose_N]), select)
            worst_E, average_E = _accuracies(correct_EN[epoch : epoch + 1, ~choose_N], group_N[~choose_N])
            scores.append((worst_E[0], average_E[0]))
    return np.array(scores).reshape(-1, 2)


def _chosen(worst_E: np.ndarray, average_E: np.ndarray, select: str) -> int:
    """As `raygen.algorithms.loop` selects: the best worst group, ties by average, then the earlier; or the last."""
    if select == "last":
        return len(worst_E) - 1
    return max(range(len(worst_E)), key=lambda epoch: (worst_E[epoch], average_E[epoch], -epoch))


def _accuracies(correct_EN: np.ndarray, group_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _group_accuracies(correct_EN, group_N).min(axis=1), correct_EN.mean(axis=1)


def _group_accuracies(correct_EN: np.ndarray, group_N: np.ndarray) -> np.ndarray:
    """Accuracy of each group that occurs, (E, G)."""
    groups = np.unique(group_N)
    return np.stack([correct_EN[:, group_N == group].mean(axis=1) for group in groups], axis=1)
