"""Whether a network can be fitted, and has what maps are drawn from: known before any work."""

# C classes

import warnings
from dataclasses import dataclass

from raygen.classifier.architectures import (
    IMAGENET,
    SMALL_RESNET,
    WithoutMemory,
    check_imagenet,
    check_shapes,
    usual_size,
)
from raygen.classifier.building import build, build_classifier, take_weights
from raygen.classifier.config import ClassifierConfig, weights_file
from raygen.classifier.model import Classifier
from raygen.errors import ConfigError, ModelError


@dataclass(frozen=True, slots=True)
class MapUse:
    """What asks for class activation maps.

    Attributes:
        setting: For messages.
        may_be_empty: Whether a map that is 0 everywhere is of use too.
    """

    setting: str
    may_be_empty: bool


def check_classifier(config: ClassifierConfig, num_classes: int, *, map_for: MapUse | None) -> None:
    """Checks before any work that a network can be fitted, and that it has what class activation maps are made from.

    Builds it without memory for its weights, and sends shapes through it. A file of weights is read.

    Args:
        config: The network.
        num_classes: C.
        map_for: What asks for class activation maps; None where nothing does.

    Raises:
        ConfigError: No such network, one that does not end in a linear layer or does not take pictures of that size, or
            whose last map is none.
        ModelError: The weights are absent, damaged or of another network.
    """
    name, size_px = config.architecture, config.image_size_px
    if config.weights == IMAGENET and config.kind == "torchvision":
        check_imagenet(name, size_px=size_px)
        config = config.model_copy(update={"weights": None})
    if config.is_own:
        _check_own(config, num_classes, map_for=map_for)
        return
    with WithoutMemory():
        classifier, head_name = build(config, num_classes)
    map_size = check_shapes(classifier.to("meta"), name=name, size_px=size_px)
    if config.cam_layer is not None or (map_for is not None and map_size is None):
        # What a layer's map depends on is asked with numbers.
        map_size = _searched_map(config, num_classes, map_for=map_for)
    if map_for is not None and map_size == (1, 1) and not map_for.may_be_empty:
        raise ConfigError(
            f"{map_for.setting} needs class activation maps, and the last map of {name} is a single pixel for pictures "
            f"of {size_px} x {size_px}, so that every one would be 0 everywhere; set classifier.image_size_px="
            f"{usual_size(name)}, or another classifier.architecture, such as {SMALL_RESNET}"
        )
    if (path := weights_file(config)) is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that nothing is copied: names and shapes are what is checked
            take_weights(classifier, path, head_name=head_name)


def _check_own(config: ClassifierConfig, num_classes: int, *, map_for: MapUse | None) -> None:
    """The same of a network that is not known: it is built, and asked with numbers."""
    build_classifier(config, num_classes, seed=0)
    if map_for is not None or config.cam_layer is not None:
        _searched_map(config, num_classes, map_for=map_for)


def _searched_map(config: ClassifierConfig, num_classes: int, *, map_for: MapUse | None) -> tuple[int, int]:
    classifier = build_classifier(config.model_copy(update={"weights": None}), num_classes, seed=0).eval()
    try:
        size = classifier.spatial_map().size
    except ModelError as error:
        needs = "" if map_for is None else f"{map_for.setting} needs class activation maps: "
        raise ConfigError(f"{needs}{error}") from error
    return size, size


def shape_of(config: ClassifierConfig, num_classes: int) -> Classifier:
    """A classifier whose weights are nobody's business: without memory for them where the architecture is known."""
    config = config.model_copy(update={"weights": None})
    if config.is_own:
        return build_classifier(config, num_classes, seed=0)
    with WithoutMemory():
        return build_classifier(config, num_classes, seed=0)
