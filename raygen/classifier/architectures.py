"""torchvision's classifiers as backbones: built without their last layer, and asked where their last map is.

Not for what a fit makes of them: that is `raygen.classifier`.
"""

import difflib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from raygen.errors import ConfigError, ModelError
from raygen.model_files.hub import unreachable

# ImageNet weights of torchvision, for every architecture that has any by that name.
IMAGENET = "imagenet"
IMAGENET_WEIGHTS = "IMAGENET1K_V1"
SMALL_RESNET = "small_resnet"

# Where networks keep their last linear layer: ResNets; most others; Swin; ViT.
HEADS = ("fc", "classifier", "head", "heads")
# Where they keep their last map, looked up in this order: ResNets; Swin, whose stages have the channels last until
# here; DenseNet, VGG, EfficientNet, MobileNet and ConvNeXt; RegNet; ShuffleNet; GoogLeNet; Inception; MNASNet; MaxViT;
# small_resnet.
LAST_MAPS = (
    "layer4",
    "permute",
    "features",
    "trunk_output",
    "conv5",
    "inception5b",
    "Mixed_7c",
    "layers",
    "blocks",
    "layer3",
)
# Of these the map is what the whole stage gives: convolution, norm and ReLU. Of other stages it is the last block's.
WHOLE_STAGES = ("conv5", "layers")
# Classifiers beside the one at the end, for training from nothing with the losses of 2014. Here there is one loss.
AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")


class WithoutMemory(TorchFunctionMode):
    """In it, parameters have a shape and no memory: they lie on torch's meta device.

    Not `torch.device("meta")`: RegNet works out its widths with tensors.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Puts what `torch.empty` makes, and so every weight, on the meta device."""
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build_backbone(name: str, *, weights: str | None, size_px: int) -> tuple[nn.Module, int, str]:
    """A torchvision classifier without its last linear layer.

    Args:
        name: Of the architecture.
        weights: "imagenet", or None for random ones.
        size_px: Side of the pictures, which is built into some.

    Returns:
        The backbone, the number of its features, and the name of the layer that was taken off.

    Raises:
        ConfigError: torchvision has no such classifier, no ImageNet weights for it or for that size, or it does not end
            in a linear layer.
        ModelError: The ImageNet weights cannot be had.
    """
    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        close = difflib.get_close_matches(name, [SMALL_RESNET, *names], n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "small_resnet and resnet50 are usual choices"
        raise ConfigError(f"classifier.architecture: torchvision has no '{name}'; {hint}")
    options = torchvision_arguments(name, weights=weights, size_px=size_px)
    try:
        backbone = torchvision.models.get_model(name, **options)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"ImageNet weights of {name} cannot be had ({error}). Without internet, download them elsewhere and give "
            "the file's path as classifier.weights."
        ) from error
    except (ValueError, AssertionError) as error:  # MaxViT's sizes
        raise ConfigError(_size_message(name, size_px, error)) from error
    for head_name in HEADS:
        head = getattr(backbone, head_name, None)
        if isinstance(head, nn.Linear):
            setattr(backbone, head_name, nn.Identity())
            return backbone, head.in_features, head_name
        if isinstance(head, nn.Sequential) and isinstance(head[-1], nn.Linear):
            linear, last = head[-1], [*head._modules][-1]
            head[-1] = nn.Identity()
            return backbone, linear.in_features, f"{head_name}.{last}"
    raise ConfigError(
        f"classifier.architecture: {name} does not end in a linear layer (SqueezeNet's head is a convolution), and "
        "features for a linear head are what the recipes work with; mobilenet_v3_small is as small"
    )


def check_imagenet(name: str, *, size_px: int) -> None:
    """Checks that an architecture has ImageNet weights for pictures of a size, in torch's cache or on the network.

    Raises:
        ConfigError: There are none, or for another size only.
        ModelError: They are not in the cache, and their server does not answer.
    """
    torchvision_arguments(name, weights=IMAGENET, size_px=size_px)
    url = imagenet_url(name)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not cached.is_file() and (reason := unreachable(url)) is not None:
        raise ModelError(
            f"classifier.weights: the ImageNet weights of {name} are not in torch's cache ({cached}) and cannot be "
            f"fetched: {reason}. Download {url} elsewhere, and put it there or give its path as classifier.weights"
        )


def imagenet_url(name: str) -> str:
    """Where torchvision has an architecture's ImageNet weights.

    Raises:
        ConfigError: It has none by the name that is taken here.
    """
    import torchvision

    found: Any = torchvision.models.get_model_weights(name)
    if IMAGENET_WEIGHTS not in found.__members__:
        raise ConfigError(
            f"classifier.weights: torchvision has no {IMAGENET_WEIGHTS} weights of {name}, only "
            f"{', '.join(found.__members__)}; download a file and give its path as classifier.weights"
        )
    return str(found[IMAGENET_WEIGHTS].url)


def last_map(backbone: nn.Module) -> nn.Module | None:
    """The last layer that gives a map, (N, D, h, w); None where the architecture has none that we know of."""
    for name in LAST_MAPS:
        stage = getattr(backbone, name, None)
        if isinstance(stage, nn.Sequential | nn.ModuleList):
            return stage if name in WHOLE_STAGES else stage[-1]
        if isinstance(stage, nn.Module):
            return stage
    return None


def check_shapes(classifier: nn.Module, *, name: str, size_px: int) -> tuple[int, ...] | None:
    """Checks that a classifier on the meta device takes pictures of a size; gives back the last map's height and width.

    Nothing is computed: torch's meta device knows shapes only.

    Raises:
        ConfigError: The pictures are too small, or of another size than the architecture is made for.
    """
    shapes: list[tuple[int, ...]] = []
    layer = last_map(classifier.backbone)  # type: ignore[arg-type]
    handle = None if layer is None else layer.register_forward_hook(lambda *args: shapes.append(tuple(args[-1].shape)))
    try:
        # Two pictures: batch norm does not train on one. Training mode: it has the most layers.
        classifier.train()(torch.zeros(2, 3, size_px, size_px, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(_size_message(name, size_px, error)) from error
    finally:
        if handle is not None:
            handle.remove()
    return shapes[-1][2:] if shapes else None


def without_auxiliary(state: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights without those of auxiliary heads, which a backbone here does not have."""
    return {
        key: tensor
        for key, tensor in state.items()
        if key in own or not key.removeprefix("backbone.").startswith(AUXILIARY_HEADS)
    }


def with_format_version(state: Any, backbone: nn.Module) -> Any:
    """Weights that say which format of their architecture they have: MNASNet refuses those that do not.

    A mapping that came from safetensors has lost it. Other modules are left alone: batch norm's says what may be
    missing.
    """
    if hasattr(state, "_metadata"):
        return state
    versioned: Any = OrderedDict(state)
    versioned._metadata = {"backbone": {"version": backbone._version}}
    return versioned


def torchvision_arguments(name: str, *, weights: str | None, size_px: int) -> dict[str, Any]:
    """What torchvision's `get_model` is called with; raises as `build_backbone` does."""
    options: dict[str, Any] = {"weights": None}
    if weights == IMAGENET:
        imagenet_url(name)
        options["weights"] = IMAGENET_WEIGHTS
    if name.startswith(("vit_", "maxvit_")):
        if weights == IMAGENET and size_px != usual_size(name):
            raise ConfigError(
                f"classifier.image_size_px is {size_px}, but the ImageNet weights of {name} are for "
                f"{usual_size(name)}; set classifier.image_size_px={usual_size(name)}, or weights to null"
            )
        if weights != IMAGENET:
            options |= {"image_size": size_px} if name.startswith("vit_") else {"input_size": (size_px, size_px)}
    if name in ("googlenet", "inception_v3"):
        # Their ImageNet weights read pixels in [-1, 1]: as a layer of theirs, so that a saved classifier keeps it.
        options |= {"aux_logits": False, "transform_input": True}
        options |= {} if weights == IMAGENET else {"init_weights": True}
    return options


def usual_size(name: str) -> int:
    """Side of the pictures that an architecture's published weights were trained for."""
    import torchvision

    found: Any = torchvision.models.get_model_weights(name)
    (side,) = {*found.DEFAULT.transforms().crop_size}
    return int(side)


def _size_message(name: str, size_px: int, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return (
        f"classifier.image_size_px: {name} cannot be fitted on pictures of {size_px} x {size_px} ({reason}); set "
        f"classifier.image_size_px={usual_size(name)}, or another classifier.architecture, such as {SMALL_RESNET}"
    )
