"""HSFM's meta step in closed form, and on features with a cue."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from feature_toys import biased, inputs, rows

from raygen.algorithms.features import Features
from raygen.algorithms.heads import HeadInputs, Linear
from raygen.algorithms.hsfm import HsfmConfig, adapted, fit_head, hard_rows
from raygen.algorithms.selection import score_of
from raygen.errors import DataError

NOTHING = Linear(np.zeros((2, 1)), np.zeros(2))


def test_the_meta_step() -> None:
    support = torch.tensor([[-1.0], [1.0]], dtype=torch.float64, requires_grad=True)
    head = adapted(NOTHING, support, torch.tensor([0, 1]), num_steps=1, learning_rate=1.0)
    assert head.weight_CD.detach().flatten().tolist() == pytest.approx([-0.5, 0.5])
    assert head.bias_C.detach().tolist() == pytest.approx([0, 0])
    loss = torch.nn.functional.cross_entropy(head.logits(torch.ones((1, 1), dtype=torch.float64)), torch.tensor([0]))
    assert float(loss.detach()) == pytest.approx(1.313262, abs=1e-6)
    loss.backward()
    assert support.grad is not None
    assert support.grad.flatten().tolist() == pytest.approx([-0.365529, 0.365529], abs=1e-6)


def test_the_outer_loss_in_closed_form() -> None:
    """One step from nothing: d = alpha (sum_{y=1} s - sum_{y=0} s) / n, L = log(1 + e^d) at x = 1, y = 0."""
    rng = np.random.default_rng(0)
    s_M, label_M = rng.normal(size=8), np.repeat([0, 1], 4)
    head = adapted(NOTHING, torch.from_numpy(s_M[:, None]), torch.from_numpy(label_M), num_steps=1, learning_rate=0.7)
    loss = torch.nn.functional.cross_entropy(head.logits(torch.ones((1, 1), dtype=torch.float64)), torch.tensor([0]))
    d = 0.7 * (s_M[4:].sum() - s_M[:4].sum()) / 8
    assert float(loss) == pytest.approx(np.log1p(np.exp(d)), abs=1e-12)


def test_several_steps_are_those_of_torchs_descent() -> None:
    rng = np.random.default_rng(0)
    support, label_M = torch.from_numpy(rng.normal(size=(9, 4))), torch.from_numpy(rng.integers(3, size=9))
    first = Linear(rng.normal(size=(3, 4)), rng.normal(size=3))
    weight, bias = (torch.from_numpy(part.copy()).requires_grad_() for part in (first.weight_CD, first.bias_C))
    optimizer = torch.optim.SGD([weight, bias], lr=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(support @ weight.T + bias, label_M).backward()
        optimizer.step()
    found = adapted(first, support, label_M, num_steps=5, learning_rate=0.3)
    np.testing.assert_allclose(found.weight_CD.numpy(), weight.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(found.bias_C.numpy(), bias.detach().numpy(), atol=1e-12)


def test_hard_rows_are_those_of_highest_loss_of_each_class() -> None:
    head = Linear(np.array([[-1.0], [1.0]]), np.zeros(2))
    six = rows([[-3.0], [2.0], [-1.0], [3.0], [0.5], [-0.5]], [0, 0, 0, 1, 1, 1])
    assert hard_rows(head, six, num=1).tolist() == [1, 5]
    assert hard_rows(head, six, num=2).tolist() == [1, 2, 4, 5]
    assert hard_rows(head, six, num=64).tolist() == list(range(6))


def given(train: Features, val: Features, config: HsfmConfig) -> HeadInputs:
    chosen = config.training_rows(train.label_N, seed=0)
    assert chosen is not None
    found = inputs(train, val)
    return HeadInputs(found.first, found.val, inputs(train.take(chosen), val).train)


@pytest.mark.parametrize("fields", [{}, {"halve_validation": True}])
def test_it_mends_a_head_that_reads_the_cue(fields: dict[str, Any]) -> None:
    train = biased(3000, cue=3, agree=0.97, size=6, noise=0.9, seed=0)
    val, test = (biased(600, cue=3, agree=0.5, size=6, noise=0.9, seed=seed) for seed in (1, 2))
    config = HsfmConfig(epochs=15, learning_rate=0.02, support_learning_rate=0.3, **fields)
    found = given(train, val, config)
    head, history = fit_head(config, found, seed=0)
    before, after = (
        score_of(h.predict(test.features_ND), test.label_N, test.group_N)[0]  # type: ignore[arg-type]
        for h in (found.first, head)
    )
    assert after > before + 0.05
    assert len(history) == 15
    assert history[-1]["loss"] < history[0]["loss"]
    if not fields:
        assert val.group_N is not None
        best = max((entry["val_worst_group"], entry["val_average"]) for entry in history)
        assert score_of(head.predict(val.features_ND), val.label_N, val.group_N) == best
    roles = set(found.val.roles()["role"].to_pylist())
    assert roles == ({"fit", "select"} if fields else {"fit and select"})
    again, _ = fit_head(config, given(train, val, config), seed=0)
    assert np.array_equal(again.weight_CD, head.weight_CD)


def test_each_epoch_goes_on_from_the_head_of_the_one_before() -> None:
    train = biased(400, cue=3, agree=0.9, size=4, noise=0.9, seed=0)
    config = HsfmConfig(epochs=4, learning_rate=0.05, support_learning_rate=1e-12, num_hard=1000)
    _, history = fit_head(config, given(train, train, config), seed=0)
    # The vectors stand still and the hard set is all of validation: only the head can change the loss.
    losses = [entry["loss"] for entry in history]
    assert all(abs(after - before) > 1e-4 for before, after in pairwise(losses))


def test_the_support_set_is_of_every_class_and_what_is_too_few_is_named() -> None:
    label_N = np.repeat([0, 1, 2], [50, 20, 16])
    chosen = HsfmConfig().training_rows(label_N, seed=0)
    assert chosen is not None
    assert np.bincount(label_N[chosen]).tolist() == [16, 16, 16]
    assert len(set(chosen)) == 48
    with pytest.raises(DataError, match="num_support is 17, and class 2 has 16 images"):
        HsfmConfig(num_support=17).training_rows(label_N, seed=0)
    with pytest.raises(DataError, match="num_support is 16, and class 1 has 3 training image"):
        HsfmConfig().check_counts(np.array([20, 3]), np.array([9, 9]))
    with pytest.raises(DataError, match="validation, which has no image of class 1"):
        HsfmConfig().check_counts(np.array([20, 30]), np.array([9, 0]))
