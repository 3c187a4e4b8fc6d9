import itertools
from typing import Any

import numpy as np
import oracles
import pytest
import torch
import toy_classifiers

from raygen.classifier import Classifier, ClassifierConfig
from raygen.pruners.attribution import (
    integrated_gradients,
    integrated_gradients_to_tolerance,
    logit_difference,
    nested_rules,
)

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


class Powers(torch.nn.Module):
    """Each normalised pixel to a power: a logit's gradient along a path has one degree less."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree

    def forward(self, normal_NCHW: torch.Tensor) -> torch.Tensor:
        return (normal_NCHW / 2).flatten(1) ** self.degree


def power_classifier(degree: int) -> Classifier:
    torch.default_generator.manual_seed(0)
    num_features = 3 * SIZE * SIZE
    config = ClassifierConfig(image_size_px=SIZE)
    built = Classifier(config, Powers(degree), num_features=num_features, num_classes=2)
    return built.eval().requires_grad_(False)


def to_tolerance(
    classifier: Classifier, generated: Any, original: Any, *, tolerance: float, num_steps: int = 200
) -> tuple[Any, Any, list[int]]:
    """Rho, the error, and the points that gradients were taken at, image by image."""
    calls: list[int] = []

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].requires_grad:
            calls.append(len(inputs[0]))

    handle = classifier.register_forward_pre_hook(count)
    rho_N, delta_N = integrated_gradients_to_tolerance(
        classifier,
        generated,
        original,
        repaint_NHW=left_half(),
        target_N=TARGETS,
        num_steps=num_steps,
        tolerance=tolerance,
    )
    handle.remove()
    assert set(calls) == {8}  # one shape, whatever the images
    return rho_N, delta_N, calls


@pytest.mark.parametrize("num_steps", [1, 3, 7, 31, 200])
def test_nested_rules_are_exact_for_polynomials_and_keep_their_points(num_steps: int) -> None:
    rules = list(nested_rules(num_steps))
    assert len(rules[-1][0]) <= num_steps
    for points, weights in rules:
        assert min(weights) > 0
        for degree in range(len(points) + 1):
            found = np.dot(weights, np.array(points) ** degree)
            assert found == pytest.approx(1 / (degree + 1), abs=1e-14)
    for (fewer, _), (more, _) in itertools.pairwise(rules):
        assert set(fewer) < set(more)


@pytest.mark.parametrize(
    ("degree", "num_steps", "num_calls"),
    [
        (1, 1, 1),  # linear: one point is exact
        (1, 200, 1),
        (8, 200, 1),  # a gradient of degree 7: seven points are exact, a call of eight slots
        (16, 200, 2),  # of degree 15: fifteen points, seven of which are there
    ],
)
def test_polynomials_take_as_many_points_as_they_need(degree: int, num_steps: int, num_calls: int) -> None:
    """Each pixel counts for itself, so its attribution is what its own term changed by."""
    classifier = power_classifier(degree)
    generated, original = pictures(0), pictures(1)
    rho_N, delta_N, calls = to_tolerance(classifier, generated, original, tolerance=1e-5, num_steps=num_steps)
    terms_NCHW = [((image - classifier.mean_C11) / classifier.std_C11 / 2) ** degree for image in (generated, original)]
    weight_NCHW = classifier.head.weight[TARGETS].view(2, 3, SIZE, SIZE)
    inside_NCHW = weight_NCHW * (terms_NCHW[0] - terms_NCHW[1]) * left_half()[:, None]
    np.testing.assert_allclose(rho_N, inside_NCHW.sum(dim=(1, 2, 3)), rtol=1e-4, atol=1e-4)
    assert len(calls) == 2 * num_calls
    assert (delta_N <= 1e-4).all()


def test_few_points_do_where_the_error_is_tolerated_and_all_are_taken_where_it_is_not(classifier: Classifier) -> None:
    generated, original = pictures(0), pictures(1)
    difference_N = np.abs(logit_difference(classifier, generated, original, target_N=TARGETS))
    exact_N, _ = rho_by_gradients(classifier, generated, original, left_half(), num_steps=400)
    for tolerance in (0.5, 0.01):
        rho_N, delta_N, calls = to_tolerance(classifier, generated, original, tolerance=tolerance)
        assert (delta_N <= tolerance * np.maximum(difference_N, 1)).all()
        assert len(calls) <= 2 * 4  # 31 points of 200
        np.testing.assert_allclose(rho_N, exact_N, atol=2 * tolerance)
    # 31 points in four calls an image: the largest rule below 40; never within a tolerance that floats cannot meet.
    rho_N, delta_N, calls = to_tolerance(classifier, generated, original, tolerance=1e-12, num_steps=40)
    assert len(calls) == 2 * 4
    assert (delta_N > 0).all()
    np.testing.assert_allclose(rho_N, exact_N, atol=2e-2)


def test_an_image_has_the_same_bits_beside_any_other(classifier: Classifier) -> None:
    """Others that need fewer points, and more."""
    generated, original = pictures(0), pictures(1)
    together_N = to_tolerance(classifier, generated, original, tolerance=1e-3)[0]
    for other in (original[1], 5 * generated[1]):
        beside = torch.stack([generated[0], other])
        assert to_tolerance(classifier, beside, original, tolerance=1e-3)[0][0] == together_N[0]
