"""A classifier as the library that made its network has it: without raygen's names, ready for that library to load."""

# N images, C classes

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raygen.classifier import Classifier, ClassifierConfig, small_resnet
from raygen.classifier.architectures import torchvision_arguments
from raygen.classifier.building import bare_names, build
from raygen.classifier.config import TIMM
from raygen.classifier.networks import describe, function_arguments, open_network, timm_library
from raygen.errors import ModelError

# Of the difference of logits between the exported network and the fitted one, per logit's size. They compute the same
# in another order of memory: float32 has 1e-7, and a deep network some hundred layers of it.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class PlainNetwork:
    """A network without raygen.

    Attributes:
        library: Who makes it, a key of `raygen.exports.loading_code`.
        architecture: What the library calls it.
        arguments: What the library makes it from, beside the architecture's name.
        state: Its weights by the library's names.
        build: Makes it, with random weights.
        files: What else it needs, by name.
    """

    library: str
    architecture: str
    arguments: Mapping[str, Any]
    state: dict[str, torch.Tensor]
    build: Callable[[], nn.Module]
    files: Mapping[str, bytes] = field(default_factory=dict)


def plain_network(classifier: Classifier) -> PlainNetwork:
    """A classifier's network and weights; normalisation is not in it.

    Raises:
        ModelError: The library's own network does not take these weights, or makes other logits of them.
    """
    config, num_classes = classifier.config, classifier.num_classes
    bare = bare_state(classifier)
    if config.kind == "small_resnet":
        found = _small_resnet(config, num_classes, classifier)
    elif config.kind == "torchvision":
        found = _torchvision(config, num_classes, bare)
    elif config.kind == "timm":
        found = _timm(config, num_classes, bare)
    elif config.kind == "function":
        found = _function(config, num_classes, bare)
    else:
        raise ModelError(f"{config.architecture} is a model of transformers; take --format hf, which is its own form")
    _check(classifier, found)
    return found


def bare_state(classifier: Classifier) -> dict[str, torch.Tensor]:
    """A classifier's weights by the names of the network alone."""
    without = classifier.config.model_copy(update={"weights": None})
    with torch.random.fork_rng(devices=[]):
        _, head_name = build(without, classifier.num_classes, description=describe(classifier.backbone))
    own = classifier.state_dict()
    return {bare: _plain(own[name]) for bare, name in bare_names(classifier, head_name).items()}


def check_same_logits(classifier: Classifier, logits: Callable[[torch.Tensor], torch.Tensor], *, what: str) -> None:
    """Checks that an exported network makes of two pictures of noise what the classifier makes of them.

    Args:
        classifier: In evaluation mode, on the CPU.
        logits: The exported network: normalised pictures (N, 3, S, S) to logits (N, C).
        what: The network, for messages.

    Raises:
        ModelError: It makes something else.
    """
    size_px = classifier.frame.size_px
    images_NCHW = torch.rand(2, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected_NC = classifier(images_NCHW)
        found_NC = logits((images_NCHW - classifier.mean_C11) / classifier.std_C11)
    scale = max(1.0, float(expected_NC.abs().max()))
    if found_NC.shape != expected_NC.shape or float((found_NC - expected_NC).abs().max()) > TOLERANCE * scale:
        raise ModelError(f"{what} makes other logits than the classifier that was fitted; it cannot be exported so")


def _check(classifier: Classifier, found: PlainNetwork) -> None:
    what, network = f"{found.architecture} of {found.library}", found.build().eval()
    try:
        network.load_state_dict(found.state)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{what} does not take the weights from a file ({str(error).splitlines()[0]})") from error
    check_same_logits(classifier, network, what=what)


def _small_resnet(config: ClassifierConfig, num_classes: int, classifier: Classifier) -> PlainNetwork:
    arguments = {"width": config.width, "num_classes": num_classes}
    source = Path(str(small_resnet.__file__))
    return PlainNetwork(
        library=source.name,
        architecture=config.architecture,
        arguments=arguments,
        state={name: _plain(tensor) for name, tensor in classifier.state_dict().items()},
        build=lambda: small_resnet.small_resnet(**arguments),
        files={source.name: source.read_bytes()},
    )


def _torchvision(config: ClassifierConfig, num_classes: int, state: dict[str, torch.Tensor]) -> PlainNetwork:
    import torchvision

    name = config.architecture
    arguments = {**torchvision_arguments(name, weights=None, size_px=config.image_size_px), "num_classes": num_classes}
    if "init_weights" in arguments:
        arguments["init_weights"] = False  # they come from the file
    return PlainNetwork(
        library="torchvision",
        architecture=name,
        arguments=arguments,
        state=state,
        build=lambda: torchvision.models.get_model(name, **arguments),
    )


def _timm(config: ClassifierConfig, num_classes: int, state: dict[str, torch.Tensor]) -> PlainNetwork:
    timm, name = timm_library(), config.architecture.removeprefix(TIMM)
    arguments: dict[str, Any] = {"num_classes": num_classes}
    try:
        timm.create_model(name, **arguments, img_size=config.image_size_px)
        arguments["img_size"] = config.image_size_px
    except TypeError:  # a network that takes any size
        pass
    return PlainNetwork(
        library="timm",
        architecture=name,
        arguments=arguments,
        state=state,
        build=lambda: timm.create_model(name, **arguments),
    )


def _function(config: ClassifierConfig, num_classes: int, state: dict[str, torch.Tensor]) -> PlainNetwork:
    network = open_network(config, num_classes, description=None, pretrained=False)
    module, _, name = config.architecture.partition(":")
    arguments = function_arguments(getattr(importlib.import_module(module), name), num_classes)
    return PlainNetwork(
        library="function",
        architecture=config.architecture,
        arguments=arguments,
        # A last layer without a bias has one of zeros in raygen.
        state={name: tensor for name, tensor in state.items() if name in network.state_dict() or tensor.any()},
        build=lambda: network,
    )


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()
