"""The mathematics of measures beside accuracy: cases by hand, and slow loops."""

# N images, C classes, H height, W width

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from raygen.intervals import wilson_interval
from raygen.metrics import (
    average_precision,
    flip_rate,
    macro_auc,
    mean_measure,
    next_class_shift,
    pointing_hit,
    share_measure,
)

# Three of sixteen pixels.
OBJECT = np.zeros((4, 4), dtype=bool)
OBJECT[1, 1:4] = True


def test_average_precision_of_one_score_for_all_pixels_is_the_objects_share() -> None:
    assert average_precision(np.full((3, 4, 4), 0.7), OBJECT) == pytest.approx(3 / 16)
    assert average_precision(np.zeros((3, 4, 4)), OBJECT) == pytest.approx(3 / 16)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_average_precision_of_an_attribution_on_the_object_only_is_one_whatever_its_sign(sign: float) -> None:
    attribution_CHW = np.zeros((3, 4, 4))
    attribution_CHW[1] = sign * OBJECT
    assert average_precision(attribution_CHW, OBJECT) == 1.0
    assert average_precision(attribution_CHW, ~OBJECT) == pytest.approx(13 / 16)  # none found before all are


def test_average_precision_by_hand() -> None:
    """Four pixels, scores 9, 4, 1, 0; the object is the first and the third: (1/1 + 2/3) / 2."""
    attribution_CHW = np.array([[[-3.0, 0.0, 1.0, 0.0]], [[0.0, 2.0, 0.0, 0.0]]])
    found = average_precision(attribution_CHW, np.array([[True, False, True, False]]))
    assert found == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("num_scores", [3, 1000])
def test_average_precision_agrees_with_scikit_learn(num_scores: int) -> None:
    """With many equal scores, and with few."""
    rng = np.random.default_rng(0)
    score_HW, object_HW = rng.integers(0, num_scores, (20, 20)), rng.random((20, 20)) < 0.3
    found = average_precision(np.sqrt(score_HW)[None], object_HW)
    assert found == pytest.approx(average_precision_score(object_HW.ravel(), score_HW.ravel()), abs=1e-12)


def test_average_precision_sums_squares_over_colours() -> None:
    """Sums that are not squared would cancel: (1, -1) against (1, 0)."""
    attribution_CHW = np.array([[[1.0, 1.0]], [[-1.0, 0.0]]])
    assert average_precision(attribution_CHW, np.array([[True, False]])) == 1.0


def test_average_precision_tells_small_gradients_apart() -> None:
    """Their squares are 0 in single precision."""
    attribution_CHW = np.array([[[2e-25, 1e-25]]], dtype=np.float32)
    assert average_precision(attribution_CHW, np.array([[True, False]])) == 1.0


@pytest.mark.parametrize("object_HW", [np.ones((4, 4), bool), np.zeros((4, 4), bool)])
def test_a_mask_of_one_value_has_no_measure(object_HW: np.ndarray) -> None:
    assert average_precision(np.ones((3, 4, 4)), object_HW) is None
    assert pointing_hit(np.ones((4, 4)), object_HW) is None


def test_what_is_not_finite_has_no_measure() -> None:
    assert average_precision(np.full((3, 4, 4), np.nan), OBJECT) is None
    assert pointing_hit(np.full((4, 4), np.inf), OBJECT) is None


def test_pointing_is_a_hit_where_the_hottest_pixel_is_on_the_object() -> None:
    heat_HW = np.full((4, 4), 0.2)
    heat_HW[1, 2] = 0.9
    assert pointing_hit(heat_HW, OBJECT) == 1.0
    heat_HW[0, 0] = 1.0
    assert pointing_hit(heat_HW, OBJECT) == 0.0
    assert pointing_hit(-heat_HW, OBJECT) == pytest.approx(2 / 14)  # of 14 pixels that are hottest now, two are on it
    assert pointing_hit(np.zeros((4, 4)), OBJECT) == pytest.approx(3 / 16)  # a dead map points by chance


def logits() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label_N = rng.integers(0, 4, 60)
    label_N[label_N == 2] = 3  # class 2 has no image
    return rng.normal(size=(60, 4)) + 1.2 * np.eye(4)[label_N], label_N


def test_macro_auc_is_the_share_of_pairs_in_order_averaged_over_the_classes_that_occur() -> None:
    logits_NC, label_N = logits()
    areas = []
    for of_class in (0, 1, 3):
        inside, outside = (logits_NC[mask, of_class] for mask in (label_N == of_class, label_N != of_class))
        areas.append(np.mean([float(a > b) + 0.5 * float(a == b) for a, b in itertools.product(inside, outside)]))
    found = macro_auc(logits_NC, label_N)
    assert found.value == pytest.approx(np.mean(areas))
    by_library = [roc_auc_score(label_N == c, logits_NC[:, c]) for c in (0, 1, 3)]
    assert found.value == pytest.approx(np.mean(by_library))
    assert (found.num, found.constant) == (60, 0.5)


def test_macro_auc_is_of_logits_which_a_softmax_would_change() -> None:
    """By hand: the class's own logit orders the images right; what the rival has to say turns the order."""
    logits_NC = np.array([[2.0, 2.0], [1.0, -3.0], [0.0, 0.0], [-1.0, 5.0]])
    label_N = np.array([0, 1, 0, 1])
    # Class 0: 2, 0 against 1, -1: three pairs of four. Class 1: -3, 5 against 2, 0: two of four.
    assert macro_auc(logits_NC, label_N).value == pytest.approx((3 / 4 + 2 / 4) / 2)
    softmax_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    # Of two classes it leaves the difference: 0, 0 against 4, -6: two of four, for either class.
    assert np.mean([roc_auc_score(label_N == c, softmax_NC[:, c]) for c in (0, 1)]) == pytest.approx(2 / 4)


def test_macro_aucs_interval_is_delongs() -> None:
    rng = np.random.default_rng(1)
    label_N = np.array([0] * 20 + [1] * 15)
    score_N = rng.normal(size=35) + label_N
    found = macro_auc(np.stack([-score_N, score_N], axis=1), label_N)  # either class has the same area and components
    inside, outside = score_N[label_N == 1], score_N[label_N == 0]
    # DeLong et al. 1988, equations 2 to 5, of one curve.
    order = np.array([[float(a > b) for b in outside] for a in inside])
    error = math.sqrt(order.mean(axis=1).var() / 15 + order.mean(axis=0).var() / 20)
    assert found.interval == pytest.approx((order.mean() - 1.959964 * error, order.mean() + 1.959964 * error))


def test_macro_auc_without_two_classes_says_why() -> None:
    found = macro_auc(np.zeros((3, 2)), np.array([1, 1, 1]))
    assert (found.value, found.reason) == (None, "it needs images of two classes, and there are images of class 1 only")
    assert macro_auc(np.zeros((0, 1)), np.array([], dtype=int)).value is None


def test_perfect_order_has_no_interval() -> None:
    found = macro_auc(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), np.array([0, 0, 1, 1]))
    assert (found.value, found.interval) == (1.0, None)


def test_next_class_shift_by_hand() -> None:
    """Labels 0 and 2 of three: the next classes are 1 and, around the end, 0."""
    before = np.log([[0.7, 0.2, 0.1], [0.3, 0.1, 0.6]])
    after = np.log([[0.3, 0.6, 0.1], [0.5, 0.3, 0.2]])
    found = next_class_shift(before + 5.0, after - 2.0, np.array([0, 2]))  # softmax does not see the shifts
    assert found.value == pytest.approx(((0.6 - 0.2) + (0.5 - 0.3)) / 2)
    assert (found.num, found.constant) == (2, 0.0)
    assert next_class_shift(before, before, np.array([0, 2])).value == 0.0
    assert next_class_shift(np.zeros((0, 1)), np.zeros((0, 1)), np.zeros(0, int)).value is None


def test_flip_rate_is_the_share_of_pairs_with_two_answers() -> None:
    found = flip_rate(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 2]))
    assert (found.value, found.num) == (0.25, 4)
    assert found.interval == wilson_interval(1, 4)
    assert flip_rate(np.array([]), np.array([])).reason == "the dataset has no pictures with the background exchanged"


def test_means_have_the_interval_of_a_mean() -> None:
    found = mean_measure(np.array([0.2, 0.4, 0.9]), constant_N=np.array([0.1, 0.1, 0.4]), reason="none")
    half = 1.959964 * math.sqrt((0.3**2 + 0.1**2 + 0.4**2) / 2) / math.sqrt(3)
    assert found.value == pytest.approx(0.5)
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half))
    assert found.constant == pytest.approx(0.2)
    assert mean_measure(np.array([0.3]), reason="none").interval is None
    assert mean_measure(np.array([]), reason="none").plain() == {
        "value": None,
        "n": 0,
        "interval": None,
        "constant": None,
        "reason": "none",
    }


def test_shares_have_wilsons_interval() -> None:
    found = share_measure(np.array([1.0, 0.0, 1.0, 1.0]), reason="none")
    assert (found.value, found.interval) == (0.75, wilson_interval(3, 4))
