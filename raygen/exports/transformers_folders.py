"""A classifier as a folder of Hugging Face's transformers, where it has the same network."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from raygen.classifier import Classifier
from raygen.classifier.framing import Frame
from raygen.classifier.networks import describe
from raygen.errors import ModelError
from raygen.exports.networks import bare_state, check_same_logits, plain_network

# Blocks of each stage, and their kind, of torchvision's ResNets: He et al. 2016 (arXiv 1512.03385), table 1.
RESNETS = {
    "resnet18": ((2, 2, 2, 2), "basic"),
    "resnet34": ((3, 4, 6, 3), "basic"),
    "resnet50": ((3, 4, 6, 3), "bottleneck"),
    "resnet101": ((3, 4, 23, 3), "bottleneck"),
    "resnet152": ((3, 8, 36, 3), "bottleneck"),
}
# Names of torchvision's ResNet, and transformers' for the same layers.
_BLOCK = r"^layer(?P<stage>\d)\.(?P<layer>\d+)\."
_STEM = "resnet.embedder.embedder"


def write_transformers_folder(classifier: Classifier, folder: Path, *, class_names: Sequence[str]) -> None:
    """Writes what `AutoModelForImageClassification` and `AutoImageProcessor` read.

    Args:
        classifier: In evaluation mode, on the CPU.
        folder: An existing folder.
        class_names: One per class.

    Raises:
        ModelError: transformers has no such network.
    """
    if classifier.config.kind == "hf":
        model = _own_model(classifier, class_names)
    elif classifier.config.architecture in RESNETS:
        model = _resnet(classifier, class_names)
    else:
        raise ModelError(
            f"transformers has no network like {classifier.config.architecture}; take --format safetensors. As its "
            f"folders can be written: {', '.join(RESNETS)}, and what came from such a folder"
        )
    check_same_logits(classifier, lambda images_NCHW: model(images_NCHW).logits, what="the model of transformers")
    model.save_pretrained(folder)
    _processor(classifier).save_pretrained(folder)


def _own_model(classifier: Classifier, class_names: Sequence[str]) -> Any:
    """A model of transformers with the weights that it has after a fit."""
    from transformers import AutoConfig, AutoModelForImageClassification

    fields = dict(describe(classifier.backbone) or {})
    config = AutoConfig.for_model(fields.pop("model_type"), **{**fields, **_labels(class_names)})
    model = AutoModelForImageClassification.from_config(config).eval()
    model.load_state_dict(bare_state(classifier))
    return model


def _resnet(classifier: Classifier, class_names: Sequence[str]) -> Any:
    from transformers import ResNetForImageClassification

    model = ResNetForImageClassification(_resnet_config(classifier.config.architecture, class_names)).eval()
    model.load_state_dict({_resnet_name(name): tensor for name, tensor in plain_network(classifier).state.items()})
    return model


def _labels(class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(class_names)),
        "label2id": {class_name: label for label, class_name in enumerate(class_names)},
    }


def _resnet_config(name: str, class_names: Sequence[str]) -> Any:
    from transformers import ResNetConfig

    depths, kind = RESNETS[name]
    width = 64 if kind == "basic" else 256
    return ResNetConfig(
        depths=list(depths),
        hidden_sizes=[width * 2**stage for stage in range(4)],
        layer_type=kind,
        embedding_size=64,
        **_labels(class_names),
        architectures=["ResNetForImageClassification"],
    )


def _resnet_name(name: str) -> str:
    name = re.sub(r"^fc\.", "classifier.1.", name)
    name = re.sub(r"^conv1\.", f"{_STEM}.convolution.", name)
    name = re.sub(r"^bn1\.", f"{_STEM}.normalization.", name)

    def block(match: re.Match[str]) -> str:
        return f"resnet.encoder.stages.{int(match['stage']) - 1}.layers.{match['layer']}."

    name = re.sub(_BLOCK, block, name)
    name = re.sub(r"\.downsample\.0\.", ".shortcut.convolution.", name)
    name = re.sub(r"\.downsample\.1\.", ".shortcut.normalization.", name)
    name = re.sub(r"\.conv(\d)\.", lambda found: f".layer.{int(found[1]) - 1}.convolution.", name)
    return re.sub(r"\.bn(\d)\.", lambda found: f".layer.{int(found[1]) - 1}.normalization.", name)


def _processor(classifier: Classifier) -> Any:
    """How transformers brings a picture into the classifier's square."""
    from transformers import BitImageProcessor, ViTImageProcessor

    frame: Frame = classifier.frame
    square = {"height": frame.whole_px, "width": frame.whole_px}
    common = {
        "image_mean": classifier.mean_C11.flatten().tolist(),
        "image_std": classifier.std_C11.flatten().tolist(),
        "resample": Image.Resampling[frame.interpolation.upper()],
    }
    if frame.framing == "squash":
        return ViTImageProcessor(size=square, **common)
    crop = {"height": frame.size_px, "width": frame.size_px}
    size = {"shortest_edge": frame.whole_px} if frame.framing == "center_crop" else square
    return BitImageProcessor(size=size, crop_size=crop, do_center_crop=True, **common)
