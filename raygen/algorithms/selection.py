"""What a fit is selected by on validation: the worst of known groups, of classes, or of groups that are inferred."""

# N rows, D features, C classes, K clusters

from typing import Any, Generic, Literal, TypeVar

import numpy as np

from raygen.algorithms.features import Features
from raygen.errors import DataError
from raygen.metrics import worst_group_accuracy
from raygen.seeding import row_seed

SelectBy = Literal["auto", "groups", "classes", "environments", "inferred_groups", "average"]
"""What validation images are told apart by, of which the worst counts.

"groups": class and attribute. "classes": the class. "environments": in each class, what the first fit gets right and
what it gets wrong (EVaLS, arXiv 2410.05345: the limit of EIIL for two classes). "inferred_groups": in each class, two
clusters of the first fit's features (George, Sohoni et al. 2020, arXiv 2011.12945). "auto": the groups where every
validation image has an attribute, else the classes. "average": nothing, so that the average itself is the worst.
"""

# Clusters of each class.
NUM_CLUSTERS = 2

WORDS: dict[SelectBy, str] = {
    "groups": "worst group",
    "classes": "worst class",
    "environments": "worst environment: what the first fit gets right, and wrong, of each class",
    "average": "average",
    "inferred_groups": "worst inferred group: two clusters of the first fit's features in each class",
}

Item = TypeVar("Item")


def needs_first_fit(by: SelectBy | None) -> bool:
    """Whether a classifier that was fitted before tells the images apart."""
    return by in ("environments", "inferred_groups")


def resolved(by: SelectBy, *, has_groups: bool) -> SelectBy:
    """What "auto" means.

    Raises:
        DataError: The groups are asked for and not known.
    """
    if by == "auto":
        return "groups" if has_groups else "classes"
    if by == "groups" and not has_groups:
        raise DataError(
            "select_by is groups, which needs the attribute of every validation image, and this dataset does not have "
            "them all; take environments, inferred_groups or classes"
        )
    return by


def selection_groups(by: SelectBy, rows: Features, first_logits_NC: np.ndarray, *, seed: int) -> np.ndarray:
    """The groups of which the worst counts, (N,) int; some may be empty.

    Args:
        by: How rows are told apart.
        rows: Features by the first fit.
        first_logits_NC: Its logits.
        seed: Of clusters.

    Raises:
        DataError: The groups are asked for and not known.
    """
    match resolved(by, has_groups=rows.group_N is not None):
        case "groups":
            assert rows.group_N is not None
            return rows.group_N
        case "environments":
            return error_environments(first_logits_NC, rows.label_N)
        case "inferred_groups":
            return clusters(rows, seed=seed)
        case "average":
            return np.zeros_like(rows.label_N)
        case _:
            return rows.label_N


def error_environments(logits_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """2 * label, + 1 where the label is not predicted, (N,) int."""
    return np.asarray(2 * label_N + (logits_NC.argmax(axis=1) != label_N))


def clusters(rows: Features, *, seed: int) -> np.ndarray:
    """K * label + cluster by k-means on the features of each class, (N,) int; one cluster where all are alike."""
    from sklearn.cluster import KMeans

    group_N = rows.label_N * NUM_CLUSTERS
    for label in np.unique(rows.label_N):
        own = np.flatnonzero(rows.label_N == label)
        own_MD = rows.features_ND[own]
        if (own_MD == own_MD[0]).all():
            continue
        this_seed = row_seed(seed, f"selection/clusters/{label}") % 2**32
        group_N[own] += KMeans(NUM_CLUSTERS, n_init=10, random_state=this_seed).fit_predict(own_MD)
    return np.asarray(group_N)


class Best(Generic[Item]):
    """The best of what is offered: by the worst group, then the average, then the earlier.

    Attributes:
        score: Its (worst, average).
        item: It; None before anything was offered.
    """

    def __init__(self) -> None:
        self.score, self.item = (-1.0, -1.0), None

    item: Item | None

    def offer(self, score: tuple[float, float], item: Item) -> bool:
        """Takes it if it is better; gives back whether it is."""
        if is_better := score > self.score:
            self.score, self.item = score, item
        return is_better


def score_of(predicted_N: np.ndarray, label_N: np.ndarray, group_N: np.ndarray) -> tuple[float, float]:
    """(worst group, average) accuracy; groups without a row do not count."""
    correct_N: Any = predicted_N == label_N
    worst = worst_group_accuracy(correct_N, group_N, num_groups=int(group_N.max()) + 1)
    return worst, float(correct_N.mean())
