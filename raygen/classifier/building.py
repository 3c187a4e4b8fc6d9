"""Building a classifier, and taking over the weights of a file."""

# C classes, D features

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raygen.classifier.architectures import IMAGENET, SMALL_RESNET, build_backbone, without_auxiliary
from raygen.classifier.config import PRETRAINED, ClassifierConfig, weights_file
from raygen.classifier.model import Classifier
from raygen.classifier.networks import LogitsOf, class_names, open_network, take_head_off
from raygen.classifier.small_resnet import SmallResNet
from raygen.classifier.state_dicts import read_state, under_prefix
from raygen.errors import ConfigError, ModelError


def build_classifier(
    config: ClassifierConfig, num_classes: int, *, seed: int, description: Mapping[str, Any] | None = None
) -> Classifier:
    """A classifier ready to be fitted, in training mode on the CPU.

    Args:
        config: Architecture and starting weights.
        num_classes: C.
        seed: Decides the random starting weights; torch's global generator is left as it was.
        description: Of transformers' model, where it was saved before; None: the architecture's folder says it.

    Raises:
        ConfigError: There is no such classifier, or one whose head we cannot replace.
        ModelError: The weights cannot be had or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        classifier, head_name = build(config, num_classes, description=description)
    if (path := weights_file(config)) is not None:
        take_weights(classifier, path, head_name=head_name)
    return classifier.to(memory_format=torch.channels_last)


def build(
    config: ClassifierConfig, num_classes: int, *, description: Mapping[str, Any] | None = None
) -> tuple[Classifier, str]:
    """A classifier without the weights of a file, and what its last layer is called in such a file."""
    backbone: nn.Module
    if config.is_own:
        return _build_own(config, num_classes, description=description)
    if config.architecture == SMALL_RESNET:
        if config.weights == IMAGENET:
            raise ConfigError("classifier.weights: small_resnet has no ImageNet weights; leave weights empty")
        backbone, num_features, head_name = SmallResNet(config.width), 4 * config.width, "head"
    else:
        backbone, num_features, head_name = build_backbone(
            config.architecture, weights=config.weights, size_px=config.image_size_px
        )
    return Classifier(config, backbone, num_features=num_features, num_classes=num_classes), head_name


def _build_own(
    config: ClassifierConfig, num_classes: int, *, description: Mapping[str, Any] | None
) -> tuple[Classifier, str]:
    """A network of somebody else's as a classifier; its own last layer stays where it is of as many classes."""
    if config.weights == IMAGENET:
        raise ConfigError(
            f"classifier.weights is {IMAGENET}, which are torchvision's; of {config.architecture} take {PRETRAINED}, "
            "or leave it null for a folder of transformers or a function of your own"
        )
    pretrained = config.weights == PRETRAINED or (config.kind == "hf" and config.weights is None)
    network = open_network(config, num_classes, description=description, pretrained=pretrained and description is None)
    names = class_names(network)
    head_name, last = take_head_off(network, config=config)
    classifier = Classifier(config, network, num_features=last.in_features, num_classes=num_classes)
    classifier.class_names = names if names is not None and len(names) == last.out_features else None
    if last.out_features == num_classes:
        _set_head(classifier, last.weight, last.bias)
    return classifier, head_name.removeprefix("model.") if isinstance(network, LogitsOf) else head_name


def _set_head(classifier: Classifier, weight_CD: torch.Tensor, bias_C: torch.Tensor | None) -> None:
    with torch.no_grad():
        classifier.head.weight.copy_(weight_CD)
        if bias_C is None:
            classifier.head.bias.zero_()
        else:
            classifier.head.bias.copy_(bias_C)


def take_weights(classifier: Classifier, path: Path, *, head_name: str) -> bool:
    """Starts from a state dict of the bare architecture or of one of our folders; gives back whether its head fits.

    The head is taken over when it has the right number of classes (an ERM checkpoint), and left as it is otherwise
    (ImageNet's thousand).

    Args:
        classifier: What takes them.
        path: The file.
        head_name: What the last layer is called in the bare network.

    Raises:
        ModelError: The file is not a state dict, or of another network.
    """
    own, file_state = classifier.state_dict(), read_state(path)
    found = [
        under_prefix(file_state, names) for names in (bare_names(classifier, head_name), {name: name for name in own})
    ]
    state = max(found, key=lambda one: one[1])[0]
    fits = "head.weight" in state and state["head.weight"].shape == own["head.weight"].shape
    if not fits:
        state |= {name: own[name] for name in ("head.weight", "head.bias")}
    elif "head.bias" not in state:
        state["head.bias"] = torch.zeros_like(own["head.bias"])
    load_strictly(classifier, without_auxiliary(state, own), path)
    return fits


def bare_names(classifier: Classifier, head_name: str) -> dict[str, str]:
    """A classifier's names of its weights by those of the network alone."""
    inside = "backbone.model." if isinstance(classifier.backbone, LogitsOf) else "backbone."
    return {
        f"{head_name}.{name.removeprefix('head.')}" if name.startswith("head.") else name.removeprefix(inside): name
        for name in classifier.state_dict()
    }


def load_strictly(classifier: Classifier, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Takes over weights by a classifier's own names, all of them.

    Args:
        classifier: What takes them.
        state: The weights.
        path: The file that they come from, for messages.

    Raises:
        ModelError: One is missing, unknown or of another shape.
    """
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ModelError(
            f"{path} does not fit {classifier.config.architecture} with {classifier.num_classes} classes:\n"
            + "\n".join(lines[1:4])
        ) from error
