"""What every classifier is: a backbone that gives features, and a linear head, over pictures in [0, 1]."""

# N images, H height, W width, C classes or colour channels, D features

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from raygen.classifier.architectures import last_map, with_format_version
from raygen.classifier.config import IMAGENET_MEAN, IMAGENET_STD, ClassifierConfig
from raygen.classifier.framing import Frame
from raygen.classifier.networks import LogitsOf
from raygen.classifier.spatial_map import SpatialMap, find_map


class Classifier(nn.Module):
    """Backbone and linear head over pictures in [0, 1].

    Attributes:
        config: What it was built from.
        num_classes: C.
        class_names: What a published model calls its classes, in order; None where it does not say.
    """

    class_names: tuple[str, ...] | None = None
    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __init__(self, config: ClassifierConfig, backbone: nn.Module, *, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        self.backbone = backbone
        self.head = nn.Linear(num_features, num_classes)
        self.register_buffer("mean_C11", torch.tensor(config.mean or IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std_C11", torch.tensor(config.std or IMAGENET_STD).view(3, 1, 1), persistent=False)
        self._map: SpatialMap | None = None

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
        """The layer that class activation maps are drawn from: the last block with a map, `layer4[-1]` of a ResNet.

        Raises:
            ModelError: The architecture has none, or not the one that `classifier.cam_layer` names.
        """
        layer = last_map(self.backbone) if self._knows_its_map else None
        return self.spatial_map().layer if layer is None else layer

    @property
    def to_map(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """How what that layer gives becomes a map, (N, D, h, w), such as a transformer's tokens; None: it is one."""
        is_map = self._knows_its_map and last_map(self.backbone) is not None
        return None if is_map else self.spatial_map().to_map

    @property
    def _knows_its_map(self) -> bool:
        return not self.config.is_own and self.config.cam_layer is None

    def spatial_map(self) -> SpatialMap:
        """Where its map is, asked of it: whatever its layers are called.

        Raises:
            ModelError: Nowhere.
        """
        if self._map is None:
            was_training = self.training
            # The names in files and messages are those of the bare network.
            backbone = self.backbone.model if isinstance(self.backbone, LogitsOf) else self.backbone
            self._map = find_map(
                backbone,
                self.features,
                size_px=self.config.image_size_px,
                named=self.config.cam_layer,
                architecture=self.config.architecture,
            )
            self.train(was_training)
        return self._map

    def __deepcopy__(self, memo: dict[int, Any]) -> "Classifier":
        """A copy that looks for its own map: the layer found is one of this network."""
        kept, self._map = self._map, None
        try:
            made: Classifier = self.__class__.__new__(self.__class__)
            memo[id(self)] = made
            made.__dict__.update(copy.deepcopy(self.__dict__, memo))
            return made
        finally:
            self._map = kept
