"""The image classifier: torchvision's by name, and a small ResNet for 64 px scenes.

Every classifier is a backbone that gives features and a linear head. Normalisation is inside `forward`, so
that callers (CAM, attribution, prediction) deal in pictures with values in [0, 1] only. This file builds,
saves and loads; fitting is in `raygen.algorithms`.
"""

# N images, H height, W width, C classes or colour channels, D features

import json
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import safetensors
import safetensors.torch
import torch
from pydantic import Field, ValidationError
from torch import nn

from raygen.classifier.architectures import (
    IMAGENET,
    SMALL_RESNET,
    WithoutMemory,
    build_backbone,
    check_imagenet,
    check_shapes,
    last_map,
    usual_size,
    with_format_version,
    without_auxiliary,
)
from raygen.classifier.framing import Frame, Framing
from raygen.classifier.small_resnet import SmallResNet
from raygen.config import Decides, Identity, Strict
from raygen.errors import ConfigError, ModelError
from raygen.storage.writing import write_bytes, write_json

CONFIG_FILE = "classifier.json"
WEIGHTS_FILE = "model.safetensors"

# Mean and standard deviation of ImageNet's pixels, as torchvision's weights expect.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ClassifierConfig(Strict, decides=Decides.RESULTS):
    """Which network, and from which weights it starts.

    Attributes:
        architecture: "small_resnet", or the name of a torchvision classifier such as "resnet50".
        image_size_px: Side of the square that the classifier sees: 64 for scenes, 224 for ImageNet's.
        framing: How a picture comes into that square, wherever the classifier looks at one. "squash": all of it, its
            aspect ratio lost. "resize_crop": squashed to 256 / 224 of the side, then cropped in the middle, as group
            DRO's, JTT's and DFR's code evaluates; a fit with `augment: random_resized_crop` crops from the same square.
        width: Channels of the first stage of small_resnet, at least 8; other architectures have their own. (With
            fewer, oneDNN's gradient of a channels_last convolution writes beyond its buffer: torch 2.15, AVX2.)
        weights: None starts from random numbers; "imagenet" takes torchvision's ImageNet weights (from its
            cache, or downloaded); anything else is the path of a .safetensors, .pth or .pt state dict.
    """

    architecture: str = SMALL_RESNET
    image_size_px: int = Field(64, ge=16)
    width: int = Field(16, ge=8)
    weights: str | None = None
    framing: Annotated[Framing, Identity.ABSENT_BY_DEFAULT] = "squash"

    @property
    def frame(self) -> Frame:
        """What of a picture the classifier sees."""
        return Frame(self.image_size_px, self.framing)


@dataclass(frozen=True, slots=True)
class MapUse:
    """What asks for class activation maps.

    Attributes:
        setting: For messages.
        may_be_empty: Whether a map that is 0 everywhere is of use too.
    """

    setting: str
    may_be_empty: bool


class Classifier(nn.Module):
    """Backbone and linear head over pictures in [0, 1].

    Attributes:
        config: What it was built from.
        num_classes: C.
    """

    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __init__(self, config: ClassifierConfig, backbone: nn.Module, *, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = nn.Linear(num_features, num_classes)
        self.register_buffer("mean_C11", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def features(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Penultimate activations, (N, D): the input of the linear head.

        Args:
            images_NCHW: Float in [0, 1], (N, 3, image_size_px, image_size_px).
        """
        normal_NCHW = (images_NCHW - self.mean_C11) / self.std_C11
        # channels_last: a training step of small_resnet takes two thirds of the time on a CPU.
        features_ND: torch.Tensor = self.backbone(normal_NCHW.contiguous(memory_format=torch.channels_last))
        return features_ND

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits, (N, C), of pictures with values in [0, 1]."""
        logits_NC: torch.Tensor = self.head(self.features(images_NCHW))
        return logits_NC

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes over weights, also those of a plain mapping, whatever the architecture."""
        return super().load_state_dict(with_format_version(state_dict, self.backbone), strict=strict, assign=assign)

    @property
    def frame(self) -> Frame:
        """What of a picture it sees."""
        return self.config.frame

    @property
    def target_layer(self) -> nn.Module:
        """The last block with a spatial map, for class activation maps: `layer4[-1]` of a ResNet.

        Raises:
            ModelError: The architecture has no convolutional stage that we know of.
        """
        layer = last_map(self.backbone)
        if layer is not None:
            return layer
        raise ModelError(f"{self.config.architecture} has no convolutional stage to draw a class activation map from")


def weights_file(config: ClassifierConfig) -> Path | None:
    """The file that a classifier starts from, in full; None where it starts from none."""
    return None if config.weights in (None, IMAGENET) else Path(str(config.weights)).expanduser().absolute()


def build_classifier(config: ClassifierConfig, num_classes: int, *, seed: int) -> Classifier:
    """A classifier ready to be fitted, in training mode on the CPU.

    Args:
        config: Architecture and starting weights.
        num_classes: C.
        seed: Decides the random starting weights; torch's global generator is left as it was.

    Raises:
        ConfigError: torchvision has no such classifier, or one whose head we cannot replace.
        ModelError: The weights cannot be had or do not fit.
    """
    classifier, head_name = _build(config, num_classes, seed=seed)
    if (path := weights_file(config)) is not None:
        _load_backbone(classifier, path, head_name=head_name)
    return classifier.to(memory_format=torch.channels_last)


def _build(config: ClassifierConfig, num_classes: int, *, seed: int) -> tuple[Classifier, str]:
    """A classifier without the weights of a file, and what its last layer is called in such a file."""
    backbone: nn.Module
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if config.architecture == SMALL_RESNET:
            if config.weights == IMAGENET:
                raise ConfigError("classifier.weights: small_resnet has no ImageNet weights; leave weights empty")
            backbone, num_features, head_name = SmallResNet(config.width), 4 * config.width, "head"
        else:
            backbone, num_features, head_name = build_backbone(
                config.architecture, weights=config.weights, size_px=config.image_size_px
            )
        return Classifier(config, backbone, num_features=num_features, num_classes=num_classes), head_name


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
    if config.weights == IMAGENET and name != SMALL_RESNET:
        check_imagenet(name, size_px=size_px)
        config = config.model_copy(update={"weights": None})
    with WithoutMemory():
        classifier, head_name = _build(config, num_classes, seed=0)
    map_size = check_shapes(classifier.to("meta"), name=name, size_px=size_px)
    if map_for is not None and map_size is None:
        raise ConfigError(
            f"{map_for.setting} needs class activation maps, and classifier.architecture {name} has no convolutional "
            "stage to draw them from; take another architecture, such as resnet50 or convnext_tiny, or other masks"
        )
    if map_for is not None and map_size == (1, 1) and not map_for.may_be_empty:
        raise ConfigError(
            f"{map_for.setting} needs class activation maps, and the last map of {name} is a single pixel for pictures "
            f"of {size_px} x {size_px}, so that every one would be 0 everywhere; set classifier.image_size_px="
            f"{usual_size(name)}, or another classifier.architecture, such as {SMALL_RESNET}"
        )
    if (path := weights_file(config)) is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that nothing is copied: names and shapes are what is checked
            _load_backbone(classifier, path, head_name=head_name)


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Writes `model.safetensors`, then `classifier.json`; a folder without the latter is unfinished."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    # As bytes, so that a full disk is an OSError with its number: safetensors' own writer hides it.
    write_bytes(folder / WEIGHTS_FILE, safetensors.torch.save(state))
    write_json(
        folder / CONFIG_FILE,
        {"config": classifier.config.deciding(), "num_classes": classifier.num_classes},
    )


def load_classifier(folder: Path) -> Classifier:
    """The classifier of a folder written by `save_classifier`, in evaluation mode on the CPU.

    Raises:
        ModelError: The folder is absent or incomplete, or its weights have other names or shapes.
    """
    config_path, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not folder.is_dir():
        raise ModelError(f"{folder} does not exist; give a classifier folder, such as runs/demo/fit/dbb")
    for path in (config_path, weights_path):
        if not path.is_file():
            raise ModelError(f"{folder} is not a classifier folder: {path.name} is missing. Was the fit interrupted?")
    try:
        saved: dict[str, Any] = json.loads(config_path.read_text(encoding="utf-8"))
        # The weights come from the folder, whatever the fit started from.
        config = ClassifierConfig.model_validate(saved["config"])
        num_classes = int(saved["num_classes"])
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(f"{config_path} is damaged: {error}") from error
    classifier = build_classifier(config.model_copy(update={"weights": None}), num_classes, seed=0)
    classifier.config = config
    _load_strictly(classifier, _read_state(weights_path), weights_path)
    return classifier.eval()


def load_frozen(folder: Path, device: str) -> Classifier:
    """The classifier of a folder on a device, for inference: evaluation mode, no gradient for its parameters.

    Raises:
        ModelError: See `load_classifier`.
    """
    return load_classifier(folder).to(device).requires_grad_(False)


def _load_backbone(classifier: Classifier, path: Path, *, head_name: str) -> None:
    """Starts from a state dict of the bare architecture or of one of our folders.

    The head is taken over when it has the right number of classes (an ERM checkpoint), and left random
    otherwise (ImageNet's thousand).
    """
    state = {name.removeprefix("module."): tensor for name, tensor in _read_state(path).items()}
    if not any(name.startswith("backbone.") for name in state):
        renamed = {}
        for name, tensor in state.items():
            is_head = name.startswith(f"{head_name}.")
            renamed[name.replace(head_name, "head", 1) if is_head else f"backbone.{name}"] = tensor
        state = renamed
    own = classifier.state_dict()
    if "head.weight" not in state or state["head.weight"].shape != own["head.weight"].shape:
        state |= {name: own[name] for name in ("head.weight", "head.bias")}
    _load_strictly(classifier, without_auxiliary(state, own), path)


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file. Give 'imagenet' or the path of a .safetensors or .pth file") from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors, never loaded; save the model's state_dict() as .safetensors"
        ) from error
    except (OSError, safetensors.SafetensorError, RuntimeError, EOFError, KeyError) as error:
        raise ModelError(f"{path} is damaged or not a weights file: {error}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path} is not a state dict (a mapping of names to tensors)")
    return dict(state)


def _load_strictly(classifier: Classifier, state: Mapping[str, torch.Tensor], path: Path) -> None:
    try:
        classifier.load_state_dict(state)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ModelError(
            f"{path} does not fit {classifier.config.architecture} with {classifier.num_classes} classes:\n"
            + "\n".join(lines[1:4])
        ) from error
