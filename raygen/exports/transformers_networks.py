"""torchvision's networks that transformers has too: its config for them, and its names for their weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

State = Mapping[str, torch.Tensor]
# A pattern of torchvision's names, and transformers' for the same weight.
Renames = tuple[tuple[str, str], ...]

_STAGE = r"(?P<stage>\d)\.(?P<layer>\d+)\."
_RESNET: Renames = (
    (r"^fc\.", "classifier.1."),
    (r"^conv1\.", "resnet.embedder.embedder.convolution."),
    (r"^bn1\.", "resnet.embedder.embedder.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    *((rf"\.conv{n}\.", f".layer.{n - 1}.convolution.") for n in (1, 2, 3)),
    *((rf"\.bn{n}\.", f".layer.{n - 1}.normalization.") for n in (1, 2, 3)),
    *((rf"^layer{n}\.", f"resnet.encoder.stages.{n - 1}.layers.") for n in (1, 2, 3, 4)),
)
_VIT: Renames = (
    (r"^class_token$", "vit.embeddings.cls_token"),
    (r"^encoder\.pos_embedding$", "vit.embeddings.position_embeddings"),
    (r"^conv_proj\.", "vit.embeddings.patch_embeddings.projection."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"vit.layers.\1."),
    (r"\.self_attention\.out_proj\.", ".attention.o_proj."),
    (r"\.self_attention\.([qkv]_proj)\.", r".attention.\1."),
    (r"\.ln_1\.", ".layernorm_before."),
    (r"\.ln_2\.", ".layernorm_after."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "vit.layernorm."),
    (r"^heads\.head\.", "classifier."),
)
_CONVNEXT: Renames = (
    (r"^classifier\.0\.", "convnext.layernorm."),
    (r"^classifier\.2\.", "classifier."),
    (r"^features\.0\.0\.", "convnext.embeddings.patch_embeddings."),
    (r"^features\.0\.1\.", "convnext.embeddings.layernorm."),
    *((rf"^features\.{2 * n + 1}\.", f"convnext.encoder.stages.{n}.layers.") for n in range(4)),
    *((rf"^features\.{2 * n}\.", f"convnext.encoder.stages.{n}.downsampling_layer.") for n in (1, 2, 3)),
    (r"\.layer_scale$", ".layer_scale_parameter"),
    (r"\.block\.0\.", ".dwconv."),
    (r"\.block\.2\.", ".layernorm."),
    (r"\.block\.3\.", ".pwconv1."),
    (r"\.block\.5\.", ".pwconv2."),
)
# Of torchvision's layer norms in these two.
_NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True)
class TransformersNetwork:
    """A network of transformers.

    Attributes:
        model_type: Which, as `AutoConfig` knows it.
        fields: Of its config.
        state: Its weights.
    """

    model_type: str
    fields: Mapping[str, Any]
    state: State


def transformers_network(name: str, state: State, *, size_px: int) -> TransformersNetwork | None:
    """A network of torchvision as transformers has it; None where transformers has none like it.

    Args:
        name: Of the architecture.
        state: Its weights by torchvision's names.
        size_px: Side of the pictures.
    """
    # ResNeXt and wide ResNets are built of other blocks than transformers' ResNet.
    for pattern, make in ((r"resnet\d+", _resnet), (r"vit_[a-z]_\d+", _vit), (r"convnext_\w+", _convnext)):
        if re.fullmatch(pattern, name):
            return make(name, state, size_px)
    return None


def _resnet(name: str, state: State, size_px: int) -> TransformersNetwork:
    depths = [_count(state, rf"layer{stage}\.(\d+)\.conv1\.") for stage in (1, 2, 3, 4)]
    is_bottleneck = "layer1.0.conv3.weight" in state
    last = "conv3" if is_bottleneck else "conv2"
    fields = {
        "depths": depths,
        "hidden_sizes": [len(state[f"layer{stage}.0.{last}.weight"]) for stage in (1, 2, 3, 4)],
        "layer_type": "bottleneck" if is_bottleneck else "basic",
        "embedding_size": len(state["conv1.weight"]),
    }
    return TransformersNetwork("resnet", fields, _renamed(state, _RESNET))


def _vit(name: str, state: State, size_px: int) -> TransformersNetwork:
    width, _, patch_px, _ = state["conv_proj.weight"].shape
    fields = {
        "hidden_size": width,
        "num_hidden_layers": _count(state, r"encoder\.layers\.encoder_layer_(\d+)\.ln_1\."),
        # Dosovitskiy et al. 2021 (arXiv 2010.11929), table 1.
        "num_attention_heads": {"b": 12, "l": 16, "h": 16}[name.split("_")[1]],
        "intermediate_size": len(state["encoder.layers.encoder_layer_0.mlp.0.weight"]),
        "image_size": size_px,
        "patch_size": patch_px,
        "layer_norm_eps": _NORM_EPS,
    }
    parted: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if (found := re.fullmatch(r"(.*)\.in_proj_(weight|bias)", key)) is None:
            parted[key] = tensor
            continue
        for part, piece in zip("qkv", tensor.chunk(3), strict=True):
            parted[f"{found[1]}.{part}_proj.{found[2]}"] = piece.clone()
    return TransformersNetwork("vit", fields, _renamed(parted, _VIT))


def _convnext(name: str, state: State, size_px: int) -> TransformersNetwork:
    fields = {
        "depths": [_count(state, rf"features\.{2 * stage + 1}\.(\d+)\.layer_scale") for stage in range(4)],
        "hidden_sizes": [len(state[f"features.{2 * stage + 1}.0.layer_scale"]) for stage in range(4)],
        "layer_norm_eps": _NORM_EPS,
    }
    flat = {key: tensor.flatten() if key.endswith(".layer_scale") else tensor for key, tensor in state.items()}
    return TransformersNetwork("convnext", fields, _renamed(flat, _CONVNEXT))


def _renamed(state: State, renames: Renames) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        found[name] = tensor
    return found


def _count(state: State, pattern: str) -> int:
    """How many layers have a name of that pattern, whose first group is their number."""
    return len({found[1] for name in state if (found := re.match(pattern, name))})
