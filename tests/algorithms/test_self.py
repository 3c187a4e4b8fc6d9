"""SELF's score and choice in closed form, and on features with a cue."""

import logging

import numpy as np
import pytest
from feature_toys import biased, inputs, regression, rows

from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.heads import Linear, cross_entropies
from raygen.algorithms.selection import score_of
from raygen.algorithms.self_ import SelfConfig, disagreement, fit_head, order, scores, tuned
from raygen.errors import ConfigError, DataError

EARLY = np.log([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
FINAL = np.log([[0.99, 0.01], [0.95, 0.05], [0.9, 0.1]])


def test_disagreement() -> None:
    found_N = disagreement(EARLY, FINAL)
    assert found_N == pytest.approx([0.807232, 0.010327, 0.681369], abs=1e-6)
    assert order(found_N).tolist() == [0, 2, 1]
    assert disagreement(FINAL + 3, FINAL) == pytest.approx(0, abs=1e-12)
    extreme = disagreement(np.array([[1000.0, -1000.0]]), np.array([[-1000.0, 1000.0]]))
    assert np.isfinite(extreme).all()  # a probability of 0 is no NaN


def test_scores_that_are_all_alike_are_taken_as_they_stand(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="raygen"):
        assert order(np.zeros(4)).tolist() == [0, 1, 2, 3]
    assert "same score" in caplog.text


def test_every_score() -> None:
    pool = rows(np.eye(3), [0, 1, 1])
    final = Linear(FINAL.T, np.zeros(2))  # its logits of the three rows are FINAL

    def of(name: str, **fields: float) -> np.ndarray:
        return scores(SelfConfig(score=name, **fields), pool, final, EARLY, seed=0)

    assert of("early_disagreement") == pytest.approx([0.807232, 0.010327, 0.681369], abs=1e-6)
    assert of("misclassification") == pytest.approx(-np.log([0.99, 0.05, 0.1]))
    assert of("early_misclassification") == pytest.approx(-np.log([0.5, 0.1, 0.8]))
    assert len(set(of("random"))) == 3
    dropped = of("dropout_disagreement", dropout=0.5)
    # Each row has one feature: it is gone, and the probabilities even, or counts twice.
    either = [disagreement(np.zeros((3, 2)), FINAL), disagreement(2 * FINAL, FINAL)]
    assert all(min(abs(value - part[i]) for part in either) < 1e-12 for i, value in enumerate(dropped))
    with pytest.raises(ConfigError, match="needs logits of an earlier state"):
        scores(SelfConfig(), pool, final, None, seed=0)


def test_it_mends_a_head_that_reads_the_cue() -> None:
    train = biased(3000, cue=3, agree=0.97, size=6, noise=0.9, seed=0)
    val, test = (biased(800, cue=3, agree=0.5, size=6, noise=0.9, seed=seed) for seed in (1, 2))
    given = inputs(
        train, val, early_NC=Linear(np.array([[-1.0], [1.0]]) * np.eye(6)[0], np.zeros(2)).logits(val.features_ND)
    )
    head, entries = fit_head(SelfConfig(num_rows=(20, 100), learning_rates=(1e-3, 1e-2)), given, seed=0)
    before, after = (
        score_of(h.predict(test.features_ND), test.label_N, test.group_N)[0]  # type: ignore[arg-type]
        for h in (given.first, head)
    )
    assert after > before + 0.05
    assert [(entry["num_rows"], entry["learning_rate"]) for entry in entries] == [
        (20, 1e-3), (20, 1e-2), (100, 1e-3), (100, 1e-2),
    ]  # fmt: skip
    chosen = [entry for entry in entries if entry["chosen"]]
    assert len(chosen) == 1
    assert chosen[0]["val_worst_group"] == max(entry["val_worst_group"] for entry in entries)
    other = val.take(np.flatnonzero(np.array(given.val.roles()["role"].to_pylist()) == "select"))
    assert other.group_N is not None
    assert score_of(head.predict(other.features_ND), other.label_N, other.group_N)[0] == chosen[0]["val_worst_group"]
    roles = given.val.roles()["role"].to_pylist()
    assert roles.count("fit") == pytest.approx(400, abs=1)
    assert roles.count("select") == pytest.approx(400, abs=1)


def test_more_rows_than_half_of_the_pool_are_half_of_it() -> None:
    val = biased(40, cue=3, agree=0.9, size=3, noise=0.5, seed=0)
    config = SelfConfig(score="misclassification", num_rows=(4, 500, 600), learning_rates=(0.01,))
    _, entries = fit_head(config, inputs(val, val), seed=0)
    assert [entry["num_rows"] for entry in entries] == [4, 10]


def test_each_class_is_drawn_equally_often_and_absent_ones_never() -> None:
    first, config = Linear(np.zeros((3, 2)), np.zeros(3)), SelfConfig(momentum=0, num_steps=400, weight_decay=0)
    few = rows([[0.0, 0.0]] * 10, [0] * 9 + [2], num_classes=3)
    head = tuned(few, first, rate=0.05, config=config, seed=0)
    # Features without any say: the bias alone learns, and it finds the classes' shares of the draws.
    probability_C = np.exp(head.bias_C) / np.exp(head.bias_C).sum()
    assert probability_C[0] == pytest.approx(probability_C[2], abs=0.1)
    assert probability_C[1] < 0.1


def test_the_early_classifier_has_a_share_of_the_epochs() -> None:
    erm = ErmConfig(epochs=9, select="best")
    (early,) = SelfConfig(early_fraction=0.25).first_fits(erm, has_extra=False)
    assert (early.config.epochs, early.config.select, early.beside) == (2, "last", True)  # type: ignore[attr-defined]
    assert [first.folder for first in SelfConfig().first_fits(erm, has_extra=True)] == ["self_features", "self_early"]
    assert SelfConfig(score="random").first_fits(erm, has_extra=False) == []
    (early,) = SelfConfig(early_fraction=0.01).first_fits(erm, has_extra=False)
    assert early.config.epochs == 1  # type: ignore[attr-defined]


def test_a_class_of_one_validation_image_is_named() -> None:
    with pytest.raises(DataError, match="class 1 has 1 validation image"):
        SelfConfig().check_counts(np.array([9, 9]), np.array([2, 1]))
    val = rows(np.eye(3), [0, 0, 1])
    with pytest.raises(DataError, match="class 1 has 1 validation image"):
        fit_head(SelfConfig(score="random"), inputs(val, val), seed=0)


def test_rows_of_high_loss_come_first() -> None:
    pool = biased(60, cue=3, agree=0.8, size=3, noise=0.5, seed=0)
    head = regression(pool)
    found = scores(SelfConfig(score="misclassification"), pool, head, None, seed=0)
    assert order(found)[0] == cross_entropies(head.logits(pool.features_ND), pool.label_N).argmax()
