"""A classifier as a folder of Hugging Face's transformers, where it has the same network."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raygen.classifier import Classifier
from raygen.classifier.framing import Frame
from raygen.errors import ModelError
from raygen.exports.networks import PlainNetwork, check_same_logits, plain_network

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
    from transformers import ResNetForImageClassification

    name = classifier.config.architecture
    if name not in RESNETS:
        raise ModelError(
            f"transformers has no network like {name}; take --format safetensors. As its folders can be written: "
            f"{', '.join(RESNETS)}"
        )
    model = ResNetForImageClassification(_resnet_config(name, class_names)).eval()
    model.load_state_dict(_resnet_state(plain_network(classifier)))
    check_same_logits(classifier, lambda images_NCHW: model(images_NCHW).logits, what=f"{name} of transformers")
    model.save_pretrained(folder)
    _processor(classifier).save_pretrained(folder)


def _resnet_config(name: str, class_names: Sequence[str]) -> Any:
    from transformers import ResNetConfig

    depths, kind = RESNETS[name]
    width = 64 if kind == "basic" else 256
    return ResNetConfig(
        depths=list(depths),
        hidden_sizes=[width * 2**stage for stage in range(4)],
        layer_type=kind,
        embedding_size=64,
        id2label=dict(enumerate(class_names)),
        label2id={class_name: label for label, class_name in enumerate(class_names)},
        architectures=["ResNetForImageClassification"],
    )


def _resnet_state(plain: PlainNetwork) -> dict[str, Any]:
    return {_resnet_name(name): tensor for name, tensor in plain.state.items()}


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
        "resample": 2,  # bilinear
    }
    if frame.framing == "squash":
        return ViTImageProcessor(size=square, **common)
    crop = {"height": frame.size_px, "width": frame.size_px}
    return BitImageProcessor(size=square, crop_size=crop, do_center_crop=True, **common)
