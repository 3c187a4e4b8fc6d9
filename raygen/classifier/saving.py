"""A classifier as a folder: `model.safetensors`, then `classifier.json`."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import ValidationError

from raygen.classifier.building import build_classifier, load_strictly
from raygen.classifier.config import ClassifierConfig
from raygen.classifier.model import Classifier
from raygen.classifier.networks import describe
from raygen.classifier.state_dicts import read_state
from raygen.errors import ModelError
from raygen.storage.writing import write_bytes, write_json

CONFIG_FILE = "classifier.json"
WEIGHTS_FILE = "model.safetensors"


def save_classifier(classifier: Classifier, folder: Path) -> None:
    """Writes `model.safetensors`, then `classifier.json`; a folder without the latter is unfinished."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    # As bytes, so that a full disk is an OSError with its number: safetensors' own writer hides it.
    write_bytes(folder / WEIGHTS_FILE, safetensors.torch.save(state))
    about = {"config": classifier.config.deciding(), "num_classes": classifier.num_classes}
    if (description := describe(classifier.backbone)) is not None:
        about["network"] = description
    write_json(folder / CONFIG_FILE, about)


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
        num_classes, description = int(saved["num_classes"]), saved.get("network")
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise ModelError(f"{config_path} is damaged: {error}") from error
    without = config.model_copy(update={"weights": None})
    classifier = build_classifier(without, num_classes, seed=0, description=description)
    classifier.config = config
    load_strictly(classifier, read_state(weights_path), weights_path)
    return classifier.eval()


def load_frozen(folder: Path, device: str) -> Classifier:
    """The classifier of a folder on a device, for inference: evaluation mode, no gradient for its parameters.

    Raises:
        ModelError: See `load_classifier`.
    """
    return load_classifier(folder).to(device).requires_grad_(False)
