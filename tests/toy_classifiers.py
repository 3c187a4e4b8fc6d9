"""Real `Classifier`s that are small enough to be worked out by hand."""

from collections.abc import Sequence

import torch
from torch import nn

from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.classifier.framing import Frame

SIZE_PX = 16
FRAME = Frame(SIZE_PX)


class ConvolutionThenMean(nn.Module):
    """One convolution with ReLU that keeps the size, then the mean over the picture."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Sequential(nn.Conv2d(3, num_channels, 3, padding=1), nn.ReLU()))

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.features(images_NCHW).mean(dim=(2, 3))


def convolutional(head_weight: Sequence[Sequence[float]], *, seed: int = 0) -> Classifier:
    """Convolution, global average, linear head with these weights, (C, K)."""
    torch.default_generator.manual_seed(seed)
    weight_CK = torch.tensor(head_weight)
    num_classes, num_features = weight_CK.shape
    config = ClassifierConfig(image_size_px=SIZE_PX)
    backbone = ConvolutionThenMean(num_features)
    classifier = Classifier(config, backbone, num_features=num_features, num_classes=num_classes)
    classifier.head.weight.data = weight_CK
    return classifier.eval()


def linear(*, num_classes: int = 2, seed: int = 0) -> Classifier:
    """Logits that are linear in the pixels."""
    torch.default_generator.manual_seed(seed)
    config = ClassifierConfig(image_size_px=SIZE_PX)
    features = 3 * SIZE_PX * SIZE_PX
    return Classifier(config, nn.Flatten(), num_features=features, num_classes=num_classes).eval()


def small_resnet(*, num_classes: int = 2, seed: int = 0) -> Classifier:
    """The embedded architecture, eight channels wide, with random weights."""
    config = ClassifierConfig(image_size_px=SIZE_PX, width=8)
    return build_classifier(config, num_classes, seed=seed).eval()
