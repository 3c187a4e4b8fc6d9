from typing import Any

import numpy as np
import oracles
import pytest
import torch
import toy_classifiers

from raygen.classifier import Classifier
from raygen.pruners.attribution import integrated_gradients, logit_difference

SIZE = toy_classifiers.SIZE_PX
EVERYWHERE = torch.ones((2, SIZE, SIZE), dtype=torch.bool)
TARGETS = torch.tensor([1, 0])


def pictures(seed: int) -> torch.Tensor:
    return torch.rand((2, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(seed))


def left_half() -> torch.Tensor:
    repaint_NHW = torch.zeros((2, SIZE, SIZE), dtype=torch.bool)
    repaint_NHW[:, :, : SIZE // 2] = True
    return repaint_NHW


def rho_by_gradients(
    classifier: Classifier, generated: Any, original: Any, repaint: Any = EVERYWHERE, *, num_steps: int = 200
) -> Any:
    return integrated_gradients(
        classifier, generated, original, repaint_NHW=repaint, target_N=TARGETS, num_steps=num_steps
    )


@pytest.fixture(params=["small_resnet", "convolutional"])
def classifier(request: pytest.FixtureRequest) -> Any:
    if request.param == "small_resnet":
        return toy_classifiers.small_resnet(seed=1).requires_grad_(False)
    return toy_classifiers.convolutional([[0.5, -1.0, 2.0], [-0.3, 1.5, 0.1]]).requires_grad_(False)


def test_attributions_sum_to_the_logit_difference(classifier: Classifier) -> None:
    """Completeness; a ReLU network is not smooth, so 200 points leave about a thousandth of a logit."""
    rho_N, delta_N = rho_by_gradients(classifier, pictures(0), pictures(1))
    difference_N = logit_difference(classifier, pictures(0), pictures(1), target_N=TARGETS)
    np.testing.assert_allclose(rho_N, difference_N, atol=5e-3)
    np.testing.assert_allclose(delta_N, np.abs(rho_N - difference_N), atol=1e-5)


def test_attribution_inside_agrees_with_a_riemann_sum(classifier: Classifier) -> None:
    """Two rules over a gradient that jumps where a ReLU switches: they differ by a few jumps over 200."""
    generated_NCHW, original_NCHW, repaint_NHW = pictures(0), pictures(1), left_half()
    rho_N, _ = rho_by_gradients(classifier, generated_NCHW, original_NCHW, repaint_NHW)
    for n in range(2):
        slow_CHW = oracles.integrated_gradients(
            classifier, generated_NCHW[n], original_NCHW[n], int(TARGETS[n]), steps=200
        )
        assert rho_N[n] == pytest.approx(float(slow_CHW[:, repaint_NHW[n]].sum()), abs=1e-2)


@pytest.mark.parametrize("num_steps", [1, 2, 50])
def test_linear_model_needs_one_point_of_the_path(num_steps: int) -> None:
    classifier = toy_classifiers.linear().requires_grad_(False)
    generated_NCHW, original_NCHW, repaint_NHW = pictures(0), pictures(1), left_half()
    rho_N, delta_N = rho_by_gradients(classifier, generated_NCHW, original_NCHW, repaint_NHW, num_steps=num_steps)
    weight_NCHW = classifier.head.weight[TARGETS].view(2, 3, SIZE, SIZE) / classifier.std_C11
    inside_NCHW = weight_NCHW * (generated_NCHW - original_NCHW) * repaint_NHW[:, None]
    np.testing.assert_allclose(rho_N, inside_NCHW.sum(dim=(1, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(delta_N, 0, atol=1e-4)


def test_swapping_picture_and_baseline_changes_the_sign(classifier: Classifier) -> None:
    forth_N, _ = rho_by_gradients(classifier, pictures(0), pictures(1), left_half(), num_steps=50)
    back_N, _ = rho_by_gradients(classifier, pictures(1), pictures(0), left_half(), num_steps=50)
    np.testing.assert_allclose(forth_N, -back_N, atol=1e-4)


def test_unchanged_picture_has_no_attribution(classifier: Classifier) -> None:
    rho_N, delta_N = rho_by_gradients(classifier, pictures(0), pictures(0), num_steps=5)
    assert not rho_N.any()
    assert not delta_N.any()
    assert not logit_difference(classifier, pictures(0), pictures(0), target_N=TARGETS).any()


def test_composited_picture_has_the_logit_difference_as_its_attribution(classifier: Classifier) -> None:
    """What `attribution: exact` rests on: outside the mask nothing changed, so nothing is attributed there."""
    original_NCHW, repaint_NHW = pictures(1), left_half()
    composite_NCHW = torch.where(repaint_NHW[:, None], pictures(0), original_NCHW)
    inside_N, _ = rho_by_gradients(classifier, composite_NCHW, original_NCHW, repaint_NHW)
    outside_N, _ = rho_by_gradients(classifier, composite_NCHW, original_NCHW, ~repaint_NHW)
    assert not outside_N.any()
    difference_N = logit_difference(classifier, composite_NCHW, original_NCHW, target_N=TARGETS)
    np.testing.assert_allclose(inside_N, difference_N, atol=5e-3)
