import numpy as np
import pytest
import torch

from raygen.errors import DataError
from raygen.pruners.confidence import cross_entropy, label_probability, mean_confidence


def test_loss_and_probability_agree_with_torch() -> None:
    rng = np.random.default_rng(0)
    logits_NC, label_N = rng.normal(size=(20, 3)) * 5, rng.integers(3, size=20)
    logits, labels = torch.from_numpy(logits_NC), torch.from_numpy(label_N)
    expected_N = torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    np.testing.assert_allclose(cross_entropy(logits_NC, label_N), expected_N, rtol=1e-12)
    probability_N = torch.softmax(logits, dim=1)[torch.arange(20), labels].numpy()
    np.testing.assert_allclose(label_probability(logits_NC, label_N), probability_N, rtol=1e-12)


def test_losses_too_small_for_float32_arithmetic_keep_their_order() -> None:
    """log(1 + exp(-x)) is exp(-x) to within its square; in float32 both would be 0."""
    loss_N = cross_entropy(np.array([[20, 0], [25, 0]], dtype=np.float32), np.array([0, 0]))
    np.testing.assert_allclose(loss_N, np.exp([-20.0, -25.0]), rtol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 3, 7])
def test_constant_logits_give_a_threshold_of_one_over_the_number_of_classes(num_classes: int) -> None:
    label_N = np.arange(4 * num_classes) % num_classes
    confidence_N = label_probability(np.zeros((len(label_N), num_classes)), label_N)
    psi = mean_confidence(confidence_N, label_N, labels=range(num_classes))
    assert psi == pytest.approx(dict.fromkeys(range(num_classes), 1 / num_classes), rel=1e-15)


def test_threshold_is_the_mean_over_the_images_of_the_class_only() -> None:
    psi = mean_confidence(np.array([0.2, 0.9, 0.4]), np.array([0, 1, 0]), labels=[0, 1])
    assert psi == pytest.approx({0: 0.3, 1: 0.9})


def test_class_without_images_is_named() -> None:
    with pytest.raises(DataError, match="class 1"):
        mean_confidence(np.array([0.2]), np.array([0]), labels=[0, 1])
