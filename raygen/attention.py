"""What a classifier looks at, pixel by pixel: DeepLIFT against other pictures, by captum.

DeepLIFT attributes the difference of a logit between a picture and a baseline to the picture's pixels; DeepLiftShap
takes the mean over several baselines (Lundberg and Lee 2017). Its rule is one per module: it follows a ReLU only where
that is a module of its own, called once in a forward pass. torchvision's ResNets call one module two or three times in
a block, and captum refuses them; where a network calls functions, captum sees nothing and gives plain gradients,
without a word. captum's rule for a maximum over windows loses what windows that overlap share. So the measure is taken
on a copy in which each ReLU is a module of its own and each window has its own pixels; in double precision, since the
rule divides by differences that may be tiny (Differs: upstream in single precision, up to a tenth of a logit is lost).

Not for maps of a late layer: those are `raygen.maskers.cam`.
"""

# N images, B baselines, C classes or colour channels, H height, W width

import copy
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from raygen.classifier import Classifier, ClassifierConfig, shape_of
from raygen.errors import ConfigError

# What captum has a rule for.
_WITH_RULE = (
    nn.ReLU,
    nn.ELU,
    nn.LeakyReLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.MaxPool2d,
)
# What needs none, because it is linear in evaluation mode.
_LINEAR = (
    nn.Conv2d,
    nn.Linear,
    nn.BatchNorm2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Flatten,
    nn.Identity,
)
_LINEAR_FUNCTIONS = {
    operator.add,
    operator.iadd,
    operator.getitem,
    getattr,
    torch.add,
    torch.cat,
    torch.flatten,
    functional.adaptive_avg_pool2d,
    functional.avg_pool2d,
    functional.dropout,
}
_LINEAR_METHODS = {"add", "add_", "flatten", "view", "reshape", "contiguous", "size", "permute", "mean"}
_RELUS = {functional.relu, functional.relu_, torch.relu, torch.relu_, "relu", "relu_"}


class SpreadPool(nn.Module):
    """A maximum over windows that each have their own copies of the pixels: what `nn.MaxPool2d` gives, to the bit.

    Args:
        pool: The maximum, whose windows overlap or reach beyond the border.
    """

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding, self.dilation = (
            _pair(size) for size in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        )
        self.pool = nn.MaxPool2d((1, self.kernel[0] * self.kernel[1]))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """The maxima, (N, C, rows of windows, columns of windows)."""
        (down, right), num_images, num_channels = self.padding, *x_NCHW.shape[:2]
        # Below any activation, and finite: the rule takes differences.
        padded_NCHW = functional.pad(x_NCHW, (right, right, down, down), value=-1e30)
        rows, columns = (
            (size - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, dilation in zip(
                padded_NCHW.shape[2:], self.kernel, self.stride, self.dilation, strict=True
            )
        )
        windows = functional.unfold(padded_NCHW, self.kernel, dilation=self.dilation, stride=self.stride)
        windows = windows.reshape(num_images, num_channels, -1, rows * columns).transpose(2, 3)
        maxima: torch.Tensor = self.pool(windows.contiguous()).reshape(num_images, num_channels, rows, columns)
        return maxima


class DeepLift:
    """DeepLiftShap of one classifier.

    Args:
        classifier: In evaluation mode; it stays as it is.

    Raises:
        ConfigError: The network has parts that DeepLIFT has no rule for.
    """

    def __init__(self, classifier: Classifier) -> None:
        # Here, not at the top: captum loads a library of plots.
        from captum.attr import DeepLiftShap

        self._classifier = with_distinct_relus(classifier).double()
        self._method = DeepLiftShap(self._classifier)

    def __call__(
        self, images_NCHW: torch.Tensor, baselines_BCHW: torch.Tensor, label_N: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Attributions to the logits of labels, and how far they are from complete.

        Args:
            images_NCHW: Pictures, (N, 3, H, W) in [0, 1].
            baselines_BCHW: What they are compared with, at least two, likewise.
            label_N: The labels, (N,) int64.

        Returns:
            Attributions, (N, 3, H, W) float64, and for each image |their sum - (f_y(x) - mean f_y(baselines))| as a
            share of that difference (of 1 where it is smaller), (N,) float64.
        """
        images_NCHW, baselines_BCHW = images_NCHW.double(), baselines_BCHW.double()
        with torch.inference_mode():
            expected_N = self._classifier(baselines_BCHW).mean(dim=0)[label_N]
            difference_N = self._classifier(images_NCHW).gather(1, label_N[:, None])[:, 0] - expected_N
        found = []
        for image_CHW, label in zip(images_NCHW, label_N, strict=True):  # each with all baselines is a call of 2 B
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that it sets hooks
                found.append(self._method.attribute(image_CHW[None], baselines_BCHW, target=int(label)).detach())
        attribution_NCHW = torch.cat(found)
        gap_N = (attribution_NCHW.sum(dim=(1, 2, 3)) - difference_N).abs()
        share_N = gap_N / difference_N.abs().clamp(min=1.0)
        return attribution_NCHW.cpu().numpy(), share_N.cpu().numpy()


def with_distinct_relus(classifier: Classifier) -> Classifier:
    """A copy that computes the same, to the bit, and has every non-linear part as a module of its own, not in place.

    Raises:
        ConfigError: The network has parts that DeepLIFT has no rule for.
    """
    twin = copy.deepcopy(classifier).eval()
    twin.backbone = _traced(twin.backbone, name=classifier.config.architecture)
    _part(twin.backbone)
    return twin


def check_deep_lift(config: ClassifierConfig, num_classes: int) -> None:
    """Checks before any work that a network has nothing that DeepLIFT has no rule for.

    Raises:
        ConfigError: It has.
    """
    classifier = shape_of(config, num_classes)
    _traced(classifier.backbone.eval(), name=config.architecture)


def _traced(backbone: nn.Module, *, name: str) -> fx.GraphModule:
    way_out = "leave measures.deep_lift off, or take a network of convolutions and ReLUs, such as a ResNet"
    try:
        traced = fx.symbolic_trace(backbone)
    except Exception as error:  # of the network's own code, which meets a stand-in for a picture
        raise ConfigError(
            f"measures.deep_lift: classifier.architecture {name} decides by its data what it computes ({error}), so "
            f"DeepLIFT cannot follow it; {way_out}"
        ) from error
    if unknown := sorted(set(_without_rule(traced))):
        raise ConfigError(
            f"measures.deep_lift: classifier.architecture {name} has parts that DeepLIFT has no rule for "
            f"({', '.join(unknown)}), so its attributions would not sum to what they explain; {way_out}"
        )
    return traced


def _without_rule(traced: fx.GraphModule) -> Iterator[str]:
    """Names of the parts that are neither linear nor known to captum."""
    for node in traced.graph.nodes:
        target: Any = node.target
        if node.op == "call_module":
            part = traced.get_submodule(target)
            if type(part) not in (*_WITH_RULE, *_LINEAR):
                yield type(part).__name__
        elif node.op == "call_function" and target not in _LINEAR_FUNCTIONS | _RELUS:
            yield getattr(target, "__name__", str(target))
        elif node.op == "call_method" and target not in _LINEAR_METHODS | _RELUS:
            yield str(target)


def _spread(part: nn.Module) -> nn.Module:
    """A copy of a non-linear part, not in place."""
    if isinstance(part, nn.MaxPool2d) and not part.ceil_mode:
        return SpreadPool(part)
    own = copy.deepcopy(part)
    if hasattr(own, "inplace"):
        setattr(own, "inplace", False)  # noqa: B010 (which kinds of modules have it, torch's types do not say)
    return own


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _part(traced: fx.GraphModule) -> None:
    """Gives each call of a non-linear part a module of its own."""
    place = {node: number for number, node in enumerate(traced.graph.nodes)}
    for number, node in enumerate(list(traced.graph.nodes)):
        part: nn.Module
        if node.op == "call_module" and isinstance(part := traced.get_submodule(str(node.target)), _WITH_RULE):
            own, in_place = _spread(part), bool(getattr(part, "inplace", False))
        elif node.op in {"call_function", "call_method"} and node.target in _RELUS:
            name = getattr(node.target, "__name__", str(node.target))
            in_place = name.endswith("_") or bool(node.kwargs.get("inplace", node.args[1:2] == (True,)))
            own = nn.ReLU()
            node.op, node.kwargs = "call_module", {}
            node.args = node.args[:1]
        else:
            continue
        node.target = f"own_{number}"
        traced.add_submodule(node.target, own)
        if in_place:  # what read the changed tensor later on reads the new one
            before = node.args[0]
            for user in [user for user in before.users if user is not node and place[user] > place[node]]:
                user.replace_input_with(before, node)
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
