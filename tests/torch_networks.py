"""A network of a user's own; needs torch alone."""

from torch import nn


def without_a_bias() -> nn.Module:
    """Two classes; its last layer has no bias."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2, bias=False),
    )
