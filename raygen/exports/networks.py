"""A classifier as the library that made its network has it: without raygen's names, ready for that library to load."""

# N images, C classes

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raygen.classifier import Classifier, ClassifierConfig, small_resnet
from raygen.classifier.architectures import SMALL_RESNET, build_backbone, torchvision_arguments
from raygen.errors import ModelError

# Of the difference of logits between the exported network and the fitted one, per logit's size. They compute the same
# in another order of memory: float32 has 1e-7, and a deep network some hundred layers of it.
TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class PlainNetwork:
    """A network without raygen.

    Attributes:
        library: Who makes it, a key of `raygen.exports.loading_code`.
        arguments: What the library makes it from, beside the architecture's name.
        state: Its weights by the library's names.
        build: Makes it, with random weights.
        files: What else it needs, by name.
    """

    library: str
    arguments: Mapping[str, Any]
    state: dict[str, torch.Tensor]
    build: Callable[[], nn.Module]
    files: Mapping[str, bytes] = field(default_factory=dict)


def plain_network(classifier: Classifier) -> PlainNetwork:
    """A classifier's network and weights; normalisation is not in it.

    Raises:
        ModelError: The library's own network does not take these weights, or makes other logits of them.
    """
    config, own = classifier.config, {name: _plain(tensor) for name, tensor in classifier.state_dict().items()}
    if config.architecture == SMALL_RESNET:
        found = _small_resnet(config, classifier.num_classes, own)
    else:
        found = _torchvision(config, classifier.num_classes, own)
    _check(classifier, found)
    return found


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
    what, network = f"{classifier.config.architecture} of {found.library}", found.build().eval()
    try:
        network.load_state_dict(found.state)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{what} does not take the weights from a file ({str(error).splitlines()[0]})") from error
    check_same_logits(classifier, network, what=what)


def _small_resnet(config: ClassifierConfig, num_classes: int, own: Mapping[str, torch.Tensor]) -> PlainNetwork:
    arguments = {"width": config.width, "num_classes": num_classes}
    source = Path(str(small_resnet.__file__))
    return PlainNetwork(
        library=source.name,
        arguments=arguments,
        state=dict(own),
        build=lambda: small_resnet.small_resnet(**arguments),
        files={source.name: source.read_bytes()},
    )


def _torchvision(config: ClassifierConfig, num_classes: int, own: Mapping[str, torch.Tensor]) -> PlainNetwork:
    import torchvision

    name, size_px = config.architecture, config.image_size_px
    arguments = {**torchvision_arguments(name, weights=None, size_px=size_px), "num_classes": num_classes}
    if "init_weights" in arguments:
        arguments["init_weights"] = False  # they come from the file
    head_name = build_backbone(name, weights=None, size_px=size_px)[2]
    return PlainNetwork(
        library="torchvision",
        arguments=arguments,
        state={_bare(key, head_name): tensor for key, tensor in own.items()},
        build=lambda: torchvision.models.get_model(name, **arguments),
    )


def _bare(name: str, head_name: str) -> str:
    """A weight's name in the network without raygen's backbone and head."""
    part, _, rest = name.partition(".")
    return rest if part == "backbone" else f"{head_name}.{rest}"


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()
