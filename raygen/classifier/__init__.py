"""The image classifier: a small ResNet for 64 px scenes, torchvision's by name, timm's, transformers', and one's own.

Every classifier is a backbone that gives features and a linear head. Normalisation is inside `forward`, so
that callers (CAM, attribution, prediction) deal in pictures with values in [0, 1] only. This file builds,
saves and loads; fitting is in `raygen.algorithms`.
"""

from raygen.classifier.building import build_classifier, take_weights
from raygen.classifier.checks import MapUse, check_classifier, shape_of
from raygen.classifier.config import ClassifierConfig, weights_file
from raygen.classifier.model import Classifier
from raygen.classifier.saving import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    load_classifier,
    load_frozen,
    save_classifier,
)

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "Classifier",
    "ClassifierConfig",
    "MapUse",
    "build_classifier",
    "check_classifier",
    "load_classifier",
    "load_frozen",
    "save_classifier",
    "shape_of",
    "take_weights",
    "weights_file",
]
