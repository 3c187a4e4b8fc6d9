"""AFR's weights, step and bound in closed form, and on features with a cue."""

from typing import Any

import numpy as np
import pytest
import torch
from feature_toys import biased, inputs, rows, table

from raygen.algorithms.afr import AfrConfig, fit_head, gradient, stepped, weights
from raygen.algorithms.heads import HeadInputs, Linear, softmax
from raygen.algorithms.selection import score_of
from raygen.errors import DataError

P_N, Y_N = np.array([0.9, 0.5, 0.1, 0.8]), np.array([0, 0, 0, 1])


@pytest.mark.parametrize(
    ("gamma", "class_factor", "expected"),
    [
        (10, False, [0.000329, 0.017964, 0.980812, 0.000894]),
        (10, True, [0.000328, 0.017932, 0.979061, 0.002678]),
        (0, True, [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        (0, False, [1 / 4] * 4),
    ],
)
def test_weights(gamma: float, class_factor: bool, expected: list[float]) -> None:
    found = weights(P_N, Y_N, gamma=gamma, class_factor=class_factor)
    assert found == pytest.approx(expected, abs=1e-6)
    if gamma and class_factor:
        assert 1 / (found**2).sum() == pytest.approx(1.043, abs=1e-3)


X_ND = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
LABEL_N = np.array([0, 1, 0])
FIRST = Linear(np.array([[0.5, -0.2], [-0.5, 0.2]]), np.zeros(2))


def test_a_step() -> None:
    probability_N = softmax(FIRST.logits(X_ND))[np.arange(3), LABEL_N]
    assert probability_N == pytest.approx([0.731059, 0.598688, 0.645656], abs=1e-6)
    weight_N = weights(probability_N, LABEL_N, gamma=2, class_factor=True)
    assert weight_N == pytest.approx([0.208662, 0.543812, 0.247527], abs=1e-6)
    found = gradient(FIRST, X_ND, LABEL_N, weight_N, first=FIRST, l2=0.3)  # at the first head the penalty is flat
    assert found.weight_CD == pytest.approx(np.array([[-0.143827, 0.130529], [0.143827, -0.130529]]), abs=1e-6)
    assert found.bias_C == pytest.approx([0.074411, -0.074411], abs=1e-6)
    norm = np.sqrt((found.weight_CD**2).sum() + (found.bias_C**2).sum())
    assert norm == pytest.approx(0.294146, abs=1e-6)
    for most, scale in ((1.0, 1.0), (0.1, 0.1 / 0.294146)):
        config = AfrConfig(gamma=2, l2=0.3, learning_rate=0.5, max_gradient_norm=most)
        after = stepped(FIRST, X_ND, LABEL_N, weight_N, first=FIRST, config=config)
        np.testing.assert_allclose(after.weight_CD, FIRST.weight_CD - 0.5 * scale * found.weight_CD, atol=1e-6)


def test_the_gradient_is_torchs_away_from_the_first_head() -> None:
    rng = np.random.default_rng(0)
    head = Linear(rng.normal(size=(2, 2)), rng.normal(size=2))
    weight_N = np.array([0.2, 0.5, 0.3])
    weight, bias = (torch.from_numpy(part.copy()).requires_grad_() for part in (head.weight_CD, head.bias_C))
    logits = torch.from_numpy(X_ND) @ weight.T + bias
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABEL_N), reduction="none")
    away = (weight - torch.from_numpy(FIRST.weight_CD)).square().sum() + bias.square().sum()
    ((losses * torch.from_numpy(weight_N)).sum() + 0.7 * away).backward()
    found = gradient(head, X_ND, LABEL_N, weight_N, first=FIRST, l2=0.7)
    assert weight.grad is not None
    assert bias.grad is not None
    np.testing.assert_allclose(found.weight_CD, weight.grad.numpy(), atol=1e-12)
    np.testing.assert_allclose(found.bias_C, bias.grad.numpy(), atol=1e-12)


def moved(scale: float, **fields: Any) -> float:
    """How far a head goes on features of a scale."""
    train = biased(300, cue=3, agree=0.9, size=4, noise=1, seed=0)
    train = rows(scale * train.features_ND, train.label_N)
    given = inputs(train, train)
    head, _ = fit_head(AfrConfig(select="last", **fields), given, seed=0)
    away = ((head.weight_CD - given.first.weight_CD) ** 2).sum() + ((head.bias_C - given.first.bias_C) ** 2).sum()
    return float(np.sqrt(away))


def test_a_head_goes_no_farther_than_its_steps_and_nowhere_with_a_large_penalty() -> None:
    free = moved(30, num_steps=20, learning_rate=0.01)
    assert 0.01 < free <= 20 * 0.01
    assert moved(30, num_steps=20, learning_rate=0.01, max_gradient_norm=100) > 0.2
    assert moved(1, num_steps=200, learning_rate=0.001, l2=400) < 0.004 < moved(1, num_steps=200, learning_rate=0.001)


def test_it_mends_a_head_that_reads_the_cue_and_keeps_the_best_step() -> None:
    train = biased(3000, cue=3, agree=0.97, size=6, noise=0.9, seed=0)
    val, test = (biased(600, cue=3, agree=0.5, size=6, noise=0.9, seed=seed) for seed in (1, 2))
    given = inputs(train, val)
    head, history = fit_head(AfrConfig(learning_rate=0.05), given, seed=0)
    before, after = (
        score_of(h.predict(test.features_ND), test.label_N, test.group_N)[0]  # type: ignore[arg-type]
        for h in (given.first, head)
    )
    assert after > before + 0.1
    scores = [(entry["val_worst_group"], entry["val_average"]) for entry in history[:-1]]
    assert scores == sorted(set(scores))  # each is better than all before
    assert score_of(head.predict(val.features_ND), val.label_N, val.group_N) == max(scores)  # type: ignore[arg-type]
    assert history[-1]["step"] == 500
    last, _ = fit_head(AfrConfig(learning_rate=0.05, select="last"), inputs(train, val), seed=0)
    assert not np.array_equal(last.weight_CD, head.weight_CD)


def test_a_class_that_the_held_out_part_lacks_is_named() -> None:
    given = HeadInputs(FIRST, table(rows(X_ND, LABEL_N)), table(rows(X_ND, [0, 0, 0]), "train"))
    with pytest.raises(DataError, match="fits the head on has none of class 1"):
        fit_head(AfrConfig(), given, seed=0)
    with pytest.raises(DataError, match="class 1 has 1 training image"):
        AfrConfig().check_counts(np.array([9, 1]), np.array([9, 9]))
