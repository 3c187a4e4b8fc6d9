"""DeepLIFT on copies with distinct ReLUs: the same function to the bit, and complete attributions."""

# N images, B baselines, C classes or colour channels, H height, W width

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import toy_classifiers
from captum.attr import DeepLiftShap
from torch import nn

from raygen.attention import DeepLift, SpreadPool, check_deep_lift, with_distinct_relus
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.errors import ConfigError

SIZE = 32
LABELS = torch.tensor([2, 0])


def pictures(num: int, *, seed: int, size: int = SIZE) -> torch.Tensor:
    return torch.rand((num, 3, size, size), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["small_resnet", "resnet18", "densenet121"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    """Of three classes, with statistics of some pictures in its norms: with none, activations die out or explode."""
    config = ClassifierConfig(architecture=request.param, image_size_px=SIZE)
    built = build_classifier(config, 3, seed=0).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for seed in range(3):
            built(pictures(8, seed=seed))
    return built.eval()


def test_the_copy_gives_the_same_logits_to_the_bit(classifier: Classifier) -> None:
    images_NCHW = pictures(2, seed=5)
    twin = with_distinct_relus(classifier)
    assert torch.equal(twin(images_NCHW), classifier(images_NCHW))
    assert twin.state_dict().keys() == classifier.state_dict().keys()


def test_in_the_copy_every_relu_is_called_once_and_not_in_place(classifier: Classifier) -> None:
    twin, calls = with_distinct_relus(classifier), Counter[nn.Module]()
    relus = [part for part in twin.modules() if isinstance(part, nn.ReLU)]
    for part in relus:
        part.register_forward_hook(lambda module, inputs, output: calls.update([module]))
    twin(pictures(1, seed=5))
    assert set(calls.values()) == {1}
    assert len(calls) == len(relus) > 0
    assert not any(part.inplace for part in relus)


def test_attributions_sum_to_the_difference_of_logits(classifier: Classifier) -> None:
    """Completeness, against the classifier itself in single precision: its logits are known to some 1e-5."""
    images_NCHW, baselines_BCHW = pictures(2, seed=5), 0.5 * pictures(4, seed=6)
    attribution_NCHW, gap_N = DeepLift(classifier)(images_NCHW, baselines_BCHW, LABELS)
    with torch.inference_mode():
        expected_N = classifier(images_NCHW)[[0, 1], LABELS] - classifier(baselines_BCHW).mean(dim=0)[LABELS]
    np.testing.assert_allclose(attribution_NCHW.sum(axis=(1, 2, 3)), expected_N.numpy(), atol=2e-4)
    assert gap_N.max() < 1e-9  # in double precision


def test_of_a_linear_network_it_is_weight_times_difference() -> None:
    classifier = toy_classifiers.linear(num_classes=3).requires_grad_(False)
    size = toy_classifiers.SIZE_PX
    images_NCHW, baselines_BCHW = pictures(2, seed=0, size=size), pictures(3, seed=1, size=size)
    found_NCHW, _ = DeepLift(classifier)(images_NCHW, baselines_BCHW, LABELS)
    weight_NCHW = classifier.head.weight[LABELS].view(2, 3, size, size) / classifier.std_C11
    expected_NCHW = weight_NCHW * (images_NCHW - baselines_BCHW.mean(dim=0))
    np.testing.assert_allclose(found_NCHW, expected_NCHW, atol=1e-6)


def test_captum_alone_refuses_torchvisions_resnet_and_is_not_complete_on_overlapping_windows() -> None:
    """Why there is a copy at all: if these pass one day, it can go."""
    resnet = build_classifier(ClassifierConfig(architecture="resnet18", image_size_px=SIZE), 3, seed=0).eval()
    warnings.simplefilter("ignore")  # pytest sets them as they were
    with pytest.raises(RuntimeError, match="more than once"):
        DeepLiftShap(resnet).attribute(pictures(1, seed=5), pictures(2, seed=6), target=0)
    plain: Any = nn.Sequential(nn.MaxPool2d(3, stride=2), nn.Flatten(), nn.Linear(75, 1)).double().requires_grad_(False)
    spread = nn.Sequential(SpreadPool(plain[0]), *plain[1:])
    images_NCHW, baselines_BCHW = pictures(1, seed=5, size=11).double(), pictures(2, seed=6, size=11).double()
    deltas = []
    for model in (plain, spread):
        found, delta = DeepLiftShap(model).attribute(
            images_NCHW, baselines_BCHW, target=0, return_convergence_delta=True
        )
        assert found.shape == images_NCHW.shape
        deltas.append(float(delta.mean().abs()))
    assert deltas[0] > 1e-3
    assert deltas[1] < 1e-9


@pytest.mark.parametrize(
    "pool",
    [nn.MaxPool2d(3, stride=2, padding=1), nn.MaxPool2d(2), nn.MaxPool2d((3, 2), stride=(1, 2), dilation=(2, 1))],
)
def test_a_maximum_of_spread_windows_is_the_maximum_to_the_bit(pool: nn.MaxPool2d) -> None:
    images_NCHW = pictures(2, seed=0, size=13) - 0.8  # mostly below the padding's 0 of other ways to do it
    assert torch.equal(SpreadPool(pool)(images_NCHW), pool(images_NCHW))


@pytest.mark.parametrize(
    ("architecture", "size_px", "parts"),
    [("mobilenet_v3_small", 64, "Hardsigmoid, Hardswish, mul"), ("vit_b_16", 224, "GELU, LayerNorm")],
)
def test_networks_that_deep_lift_has_no_rule_for_are_refused_by_their_parts(
    architecture: str, size_px: int, parts: str
) -> None:
    with pytest.raises(ConfigError, match=rf"measures\.deep_lift: .*{architecture} has parts .*\({parts}"):
        check_deep_lift(ClassifierConfig(architecture=architecture, image_size_px=size_px), 2)


class ChangesInPlace(nn.Module):
    """Reads what a ReLU in place has changed: 2 relu(x), summed over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        map_NCHW = self.conv(x_NCHW)
        return torch.flatten((self.relu(map_NCHW) + map_NCHW).mean((2, 3)), 1)


def test_what_reads_a_tensor_that_was_changed_in_place_reads_the_new_one() -> None:
    torch.default_generator.manual_seed(0)
    built = Classifier(ClassifierConfig(image_size_px=SIZE), ChangesInPlace(), num_features=4, num_classes=2).eval()
    twin = with_distinct_relus(built.requires_grad_(False))
    assert torch.equal(twin(pictures(2, seed=0)), built(pictures(2, seed=0)))
