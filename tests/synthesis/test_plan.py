import numpy as np
import pytest
from score_tables import score_table, with_failed_rows

from raygen.errors import DataError
from raygen.seeding import row_seed
from raygen.synthesis.plan import PlannedImage, loss_ranks, plan_table, read_scores


def test_loss_rank_counts_the_images_of_the_class_with_less_loss_or_equal_loss_and_an_earlier_place() -> None:
    rng = np.random.default_rng(0)
    loss_N, label_N = rng.integers(6, size=60) / 4, rng.integers(3, size=60)
    expected_N = [
        sum(
            label_N[m] == label_N[n] and (loss_N[m] < loss_N[n] or (loss_N[m] == loss_N[n] and m < n))
            for m in range(60)
        )
        for n in range(60)
    ]
    assert loss_ranks(loss_N, label_N).tolist() == expected_N


def test_failed_rows_are_left_out_and_the_rest_is_in_order_of_id() -> None:
    scores = score_table([0, 1, 0], np.eye(3), image_ids=["c", "a", "b"])
    train = read_scores(with_failed_rows(scores, ["aa"]))
    assert train.image_ids == ["a", "b", "c"]
    assert train.label_N.tolist() == [1, 0, 0]
    assert train.predicted_N.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(train.vectors("logits", np.array([2, 0])), np.eye(3)[[0, 1]])


def test_scores_without_a_usable_row_or_with_repeated_ids_are_refused() -> None:
    with pytest.raises(DataError, match=r"none of 2 training images could be scored(.|\n)*  2 x damaged"):
        read_scores(with_failed_rows(score_table([0], np.eye(1)).slice(0, 0), ["a", "b"]))
    with pytest.raises(DataError, match="occur twice"):
        read_scores(score_table([0, 0], np.zeros((2, 2)), image_ids=["a", "a"]))


def test_plan_is_sorted_by_key_and_seeded_by_it() -> None:
    train = read_scores(score_table([0, 1], [[2, 0], [3, 0]], image_ids=["b", "a"]))
    images = [PlannedImage(1, sample=1, target_label=1), PlannedImage(1, sample=0, target_label=1)]
    plan = plan_table([*images, PlannedImage(0, 0, 0, cluster=4)], train, prompts=["p0", "p1"], run_seed=7)
    assert plan["key"].to_pylist() == ["a/0/0000", "b/1/0000", "b/1/0001"]
    assert plan["seed"].to_pylist() == [row_seed(7, key) for key in plan["key"].to_pylist()]
    assert plan["prompt"].to_pylist() == ["p0", "p1", "p1"]
    assert plan["cluster"].to_pylist() == [4, None, None]
    assert plan["predicted_label"].to_pylist() == [0, 0, 0]
    assert plan["source_label"].to_pylist() == [1, 0, 0]
