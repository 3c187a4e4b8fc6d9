"""Tables of features with a spurious one, without a classifier."""

from typing import Any

import numpy as np

from raygen.algorithms.features import Features, FeatureTable
from raygen.algorithms.heads import HeadInputs, Linear


def rows(features_ND: Any, label_N: Any, group_N: Any = None, *, num_classes: int = 2) -> Features:
    label_N = np.asarray(label_N, dtype=np.int64)
    group_N = None if group_N is None else np.asarray(group_N, dtype=np.int64)
    return Features(np.asarray(features_ND, dtype=float), label_N, group_N, num_classes, 2)


def table(features: Features, split: str = "val") -> FeatureTable:
    return FeatureTable(features, split=split, ids=[f"{split}{i}" for i in range(len(features))])


def biased(num: int, *, cue: float, agree: float, size: int, noise: float, seed: int) -> Features:
    """x = (cue * a, y, 0, ...) plus noise, y and a of -1 and 1, which agree in a share of the rows."""
    rng = np.random.default_rng(seed)
    y_N = rng.choice([-1, 1], size=num)
    a_N = np.where(rng.random(num) < agree, y_N, -y_N)
    features_ND = noise * rng.normal(size=(num, size))
    features_ND[:, 0] += cue * a_N
    features_ND[:, 1] += y_N
    return rows(features_ND, (y_N + 1) // 2, (y_N + 1) + (a_N + 1) // 2)


def regression(train: Features) -> Linear:
    """The head of a first fit: it falls for the cue."""
    from sklearn.linear_model import LogisticRegression

    model: Any = LogisticRegression(C=1.0, max_iter=1000).fit(train.features_ND, train.label_N)
    weight_CD, bias_C = model.coef_, model.intercept_
    if len(bias_C) == 1:
        weight_CD, bias_C = np.concatenate([-weight_CD, weight_CD]) / 2, np.concatenate([-bias_C, bias_C]) / 2
    return Linear(weight_CD, bias_C)


def inputs(train: Features, val: Features, *, early_NC: np.ndarray | None = None) -> HeadInputs:
    return HeadInputs(regression(train), table(val), table(train, "train"), early_NC)
