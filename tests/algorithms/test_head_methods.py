"""What holds for every algorithm that fits only a new last layer."""

from typing import Any

import numpy as np
import pytest
from feature_toys import inputs, rows

from raygen import algorithms
from raygen.algorithms import ALGORITHMS, head_algorithms
from raygen.algorithms.features import Features
from raygen.algorithms.heads import HeadInputs, Linear
from raygen.algorithms.selection import score_of
from raygen.errors import DataError

HEADS = sorted(head_algorithms())
QUICK: dict[str, dict[str, Any]] = {
    "nsf": {"scale_free": True},
    "dfr": {"num_retrains": 2},
    "afr": {"num_steps": 50},
    "evals": {"num_extremes": [4], "l1": [0.0, 0.1], "epochs": 20, "learning_rate": 0.05},
    "self": {"score": "misclassification", "num_rows": [8], "num_steps": 20},
    "hsfm": {"epochs": 2, "num_support": 4},
}


def fitted(name: str, train: Features, val: Features) -> tuple[Linear, HeadInputs]:
    config = algorithms.ALGORITHMS[name].Config(name=name, **QUICK.get(name, {}))
    chosen = config.training_rows(train.label_N, seed=0)  # type: ignore[attr-defined]
    found = inputs(train, val)
    read = None if chosen is None else inputs(train.take(chosen), val).train
    given = HeadInputs(found.first, found.val, read)
    return head_algorithms()[name].fit_head(config, given, seed=0)[0], given


def test_they_are_known_by_what_they_have() -> None:
    assert HEADS == ["afr", "dfr", "evals", "hsfm", "nsf", "self"]
    assert set(HEADS) < set(ALGORITHMS)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_features_that_are_all_alike_give_the_prior(name: str, value: float) -> None:
    """The same answer for every row, finite: nothing is known but how often the classes are."""
    group_N = np.repeat([0, 1, 2, 3], [20, 4, 4, 12])
    same = rows(np.full((40, 3), value), group_N // 2, group_N)
    if name == "nsf":  # no row can be told from another, so the first class is nearest to all, and none is recovered
        with pytest.raises(DataError, match="outlier group is empty"):
            fitted(name, same, same)
        return
    head, _ = fitted(name, same, same)
    logits_NC = head.logits(same.features_ND)
    assert np.isfinite(logits_NC).all()
    assert np.ptp(logits_NC, axis=0) == pytest.approx(0)


@pytest.mark.parametrize("name", HEADS)
def test_with_one_group_in_each_class_the_worst_group_is_the_worst_class(name: str) -> None:
    rng = np.random.default_rng(0)
    label_N = np.repeat([0, 1], 60)
    features_ND = rng.normal(size=(120, 3)) + 1.0 * label_N[:, None]
    head, _ = fitted(name, rows(features_ND, label_N, 2 * label_N), rows(features_ND, label_N, 2 * label_N))
    predicted_N = head.predict(features_ND)
    by_group, by_class = (score_of(predicted_N, label_N, group_N) for group_N in (2 * label_N, label_N))
    assert by_group == by_class
    assert score_of(predicted_N, label_N, 0 * label_N)[0] == by_class[1]  # a single group: worst = average
    assert by_class[1] > 0.5


@pytest.mark.parametrize("name", HEADS)
def test_no_row_is_used_twice(name: str) -> None:
    rng = np.random.default_rng(0)
    group_N = np.tile([0, 1, 2, 3], 20)
    features_ND = rng.normal(size=(80, 3)) + np.stack([group_N // 2, group_N % 2, 0 * group_N], axis=1)
    noisy = rows(features_ND, group_N // 2, group_N)
    _, given = fitted(name, noisy, noisy)
    for table in (given.train, given.val):
        if table is not None:
            assert "held out" not in table.roles()["role"].to_pylist()
            with pytest.raises(AssertionError):
                table.use(algorithms.features.Role.SELECT)


@pytest.mark.parametrize("name", HEADS)
def test_three_classes(name: str) -> None:
    rng = np.random.default_rng(0)
    label_N, cue_N = np.tile([0, 1, 2], 60), np.repeat([0, 1], 90)
    features_ND = 0.6 * rng.normal(size=(180, 4)) + 2 * np.hstack([np.eye(3)[label_N], cue_N[:, None]])
    three = rows(features_ND, label_N, 2 * label_N + cue_N, num_classes=3)
    head, _ = fitted(name, three, three)
    assert head.weight_CD.shape == (3, 4)
    assert np.mean(head.predict(features_ND) == label_N) > 0.6
