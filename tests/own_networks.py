"""Networks as users bring them: tiny ones of transformers, and functions that `classifier.architecture` can name."""

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

SIDE = 32


class TinyCnn(nn.Module):
    """Two convolutions with one ReLU, in place and called twice, and a last layer that is called `out`."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.out = nn.Linear(8, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NCHW = self.relu(self.second(self.relu(self.first(x_NCHW))))
        logits_NC: torch.Tensor = self.out(x_NCHW.mean((2, 3)))
        return logits_NC


def cnn(num_classes: int) -> nn.Module:
    return TinyCnn(num_classes)


def probabilities(num_classes: int) -> nn.Module:
    return nn.Sequential(TinyCnn(num_classes), nn.Softmax(1))


def pixels_only(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 8), nn.ReLU(), nn.Linear(8, num_classes))


def pair(num_classes: int) -> nn.Module:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = TinyCnn(num_classes)

        def forward(self, x_NCHW: torch.Tensor) -> Any:
            return self.inner(x_NCHW), x_NCHW

    return Pair()


def no_network() -> str:
    return "resnet50"


def transformers_folder(folder: Path, kind: str, *, names: tuple[str, ...] = ("landbird", "waterbird")) -> Path:
    """A folder that transformers' save_pretrained wrote, with its processor."""
    config: Any
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=SIDE,
            patch_size=8,
        )
    elif kind == "convnext":
        config = transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4)
    elif kind == "swin":
        config = transformers.SwinConfig(
            embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, image_size=SIDE, patch_size=4
        )
    else:
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForImageClassification.from_config(config)
    nn.init.normal_(next(m for m in reversed(list(model.modules())) if isinstance(m, nn.Linear)).bias)
    model.save_pretrained(folder)
    processor = transformers.ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.4]
    )
    processor.save_pretrained(folder)
    return folder
