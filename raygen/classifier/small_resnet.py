"""The small residual network for 64 px scenes; a backbone of `raygen.classifier`, without a head.

Needs nothing but torch: an exported classifier takes this file along.
"""

# N images, H height, W width, C channels

from collections import OrderedDict

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm around a shortcut.

    He et al. 2016 (arXiv 1512.03385), figure 2. Each ReLU is its own module and not in place, so that hooks
    of attribution libraries see every one.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Block output, half the size when the stride is 2."""
        out_NCHW = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x_NCHW)))))
        result_NCHW: torch.Tensor = self.relu2(out_NCHW + self.shortcut(x_NCHW))
        return result_NCHW


class SmallResNet(nn.Module):
    """ResNet of three stages for 64 px pictures, (N, 3, 64, 64) to (N, 4 * width).

    Strides 2 (stem), 2, 2, 1: the last map is 8x8, fine enough for a class activation map; another halving
    would leave 4x4. Strides 2, 1, 2, 2 give two to four points more worst-group accuracy on balanced scenes
    in twice the time (measured: 12 against 6.5 CPU seconds for 4,795 pictures).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(ResidualBlock(width, width, stride=2))
        self.layer2 = nn.Sequential(ResidualBlock(width, 2 * width, stride=2))
        self.layer3 = nn.Sequential(ResidualBlock(2 * width, 4 * width, stride=1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Pooled activations of the last stage, (N, 4 * width)."""
        x_NCHW = self.relu(self.bn1(self.conv1(x_NCHW)))
        x_NCHW = self.layer3(self.layer2(self.layer1(x_NCHW)))
        return torch.flatten(self.avgpool(x_NCHW), 1)


def small_resnet(*, width: int, num_classes: int) -> nn.Sequential:
    """The network with its linear head, (N, 3, 64, 64) normalised to logits (N, num_classes)."""
    return nn.Sequential(OrderedDict(backbone=SmallResNet(width), head=nn.Linear(4 * width, num_classes)))
