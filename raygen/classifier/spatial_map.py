"""Where a network keeps a map of the picture, and how what a layer gives becomes one: for class activation maps.

What a transformer's layer gives are tokens, (N, L, D), the class token and others first; pytorch-grad-cam documents how
to make a map of the rest, and that it has to be of a layer from which the class token still reads: the norm before the
last attention. Here the layer is found by its gradient: it is the last that gives a map on which the features depend.
"""

# N images, L tokens, D channels, h and w height and width of a map

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from raygen.errors import ModelError

# Class, distillation and register tokens that stand before those of the picture.
MOST_OTHER_TOKENS = 16
# Layers that give no features: weights of attention, copies.
_NO_FEATURES = (nn.Dropout, nn.Softmax, nn.Identity, nn.Flatten)
_LEAST_CHANNELS = 2


@dataclass(frozen=True, slots=True)
class SpatialMap:
    """A layer, and what its output is as a map.

    Attributes:
        layer: The layer.
        name: Of it in the network.
        to_map: From its output to (N, D, h, w).
        size: h, the same as w.
    """

    layer: nn.Module
    name: str
    to_map: Callable[[torch.Tensor], torch.Tensor]
    size: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a layer gave, and the gradient of the features there."""

    name: str
    layer: nn.Module
    output: torch.Tensor
    gradient: torch.Tensor


def find_map(
    network: nn.Module,
    features: Callable[[torch.Tensor], torch.Tensor],
    *,
    size_px: int,
    named: str | None,
    architecture: str,
) -> SpatialMap:
    """The last layer of a network whose output is a map of the picture that its features depend on, or the one named.

    One pass forth and back of two pictures of noise, in evaluation mode, which the network is left in.

    Args:
        network: The network.
        features: From pictures in [0, 1] to what its last linear layer reads, (N, D).
        size_px: Side of the pictures.
        named: `classifier.cam_layer`.
        architecture: For messages.

    Raises:
        ModelError: There is none.
    """
    names = dict(network.named_modules())
    if named is not None and named not in names:
        shown = ", ".join(name for name in names if name.count(".") <= 1)[:400]
        raise ModelError(f"classifier.cam_layer is {named}, and {architecture} has no such layer; it has {shown}, …")
    parameter = next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, size_px, size_px, generator=generator).to(device).requires_grad_(True)
    seen = _outputs(network, features, images)
    side = _side_of_patches(seen)
    chosen = seen if named is None else [one for one in seen if one.name == named]
    candidates = [
        (one, to_map) for one in chosen if (to_map := _as_map(one, side, is_named=named is not None)) is not None
    ]
    if named is not None and not candidates:
        shapes = ", ".join(str(tuple(one.output.shape)) for one in chosen) or "no tensor that the logits depend on"
        raise ModelError(
            f"classifier.cam_layer={named} of {architecture} gives {shapes} for two pictures of {size_px} px; expected "
            "a map, (2, channels, h, h), or tokens, (2, tokens, channels)"
        )
    for one, to_map in reversed(candidates):
        found = to_map(one.gradient)
        if found.abs().sum() > 0:
            return SpatialMap(one.layer, one.name, to_map, int(found.shape[2]))
    if named is not None:
        raise ModelError(
            f"classifier.cam_layer={named} of {architecture}: the logits do not depend on its map, so that every class "
            "activation map would be 0. Where a class token is classified, name a layer before the last attention, "
            "such as the norm before it"
        )
    raise ModelError(
        f"classifier.architecture: no layer of {architecture} gives a map of the picture that class activation maps "
        "could be drawn from; name one with classifier.cam_layer, or take other masks than class activation maps"
    )


def _outputs(
    network: nn.Module, features: Callable[[torch.Tensor], torch.Tensor], images_NCHW: torch.Tensor
) -> list[_Seen]:
    """What each layer gave, in the order in which they were done, of those that the features depend on."""
    kept: list[tuple[str, nn.Module, torch.Tensor]] = []

    def keep(name: str) -> Any:
        def hook(layer: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.requires_grad and output.ndim in (3, 4):
                kept.append((name, layer, output))

        return hook

    network.eval()
    handles = [layer.register_forward_hook(keep(name)) for name, layer in network.named_modules() if name]
    try:
        with torch.enable_grad():
            features_ND = features(images_NCHW)
            # Not their sum, which is the same for all pictures where a norm comes last. Of features and not of logits:
            # a last layer may begin with zeros.
            weight_D = torch.linspace(-1, 2, features_ND.shape[1], device=features_ND.device)
            outputs = [output for _, _, output in kept]
            gradients = (
                torch.autograd.grad((features_ND * weight_D**3).sum(), outputs, allow_unused=True) if outputs else ()
            )
    finally:
        for handle in handles:
            handle.remove()
    pairs: Any = zip(kept, gradients, strict=True)  # None where the features do not depend on an output
    return [_Seen(name, layer, output.detach(), found) for (name, layer, output), found in pairs if found is not None]


def _side_of_patches(seen: list[_Seen]) -> int | None:
    """Height of the last convolution's map, which in a transformer cuts the picture into patches."""
    maps = [one.output.shape for one in seen if isinstance(one.layer, nn.Conv2d) and one.output.ndim == 4]
    return int(maps[-1][2]) if maps else None


def _as_map(
    one: _Seen, side_of_patches: int | None, *, is_named: bool
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """How a layer's output becomes a map, (N, D, h, w); None where it is none."""
    shape = one.output.shape
    if shape[0] != 2 or (isinstance(one.layer, _NO_FEATURES) and not is_named):
        return None
    if len(shape) == 4:
        if shape[2] == shape[3] and shape[2] > 1 and shape[1] >= _LEAST_CHANNELS:
            return _channels_first
        if shape[1] == shape[2] and shape[1] > 1 and shape[3] >= _LEAST_CHANNELS:
            return _channels_last
        return None
    # Of tokens only what a norm gives is taken by itself: queries, keys and values are tokens too.
    if not is_named and "norm" not in type(one.layer).__name__.lower():
        return None
    side = _side_of_tokens(int(shape[1]), side_of_patches)
    return None if side is None else _Tokens(side)


def _side_of_tokens(num_tokens: int, side_of_patches: int | None) -> int | None:
    """Height of the map that tokens are, besides the few that stand before them; None where they are none."""
    sides = [side_of_patches] if side_of_patches is not None else []
    for side in (*sides, math.isqrt(num_tokens)):
        if side > 1 and 0 <= num_tokens - side**2 <= MOST_OTHER_TOKENS:
            return side
    return None


def _channels_first(output: torch.Tensor) -> torch.Tensor:
    return output


def _channels_last(output: torch.Tensor) -> torch.Tensor:
    return output.permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """From tokens, (N, L, D), to the map of the last side * side of them."""

    side: int

    def __call__(self, tokens_NLD: torch.Tensor) -> torch.Tensor:
        map_NhwD = tokens_NLD[:, -(self.side**2) :].reshape(len(tokens_NLD), self.side, self.side, -1)
        return map_NhwD.permute(0, 3, 1, 2)
