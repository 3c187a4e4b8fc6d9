"""NSF by its theorems, a case by hand, and end to end on features with a cue."""

import numpy as np
import pytest
import torch
from feature_toys import biased, inputs, regression, rows, table

from raygen.algorithms.features import Features
from raygen.algorithms.heads import HeadInputs, Linear
from raygen.algorithms.nsf import (
    NsfConfig,
    centroids,
    eliminated,
    fit_head,
    nearest,
    neutral_centroids,
    standardising,
    transformed,
    updated,
)
from raygen.algorithms.selection import score_of
from raygen.errors import DataError
from raygen.seeding import row_seed


def theory(*, cue: float, agree: float, size: int) -> tuple[Features, np.ndarray]:
    """The supplement's: x = (B a, y, d), d normal; no noise in the first two."""
    noisy = biased(4000, cue=0, agree=agree, size=size, noise=1.0, seed=0)
    assert noisy.group_N is not None
    y_N, a_N = 2 * noisy.label_N - 1, 2 * (noisy.group_N % 2) - 1
    noisy.features_ND[:, 0], noisy.features_ND[:, 1] = cue * a_N, y_N
    return noisy, y_N != a_N


@pytest.mark.parametrize("size", [10, 512])
def test_where_the_cue_is_strong_outliers_are_the_minority_and_the_neutral_centroid_has_no_cue(size: int) -> None:
    """Theorem 1 and 2: (2 rho - 1) B^2 = 7.2 > 1."""
    found, is_minority_N = theory(cue=3, agree=0.9, size=size)
    biased_CD = centroids(found.features_ND, found)
    outlier_N = nearest(found.features_ND, biased_CD) != found.label_N
    assert np.array_equal(outlier_N, is_minority_N)
    assert np.abs(biased_CD[:, 0]) == pytest.approx(2.4, abs=0.1)  # (2 rho - 1) B
    neutral_CD = neutral_centroids(found.features_ND, found, outlier_N)
    assert neutral_CD[:, 0] == pytest.approx(0, abs=1e-4)  # 1e-5 is added to the counts
    assert neutral_CD[:, 1] == pytest.approx([-1, 1], abs=1e-4)


@pytest.mark.parametrize(("cue", "agree", "biased_by"), [(1.0, 0.9, 0.8), (3.0, 0.55, 0.3)])
def test_where_it_is_weak_the_minority_is_not_found(cue: float, agree: float, biased_by: float) -> None:
    """(2 rho - 1) B^2 of 0.8 and 0.9: nobody's distance speaks against its own class for the cue's sake."""
    found, is_minority_N = theory(cue=cue, agree=agree, size=10)
    centroids_CD = centroids(found.features_ND, found)
    outlier_N = nearest(found.features_ND, centroids_CD) != found.label_N
    assert np.mean(outlier_N == is_minority_N) < 0.95
    assert np.abs(centroids_CD[:, 0]) == pytest.approx(biased_by, abs=0.15)
    assert np.abs(neutral_centroids(found.features_ND, found, outlier_N)[:, 0]).min() > 0.25


def test_a_case_by_hand() -> None:
    six = rows([[0, 0], [2, 0], [10, 0], [10, 1], [8, 1], [0, 1]], [0, 0, 0, 1, 1, 1])
    found_CD = centroids(six.features_ND, six)
    assert found_CD == pytest.approx(np.array([[4, 0], [6, 1]]), abs=1e-4)
    outlier_N = nearest(six.features_ND, found_CD) != six.label_N
    assert np.flatnonzero(outlier_N).tolist() == [2, 5]
    expected = np.array([[5.49995, 0], [4.49998, 0.99999]])
    assert neutral_centroids(six.features_ND, six, outlier_N) == pytest.approx(expected, abs=1e-5)
    # One class without outliers, one without inliers: the mean of those that there are.
    one_sided_N = six.label_N == 1
    assert neutral_centroids(six.features_ND, six, one_sided_N) == pytest.approx(found_CD)
    assert transformed(np.array([[3.0, 4.0]]), np.array([0.5, 2.0]), np.array([1.0, -1.0])).tolist() == [[1, 7]]


def test_as_published_ten_steps_hardly_move_the_features() -> None:
    """AdamW moves a weight by at most its rate a step."""
    found = biased(200, cue=3, agree=0.9, size=8, noise=0.5, seed=0)
    target_ND = np.zeros_like(found.features_ND)
    beta_D, b_D = eliminated(found.features_ND, target_ND, NsfConfig())
    assert 0.009 < np.abs(beta_D - 1).max() <= 0.01 + 1e-6
    assert np.abs(b_D).max() <= 0.01 + 1e-6
    one_D, _ = eliminated(found.features_ND, target_ND, NsfConfig(eliminate_steps=1))
    assert np.all(one_D < 1)  # the regulariser and the distance both draw beta down


def test_the_transformation_is_what_torch_finds() -> None:
    """The same loss by torch's own distance, whose eps is the one that is added."""
    found = biased(60, cue=3, agree=0.9, size=5, noise=0.5, seed=0)
    target_ND = found.features_ND[::-1].copy()
    beta, b = (torch.full((5,), value, dtype=torch.float64, requires_grad=True) for value in (1.0, 0.0))
    optimizer = torch.optim.AdamW([beta, b], lr=1e-3, weight_decay=0)
    for _ in range(30):
        moved = (torch.from_numpy(found.features_ND) + b) * beta - b
        loss = torch.nn.PairwiseDistance(2)(moved, torch.from_numpy(target_ND)).mean() + 10 * beta.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    beta_D, b_D = eliminated(found.features_ND, target_ND, NsfConfig(eliminate_steps=30))
    np.testing.assert_allclose(beta_D, beta.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(b_D, b.detach().numpy(), atol=1e-10)


def worst(head: Linear, test: Features) -> float:
    assert test.group_N is not None
    return score_of(head.predict(test.features_ND), test.label_N, test.group_N)[0]


def train_and_test() -> tuple[Features, Features]:
    """(0.5 of noise: Phi(2) = 0.977 is what reads the class feature alone.)"""
    return tuple(
        biased(1500, cue=3, agree=agree, size=16, noise=0.5, seed=seed) for agree, seed in ((0.95, 0), (0.5, 1))
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("fields", "least", "most"),
    [
        ({"eliminate_steps": 10, "update_steps": 1500}, 0.93, 0.98),
        ({"eliminate_steps": 350, "update_steps": 1500}, 0.91, 0.98),
        ({"eliminate_steps": 10, "update_steps": 110}, 0.2, 0.9),  # the steps of one dataset do not do for another
        ({"scale_free": True}, 0.9, 0.98),
    ],
)
def test_it_mends_a_head_that_reads_the_cue(fields: dict[str, float], least: float, most: float) -> None:
    train, test = train_and_test()
    by_centroid_N = nearest(test.features_ND, centroids(train.features_ND, train))
    assert score_of(by_centroid_N, test.label_N, test.group_N)[0] < 0.05  # type: ignore[arg-type]
    head, (counts,) = fit_head(NsfConfig(**fields), inputs(train, train), seed=0)
    assert least <= worst(head, test) <= most
    minority = np.isin(train.group_N, [1, 2]).sum()  # type: ignore[arg-type]
    assert counts["outliers"] == pytest.approx(minority, rel=0.05)
    assert counts["recovered"] <= counts["outliers"]


@pytest.mark.parametrize("scale_free", [False, True])
def test_the_map_is_folded_into_the_head(scale_free: bool) -> None:
    """What the head says of features is what the new layer says of T of them."""
    train = biased(400, cue=3, agree=0.9, size=5, noise=0.5, seed=0)
    config = NsfConfig(scale_free=scale_free, eliminate_steps=400, learning_rate=0.01, update_steps=50)
    head, _ = fit_head(config, inputs(train, train), seed=4)
    scale, shift_D = standardising(train.features_ND) if scale_free else (1.0, np.zeros(5))
    features_ND = train.features_ND * scale + shift_D
    outlier_N = nearest(features_ND, centroids(features_ND, train)) != train.label_N
    neutral_CD = neutral_centroids(features_ND, train, outlier_N)
    beta_D, b_D = eliminated(features_ND, neutral_CD[train.label_N], config)
    assert np.abs(beta_D - 1).max() > 0.5
    assert np.abs(b_D).max() > 0.05
    moved_ND = transformed(features_ND, beta_D, b_D)
    recovered_N = outlier_N & (nearest(moved_ND, neutral_CD) == train.label_N)
    layer = updated(moved_ND, train, recovered_N, ~outlier_N, config, seed=row_seed(4, "nsf/head"))
    np.testing.assert_allclose(head.logits(train.features_ND), layer.logits(moved_ND), atol=1e-9)


def test_the_last_step_sees_as_many_of_either_part() -> None:
    """Features without any say: the bias finds how often each class is drawn."""
    nothing = rows(np.zeros((100, 2)), [0] * 90 + [1] * 10)
    first_N = np.arange(100) >= 90
    config = NsfConfig(update_steps=3000, learning_rate=0.01)
    for recovered_N, inlier_N, expected in (
        (first_N, ~first_N, 0.5),
        (first_N, first_N | (np.arange(100) < 30), 0.375),
    ):
        bias_C = updated(nothing.features_ND, nothing, recovered_N, inlier_N, config, seed=0).bias_C
        share = np.exp(bias_C[0]) / np.exp(bias_C).sum()
        # Of the second pair the larger part has 30 of class 0 and 10 of class 1, drawn as often as the smaller part.
        assert share == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_free_means_that_scaling_and_moving_features_changes_nothing(scale: float) -> None:
    train, test = train_and_test()
    shift_D = scale * np.random.default_rng(3).normal(size=16)
    scaled = rows(train.features_ND * scale + shift_D, train.label_N)
    config = NsfConfig(scale_free=True)
    plain, _ = fit_head(config, inputs(train, train), seed=0)
    other, _ = fit_head(config, HeadInputs(plain, table(scaled)), seed=0)
    logits_NC = other.logits(test.features_ND * scale + shift_D)
    np.testing.assert_allclose(logits_NC, plain.logits(test.features_ND), atol=1e-3)  # L-BFGS stops by a tolerance


def test_standardised_features_have_mean_0_and_mean_variance_1() -> None:
    features_ND = np.random.default_rng(0).normal(5, 100, size=(50, 3))
    features_ND[:, 1] = 1e6
    scale, shift_D = standardising(features_ND)
    found_ND = features_ND * scale + shift_D
    assert found_ND.mean(axis=0) == pytest.approx(0, abs=1e-9)
    assert found_ND.var(axis=0).mean() == pytest.approx(1)
    assert standardising(np.full((4, 2), 3.0))[0] == 1


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        ([[0.0], [1.0], [10.0], [11.0]], [0, 0, 1, 1], "no outlier: each of the 4"),
        # Nothing can be told by features that are all alike: the first class is nearest to all.
        ([[2.0]] * 4, [0, 0, 1, 1], "outlier group is empty: 2 of 4"),
        ([[0.0], [1.0]], [0, 0], "no image of class 1"),
    ],
)
def test_an_empty_part_is_named(features: list[list[float]], labels: list[int], message: str) -> None:
    given = HeadInputs(Linear(np.zeros((2, 1)), np.zeros(2)), table(rows(features, labels)))
    with pytest.raises(DataError, match=message):
        fit_head(NsfConfig(), given, seed=0)


def test_three_classes_and_the_same_seed_twice() -> None:
    rng = np.random.default_rng(0)
    label_N, cue_N = rng.integers(3, size=900), rng.integers(3, size=900)
    cue_N = np.where(rng.random(900) < 0.9, label_N, cue_N)
    features_ND = np.hstack([3 * np.eye(3)[cue_N], 2 * np.eye(3)[label_N]]) + 0.2 * rng.normal(size=(900, 6))
    three = rows(features_ND, label_N, 3 * label_N + cue_N, num_classes=3)
    config = NsfConfig(update_steps=2000)
    head, _ = fit_head(config, HeadInputs(regression(three), table(three)), seed=0)
    again, _ = fit_head(config, HeadInputs(regression(three), table(three)), seed=0)
    assert np.array_equal(head.weight_CD, again.weight_CD)
    assert worst(head, three) > 0.9
