"""DaC: which images it composes, how much of them it keeps, and what the compositions are."""

import numpy as np
import pyarrow as pa
import pytest
import score_tables

from raygen.errors import DataError
from raygen.stages.compose import fused, partner_of
from raygen.synthesis.dac import TRIED, DacConfig, found_heat, knee_of, masker, select


def scores(margins: dict[int, list[float]]) -> pa.Table:
    """Images of each label whose logit leads the next by a margin; a larger one is a lower loss."""
    labels = [label for label, values in margins.items() for _ in values]
    num_classes = max(margins) + 1
    logits = np.zeros((len(labels), num_classes))
    logits[np.arange(len(labels)), labels] = [value for values in margins.values() for value in values]
    return score_tables.score_table(labels, logits)


def test_images_of_low_loss_stand_alone_and_over_ones_of_other_classes() -> None:
    table = scores({0: [5.0, 4.0, -1.0], 1: [3.0, -2.0], 2: [2.0, -3.0]})
    plan = select(DacConfig(quantile=0.5, fusions=3), table, dataset=score_tables.dataset(3), run_seed=0)
    label_of = dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))
    low = {"img00000", "img00001", "img00003", "img00005"}  # the 4 of 7 whose loss is at most the median
    assert {*plan["image_id"].to_pylist()} == low
    assert plan.num_rows == 4 * (1 + 3)
    for row in plan.to_pylist():
        partner = partner_of(row["prompt"])
        assert row["target_label"] == row["source_label"] == label_of[row["image_id"]]
        assert (partner is None) == (row["sample"] == 0) == (row["prompt"] == "alone")
        assert partner is None or (partner in low and label_of[partner] != row["source_label"])
    partners = {row["prompt"] for row in plan.to_pylist() if row["source_label"] == 0}
    assert partners == {"alone", "on img00003", "on img00005"}  # six draws of two


def test_more_fusions_only_add_and_the_order_of_the_scores_does_not_matter() -> None:
    table = scores({0: [5.0, 4.0, 3.0], 1: [3.0, 2.0, 1.0]})
    few, many = (
        select(DacConfig(quantile=1.0, fusions=num), rows, dataset=score_tables.dataset(), run_seed=7)
        for num, rows in ((1, table), (4, score_tables.shuffled(table, seed=1)))
    )
    rows = {row["key"]: row for row in many.to_pylist()}
    assert (few.num_rows, many.num_rows) == (12, 30)
    assert all(rows[row["key"]] == row for row in few.to_pylist())
    only_fusions = select(DacConfig(quantile=1.0, alone=False), table, dataset=score_tables.dataset(), run_seed=7)
    assert [row for row in few.to_pylist() if row["sample"]] == only_fusions.to_pylist()


def test_a_class_without_low_loss_is_refused_by_name() -> None:
    table = scores({0: [5.0, 4.0, 3.0], 1: [-2.0, -3.0]})
    with pytest.raises(DataError, match=r"the 3 training images of lowest loss .* 0.6\) is of class 'dog'"):
        select(DacConfig(), table, dataset=score_tables.dataset(), run_seed=0)
    with pytest.raises(DataError, match="class 'hen' has no training image"):
        DacConfig().check_classes({"cat": 3, "hen": 0})


@pytest.mark.parametrize(
    ("losses", "knee"),
    [
        ([0.0, 0.0, 0.0, 0.0, 0.5, 1.0], 0.6),  # below the straight line by 0, .2, .4, .6, .3, 0
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], None),  # straight
        ([0.3, 0.3, 0.3, 0.3, 0.3, 0.3], None),
        ([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], None),  # falls
        ([0.0, 0.9, 0.95, 0.97, 0.99, 1.0], None),  # bends down
        ([0.0, 0.1, 0.25, 0.45, 0.7, 1.0], None),  # below by at most .15, less than a step between points, .2
        ([0.0, 0.0, 0.1, 0.2, 0.6, 1.0], 0.6),  # by 0, .2, .3, .4, .2, 0
    ],
)
def test_the_knee_is_where_the_losses_bend_up(losses: list[float], knee: float | None) -> None:
    assert knee_of(TRIED, np.array(losses)) == (None if knee is None else pytest.approx(knee))
    kept = 0.8 if knee is None else knee
    found = found_heat(np.array([losses, losses]))
    assert found == {"quantile": pytest.approx(kept), "top_q": pytest.approx(1 - kept)}


def test_the_mask_keeps_what_the_prediction_rests_on_or_with_invert_the_rest() -> None:
    assert masker(DacConfig(), score_tables.dataset())["repaint"] == "unattended"
    assert masker(DacConfig(invert=True), score_tables.dataset())["repaint"] == "attended"
    assert masker(DacConfig(heat=0.5), score_tables.dataset())["quantile"] == 0.5
    assert DacConfig(heat=0.5).mask_search() is None


def test_a_fusion_takes_each_pixel_from_one_of_the_three() -> None:
    """Weights m0, (1 - m0) (1 - m1) and (1 - m0) m1 sum to 1; all of the front is the front."""
    rng = np.random.default_rng(0)
    front, behind, mean = (rng.integers(256, size=(6, 8, 3), dtype=np.uint8) for _ in range(3))
    m0, m1 = rng.random((6, 8)) < 0.5, rng.random((6, 8)) < 0.5
    weights = np.stack([m0, ~m0 & ~m1, ~m0 & m1])[..., None].astype(int)
    assert (weights.sum(axis=0) == 1).all()
    expected = weights[0] * front + weights[1] * behind + weights[2] * mean
    np.testing.assert_array_equal(fused(front, m0, behind, m1, mean_HWC=mean), expected)
    np.testing.assert_array_equal(fused(front, np.ones((6, 8), dtype=bool), behind, m1, mean_HWC=mean), front)
