"""DFR against scikit-learn, on a toy with a spurious feature, and its head in a classifier."""

import copy
from pathlib import Path
from typing import Any

import feature_toys
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import StandardScaler

from raygen.algorithms.dfr import (
    DfrConfig,
    average_head,
    balanced_rows,
    fit,
    fit_head,
    logistic_head,
    penalty_scores,
    set_head,
)
from raygen.algorithms.inference import extract_features
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.metrics import worst_group_accuracy
from raygen.seeding import row_seed
from raygen.worker import Worker


def toy(counts: tuple[int, ...], *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """20 features: the class at 1.4 deviations in one, the attribute at 4 in another, noise in the rest."""
    group_N = np.repeat(np.arange(len(counts)), counts)
    label_N, attribute_N = group_N // 2, group_N % 2
    features_ND = np.random.default_rng(seed).normal(size=(len(group_N), 20))
    features_ND[:, 0] += 1.4 * (2 * label_N - 1)
    features_ND[:, 1] += 4 * (2 * attribute_N - 1)
    return features_ND, label_N, group_N


def average(features_ND: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, **changes: Any) -> Any:
    options = {"scaled_by_ND": features_ND, "c_value": 0.3, "num_retrains": 5, "seed": 0, **changes}
    return average_head(features_ND, label_N, group_N, **options)


def test_the_worst_group_of_the_toy_is_near_what_the_class_feature_allows() -> None:
    """Phi(1.4) = 0.919 for a head that reads the class only; plain regression on the biased training set reads both."""
    test = toy((500, 500, 500, 500), seed=1)
    head = average(*toy((400, 40, 40, 400), seed=0), num_retrains=20)
    found = worst_group_accuracy(head.predict(test[0]) == test[1], test[2], num_groups=4)
    assert found == pytest.approx(0.919, abs=0.03)
    biased = toy((4000, 60, 60, 4000), seed=2)
    plain = logistic_head(biased[0], biased[1], c_value=1.0, seed=0)
    assert worst_group_accuracy(plain.predict(test[0]) == test[1], test[2], num_groups=4) < found - 0.1


def test_predictions_do_not_change_when_features_are_scaled_and_moved() -> None:
    """The scaler takes it out; 1e-6, since liblinear stops by a tolerance on what it sees."""
    features_ND, label_N, group_N = toy((60, 20, 20, 60), seed=0)
    rng = np.random.default_rng(5)
    scale_D, shift_D = 10 ** rng.uniform(-2, 2, 20), rng.normal(size=20) * 10
    plain = average(features_ND, label_N, group_N)
    scaled = average(features_ND * scale_D + shift_D, label_N, group_N)
    np.testing.assert_allclose(
        scaled.decisions(features_ND * scale_D + shift_D), plain.decisions(features_ND), atol=1e-6
    )


def test_a_balanced_part_has_as_many_of_every_group_as_the_smallest() -> None:
    group_N = np.repeat([0, 2, 3], [50, 7, 20])
    rows = balanced_rows(group_N, np.random.default_rng(0))
    assert np.bincount(group_N[rows]).tolist() == [7, 0, 7, 7]
    assert len(set(rows.tolist())) == 21


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_saved_head_decides_as_the_average_of_scikit_learns_models(num_classes: int) -> None:
    features_ND, label_N, group_N = toy((40, 15) * num_classes, seed=3)
    scaler = StandardScaler().fit(features_ND)
    decisions = []
    for number in range(5):
        seed = row_seed(0, f"dfr/retrain/{number}")
        rows = balanced_rows(group_N, np.random.default_rng(seed))
        model = LogisticRegression(l1_ratio=1, solver="liblinear", C=0.3, random_state=seed % 2**32)
        model = OneVsRestClassifier(model) if num_classes > 2 else model
        model.fit(scaler.transform(features_ND[rows]), label_N[rows])
        decisions.append(model.decision_function(scaler.transform(features_ND)))
    expected = np.mean(decisions, axis=0)

    classifier = build_classifier(ClassifierConfig(width=8), num_classes, seed=0)
    classifier.head = torch.nn.Linear(20, num_classes)
    set_head(classifier, average(features_ND, label_N, group_N))
    logits_NC = classifier.head(torch.from_numpy(features_ND).float()).detach().double().numpy()
    found = logits_NC[:, 1] - logits_NC[:, 0] if num_classes == 2 else logits_NC
    np.testing.assert_allclose(found, expected, atol=1e-5)  # the head is float32
    clear_N = np.abs(expected) > 1e-4 if num_classes == 2 else np.ones(len(expected), dtype=bool)
    predicted_N = (expected > 0).astype(int) if num_classes == 2 else expected.argmax(axis=1)
    assert np.array_equal(logits_NC.argmax(axis=1)[clear_N], predicted_N[clear_N])


def test_a_penalty_that_kills_every_feature_scores_worst() -> None:
    scores = penalty_scores(*toy((60, 60, 60, 60), seed=0), c_values=(1.0, 1e-6), seed=0)
    assert scores[0] > 0.6
    assert scores[1] == 0  # a constant decision: one class is always wrong


@pytest.mark.parametrize("c_values", [(1e-6, 0.3), (0.3, 1e-6)])
def test_the_head_is_fitted_with_the_penalty_that_scored_best(c_values: tuple[float, ...]) -> None:
    """The other one kills every feature."""
    val = feature_toys.rows(*toy((60, 60, 60, 60), seed=0))
    config = DfrConfig(c_values=c_values, num_retrains=2)
    head, history = fit_head(config, feature_toys.inputs(val, val), seed=0)
    assert np.abs(head.weight_CD[:, 0]).min() > 0.1
    assert [entry["chosen"] for entry in history] == [float(c == 0.3) for c in c_values]


def test_penalties_are_scored_on_images_that_the_head_has_not_seen() -> None:
    """Of noise, in more dimensions than images, a head learns its own half by heart and nothing of the other."""
    group_N = np.repeat(np.arange(4), 40)
    noise_ND = np.random.default_rng(0).normal(size=(160, 400))
    label_N = group_N // 2
    assert (
        logistic_head(noise_ND[::2], label_N[::2], c_value=10.0, seed=0).predict(noise_ND[::2]) == label_N[::2]
    ).all()
    (score,) = penalty_scores(noise_ND, label_N, group_N, c_values=(10.0,), seed=0)
    assert score < 0.7


def test_penalties_are_tried_on_a_half_with_as_many_of_every_group() -> None:
    """Phi(1.4) = 0.919 for a head that reads the class alone; one of an unbalanced half reads the attribute too."""
    features_ND, label_N, group_N = toy((3000, 100, 100, 3000), seed=0)
    half = slice(None, None, 2)
    unbalanced = logistic_head(features_ND[half], label_N[half], c_value=1.0, seed=0)
    correct_N = unbalanced.predict(features_ND[1::2]) == label_N[1::2]
    worst = worst_group_accuracy(correct_N, group_N[1::2], num_groups=4)
    (score,) = penalty_scores(features_ND, label_N, group_N, c_values=(1.0,), seed=0)
    assert worst < 0.75
    assert score > 0.84


def test_it_changes_the_head_alone_and_repeats(scenes_folder: Path, tmp_path: Path) -> None:
    index = RowIndex(scenes_folder)
    train, val = (TrainingSet(index, split, size_px=64) for split in ("train", "val"))
    heads = []
    for scaler in ("val", "val", "train"):
        classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
        before = {name: value.clone() for name, value in classifier.state_dict().items()}
        config = DfrConfig(num_retrains=2, c_values=(1.0, 0.1), scaler=scaler)
        history = fit(config, classifier, train, val, seed=0, worker=Worker(0, 1, "cpu", tmp_path))
        changed = {name for name, value in classifier.state_dict().items() if not torch.equal(value, before[name])}
        assert changed == {"head.weight", "head.bias"}
        assert [entry["c"] for entry in history] == [1.0, 0.1]
        assert sum(entry["chosen"] for entry in history) == 1
        heads.append(classifier.head.weight.detach().clone())
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert extract_features(classifier, val, Worker(0, 1, "cpu", tmp_path)).shape == (len(val), 32)


def test_what_validation_lacks_is_named(scenes_folder: Path, tmp_path: Path) -> None:
    index = RowIndex(scenes_folder)
    train, val = (TrainingSet(index, split, size_px=64) for split in ("train", "val"))
    assert val.group_N is not None
    one_N = val.group_N.copy()
    one_N[np.flatnonzero(one_N == 2)[1:]] = 3
    for group_N, message in (
        (None, "needs the attribute of every validation image"),
        (one_N, "class 1 with attribute 0 has one image"),
        (val.group_N % 2, "no image of class 1"),
    ):
        other = copy.copy(val)
        other.group_N = group_N
        classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
        with pytest.raises(DataError, match=message):
            fit(DfrConfig(), classifier, train, other, seed=0, worker=Worker(0, 1, "cpu", tmp_path))
