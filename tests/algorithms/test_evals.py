"""EVaLS' rows, its environments and EIIL in closed form, and on features with a cue."""

from typing import Any

import numpy as np
import pytest
import torch
from feature_toys import biased, inputs, rows

from raygen.algorithms.environments import eiil, risk_gradients
from raygen.algorithms.evals import EvalsConfig, distinct_extremes, extremes, fit_head, fitted_heads
from raygen.algorithms.selection import error_environments, score_of
from raygen.errors import DataError

SMALL: dict[str, Any] = {"num_extremes": (20, 50), "l1": (0.0, 0.01), "epochs": 40, "learning_rate": 5e-3}


def test_gradients_by_the_logits_scale() -> None:
    rng = np.random.default_rng(0)
    logits_NC, label_N = 3 * rng.normal(size=(50, 2)), rng.integers(2, size=50)
    found_N = risk_gradients(logits_NC, label_N)
    margin_N = logits_NC[np.arange(50), label_N] - logits_NC[np.arange(50), 1 - label_N]
    np.testing.assert_allclose(found_N, -margin_N / (1 + np.exp(margin_N)), atol=1e-14)
    assert np.array_equal(found_N > 0, logits_NC.argmax(1) != label_N)
    three_NC, label_N = rng.normal(size=(30, 3)), rng.integers(3, size=30)
    for row in range(30):  # by torch's own derivative
        scale = torch.ones((), dtype=torch.float64, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(scale * torch.from_numpy(three_NC[row]), torch.tensor(label_N[row]))
        assert risk_gradients(three_NC, label_N)[row] == pytest.approx(float(torch.autograd.grad(loss, scale)[0]))


def test_eiil_ends_at_the_error_set() -> None:
    rng = np.random.default_rng(0)
    logits_NC, label_N = 2 * rng.normal(size=(200, 2)), rng.integers(2, size=200)
    gradient_N, wrong_N = risk_gradients(logits_NC, label_N), logits_NC.argmax(1) != label_N

    def agreement(num_steps: int) -> float:
        found = eiil(gradient_N, num_steps=num_steps, learning_rate=0.01, rng=np.random.default_rng(1)) == wrong_N
        return max(float(found.mean()), 1 - float(found.mean()))

    assert agreement(1) < 0.65  # one step: a random split
    assert agreement(2000) == 1
    wrong = error_environments(logits_NC, label_N)
    assert np.array_equal(wrong // 2, label_N)
    assert np.array_equal(wrong % 2 == 1, wrong_N)


@pytest.mark.parametrize("num", [1, 3, 5, 50])
def test_rows_of_highest_and_lowest_loss_none_twice(num: int) -> None:
    label_N = np.repeat([0, 1, 2], [10, 11, 40])
    loss_N = np.random.default_rng(0).random(61)
    found = extremes(loss_N, label_N, num=num)
    assert len(set(found.tolist())) == len(found)
    for label, count in enumerate((10, 11, 40)):
        k, own = min(num, count // 2), np.flatnonzero(label_N == label)
        by_loss = sorted(own, key=lambda row: loss_N[row])
        assert set(found) & set(own) == {*by_loss[:k], *by_loss[-k:]}
    if num == 5:
        assert set(np.flatnonzero(label_N == 0)) <= set(found)  # k = n_c / 2: all rows


def test_numbers_that_choose_the_same_rows_are_tried_once() -> None:
    pool = rows(np.zeros((20, 1)), np.repeat([0, 1], 10))
    found = distinct_extremes((2, 5, 7, 300), np.arange(20.0), pool)
    assert {num: len(chosen) for num, chosen in found.items()} == {2: 8, 5: 20}
    with pytest.raises(DataError, match="one validation image of class 1"):
        extremes(np.zeros(3), np.array([0, 0, 1]), num=1)


def test_heads_side_by_side_are_those_that_are_fitted_alone() -> None:
    found = biased(60, cue=3, agree=0.7, size=4, noise=0.5, seed=0)
    config = EvalsConfig(**{**SMALL, "l1": (0.0, 0.3), "epochs": 3, "decay_epoch": 2})
    together = list(fitted_heads(config, found, seed=0))
    assert len(together) == 3
    for number, l1 in enumerate(config.l1):
        alone = list(fitted_heads(config.model_copy(update={"l1": (l1,)}), found, seed=0))
        for epoch in range(3):
            np.testing.assert_allclose(together[epoch][number].weight_CD, alone[epoch][0].weight_CD, atol=1e-12)
            np.testing.assert_allclose(together[epoch][number].bias_C, alone[epoch][0].bias_C, atol=1e-12)
    plain, penalised = together[-1]
    assert np.abs(penalised.weight_CD).sum() < np.abs(plain.weight_CD).sum()


@pytest.mark.parametrize(
    "fields", [{}, {"environments": "eiil", "eiil_steps": 1000}, {"select_by": "groups"}, {"select_by": "classes"}]
)
def test_it_mends_a_head_that_reads_the_cue_and_reads_no_group(fields: dict[str, Any]) -> None:
    train = biased(3000, cue=3, agree=0.97, size=6, noise=0.9, seed=0)
    val, test = (
        biased(1200, cue=3, agree=0.9, size=6, noise=0.9, seed=1),
        biased(800, cue=3, agree=0.5, size=6, noise=0.9, seed=2),
    )
    known = val if fields.get("select_by") == "groups" else rows(val.features_ND, val.label_N)
    given = inputs(train, known)
    head, entries = fit_head(EvalsConfig(**{**SMALL, **fields}), given, seed=0)
    before, after = (
        score_of(h.predict(test.features_ND), test.label_N, test.group_N)[0]  # type: ignore[arg-type]
        for h in (given.first, head)
    )
    if fields.get("select_by") != "classes":  # which do not tell a head that reads the cue from one that does not
        assert after > before + 0.1
    assert len(entries) == 4
    (chosen,) = [entry for entry in entries if entry["chosen"]]
    if not fields:  # selected by rows that it was not fitted on, told apart by the first head
        other = known.take(np.flatnonzero(np.array(given.val.roles()["role"].to_pylist()) == "select"))
        group_N = error_environments(given.first.logits(other.features_ND), other.label_N)
        assert score_of(head.predict(other.features_ND), other.label_N, group_N) == (
            chosen["val_worst_group"],
            chosen["val_average"],
        )
        assert chosen["val_worst_group"] == max(entry["val_worst_group"] for entry in entries)
    assert {role: given.val.roles()["role"].to_pylist().count(role) for role in ("fit", "select")} == {
        "fit": pytest.approx(600, abs=1), "select": pytest.approx(600, abs=1),
    }  # fmt: skip


def test_groups_that_are_not_known_and_too_few_images_are_named() -> None:
    val = rows(np.random.default_rng(0).normal(size=(16, 2)), np.repeat([0, 1], 8))
    with pytest.raises(DataError, match="select_by is groups, which needs the attribute"):
        fit_head(EvalsConfig(select_by="groups"), inputs(val, val), seed=0)
    with pytest.raises(DataError, match=r"evals splits validation .* class 1 has 3 validation image\(s\); it needs 4"):
        EvalsConfig().check_counts(np.array([9, 9]), np.array([4, 3]))
    few = val.take(np.arange(11))
    with pytest.raises(DataError, match="class 1 has 3 validation image"):
        fit_head(EvalsConfig(), inputs(val, few), seed=0)
