"""A classifier as a folder of Hugging Face's transformers, where it has the same network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from raygen.classifier import Classifier
from raygen.classifier.framing import Frame
from raygen.classifier.networks import describe
from raygen.errors import ModelError
from raygen.exports.networks import bare_state, check_same_logits
from raygen.exports.transformers_networks import TransformersNetwork, transformers_network


def write_transformers_folder(classifier: Classifier, folder: Path, *, class_names: Sequence[str]) -> None:
    """Writes what `AutoModelForImageClassification` and `AutoImageProcessor` read.

    Args:
        classifier: In evaluation mode, on the CPU.
        folder: An existing folder.
        class_names: One per class.

    Raises:
        ModelError: transformers has no such network.
    """
    model = _model(classifier, class_names)
    check_same_logits(classifier, lambda images_NCHW: model(images_NCHW).logits, what="the model of transformers")
    model.save_pretrained(folder)
    _processor(classifier).save_pretrained(folder)


def _model(classifier: Classifier, class_names: Sequence[str]) -> Any:
    from transformers import AutoConfig, AutoModelForImageClassification

    config = classifier.config
    if config.kind == "hf":  # its own model, with the weights that it has after a fit
        fields = dict(describe(classifier.backbone) or {})
        model_type, state = fields.pop("model_type"), bare_state(classifier)
    else:
        network = _torchvisions(classifier) if config.kind == "torchvision" else None
        if network is None:
            raise ModelError(
                f"transformers has no network like {config.architecture}; take --format safetensors. As its folders "
                "can be written: ResNet, ViT and ConvNeXt of torchvision, and what came from such a folder"
            )
        model_type, fields, state = network.model_type, dict(network.fields), dict(network.state)
    described = AutoConfig.for_model(model_type, **{**fields, **_labels(class_names)})
    model = AutoModelForImageClassification.from_config(described).eval()
    model.load_state_dict(state)
    return model


def _torchvisions(classifier: Classifier) -> TransformersNetwork | None:
    config = classifier.config
    return transformers_network(config.architecture, bare_state(classifier), size_px=config.image_size_px)


def _labels(class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(class_names)),
        "label2id": {class_name: label for label, class_name in enumerate(class_names)},
    }


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
    size = {"shortest_edge": frame.whole_px} if frame.resizing.takes_middle else square
    return BitImageProcessor(size=size, crop_size=crop, do_center_crop=True, **common)
