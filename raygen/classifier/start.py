"""A classifier that somebody brings: a fit's folder, a folder of transformers, or a file of weights; taken as it is."""

# C classes

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from raygen.classifier.architectures import IMAGENET
from raygen.classifier.building import build, load_strictly, take_weights
from raygen.classifier.config import HF, ClassifierConfig
from raygen.classifier.model import Classifier
from raygen.classifier.networks import LogitsOf, model_folder
from raygen.classifier.preprocessing import with_own_framing
from raygen.classifier.saving import CONFIG_FILE, WEIGHTS_FILE
from raygen.classifier.state_dicts import read_state
from raygen.errors import ConfigError, DataError, ModelError
from raygen.model_files import load_errors, model_revision
from raygen.model_files.hub import MODEL_INDEX, nearby
from raygen.storage.run_folder import file_digest

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")


def start_kind(start: str) -> Literal["fit", "hf", "weights"]:
    """What somebody's classifier is.

    Args:
        start: A folder that a fit wrote, or its model.safetensors; a folder or hub id of transformers; or a file of
            weights.

    Raises:
        ModelError: None of these.
    """
    path = Path(start.removeprefix(HF)).expanduser()
    if path.is_dir():
        if (path / CONFIG_FILE).is_file():
            return "fit"
        if (path / MODEL_INDEX).is_file():
            return "hf"
        what = "is not a classifier folder"
        if (path / WEIGHTS_FILE).is_file() or (path / "history.json").is_file():
            raise ModelError(f"{path} {what}: {CONFIG_FILE} is missing. Was the fit interrupted?")
        raise ModelError(
            f"{path} {what}: it has neither {CONFIG_FILE}, which a fit writes, nor {MODEL_INDEX}, which transformers' "
            "save_pretrained does"
        )
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise ModelError(f"{path} is no file of weights; expected one that ends with {', '.join(SUFFIXES)}")
        is_of_fit = path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file()
        return "fit" if is_of_fit else "weights"
    if start.startswith(HF) and start.count("/") == 1 and not path.is_absolute():
        return "hf"
    raise ModelError(
        f"{path.absolute()} does not exist; {nearby(path)}. Give a classifier folder, such as runs/demo/fit/dbb, a "
        f"file of weights, a folder of transformers, or {HF}OWNER/NAME for one of the hub"
    )


def with_start(fields: Mapping[str, Any], start: str) -> tuple[dict[str, Any], str]:
    """A classifier's config as it was given, with what somebody's classifier says of itself, and where that is in full.

    Args:
        fields: Fields of `ClassifierConfig` as they were given, not checked yet.
        start: See `start_kind`.

    Raises:
        ConfigError: What was given contradicts it.
        ModelError: It is not there, or damaged.
    """
    kind, path = start_kind(start), Path(start.removeprefix(HF)).expanduser()
    if kind == "weights":
        if fields.get("architecture") is None:
            raise ConfigError(
                f"{start} is a file of weights, which does not say of what network; name it, such as --set "
                "classifier.architecture=resnet50 --set classifier.image_size_px=224 (or timm:NAME, hf:FOLDER, "
                "MODULE:FUNCTION)"
            )
        return with_own_framing(fields), str(path.absolute())
    if kind == "hf":
        name = f"{HF}{path.absolute()}" if path.is_dir() else start
        given = fields.get("architecture")
        if given is not None and str(given).removeprefix(HF) not in (start.removeprefix(HF), name.removeprefix(HF)):
            raise ConfigError(
                f"classifier.architecture is {given}, and {start} is a model of transformers, which says itself what "
                "it is; leave architecture out"
            )
        return with_own_framing({**fields, "architecture": name}), name
    folder = path if path.is_dir() else path.parent
    own = _saved_fields(folder)
    own.pop("weights", None) if own.get("weights") != IMAGENET else None
    for name in ("architecture", "width", "head"):
        if fields.get(name) is not None and fields[name] != own.get(name, fields[name]):
            raise ConfigError(
                f"classifier.{name} is {fields[name]}, and {folder} holds a classifier with {own.get(name)}; leave "
                "it out"
            )
    return {**own, **{name: value for name, value in fields.items() if value is not None}}, str(folder.absolute())


def open_start(config: ClassifierConfig, start: str, class_names: Sequence[str]) -> Classifier:
    """Somebody's classifier for a dataset's classes, all of its weights as they are; in evaluation mode on the CPU.

    Where a model of transformers names the dataset's classes in another order, its last layer is put into that order.

    Args:
        config: Its network; see `with_start`.
        start: See `start_kind`.
        class_names: Of the dataset.

    Raises:
        ModelError: It cannot be read, or is of another network.
        DataError: It tells another number of classes apart.
    """
    kind, path = start_kind(start), Path(start.removeprefix(HF)).expanduser()
    num_classes = len(class_names)
    if kind == "fit":
        folder = path if path.is_dir() else path.parent
        saved = _saved(folder)
        if int(saved["num_classes"]) != num_classes:
            raise _other_classes(start, int(saved["num_classes"]), None, class_names)
        classifier, _ = _built(config, num_classes, description=saved.get("network"))
        load_strictly(classifier, read_state(folder / WEIGHTS_FILE), folder / WEIGHTS_FILE)
    elif kind == "hf":
        classifier = _of_transformers(config, start, class_names)
    else:
        # Weights of published models are not needed: these replace all of them.
        classifier, head_name = _built(config, num_classes)
        if not take_weights(classifier, path, head_name=head_name):
            raise _other_classes(start, _rows_of_head(path, head_name), None, class_names)
    classifier.config = config
    return classifier.to(memory_format=torch.channels_last).eval()


def start_digest(start: str) -> str | None:
    """Hash of somebody's classifier; None for one of the hub."""
    kind, path = start_kind(start), Path(start.removeprefix(HF)).expanduser()
    if kind == "hf":
        return model_revision(path) if path.is_dir() else None
    file = path / WEIGHTS_FILE if path.is_dir() else path
    return file_digest(file)


def network_digest(config: ClassifierConfig) -> str | None:
    """Hash of the folder of a model of transformers, its weights too; None for one of the hub."""
    path = Path(config.architecture.removeprefix(HF))
    return model_revision(path) if path.is_dir() else None


def _built(
    config: ClassifierConfig, num_classes: int, description: Mapping[str, Any] | None = None
) -> tuple[Classifier, str]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return build(config.model_copy(update={"weights": None}), num_classes, description=description)


def _of_transformers(config: ClassifierConfig, start: str, class_names: Sequence[str]) -> Classifier:
    from transformers import AutoConfig

    with load_errors(start, what="an image classifier"):
        published = AutoConfig.from_pretrained(model_folder(start.removeprefix(HF)))
    named = {int(number): str(name) for number, name in (published.id2label or {}).items()}
    names = tuple(named[number] for number in sorted(named))
    if int(published.num_labels) != len(class_names):
        raise _other_classes(start, int(published.num_labels), names, class_names)
    classifier, _ = _built(config, len(class_names))
    if isinstance(classifier.backbone, LogitsOf) and (missing := classifier.backbone.missing):
        raise ModelError(
            f"{start} is no fitted classifier: its weights lack {', '.join(missing[:5])}, which would be random numbers"
        )
    lower = [name.strip().lower() for name in names]
    wanted = [name.strip().lower() for name in class_names]
    if lower != wanted and sorted(lower) == sorted(wanted) and len({*lower}) == len(lower):
        order = torch.tensor([lower.index(name) for name in wanted])
        with torch.no_grad():
            classifier.head.weight.copy_(classifier.head.weight[order].clone())
            classifier.head.bias.copy_(classifier.head.bias[order].clone())
    return classifier


def _other_classes(start: str, num: int | None, names: Sequence[str] | None, class_names: Sequence[str]) -> DataError:
    count = "another number of" if num is None else str(num)
    shown = "" if names is None else f" ({', '.join(names[:20])}{', …' if len(names) > 20 else ''})"
    return DataError(
        f"{start} tells {count} classes{shown} apart, and the dataset has {len(class_names)} ({', '.join(class_names)})"
        "; accuracies would be of other classes than it knows. Give the dataset that it was fitted on, or one with the "
        "same classes in the same order"
    )


def _rows_of_head(path: Path, head_name: str) -> int | None:
    """Classes of a file's last layer; None where it has none by that name."""
    state = read_state(path)
    found = [tensor for name, tensor in state.items() if name.endswith((f"{head_name}.weight", "head.weight"))]
    return int(found[-1].shape[0]) if found else None


def _saved(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        return {"num_classes": int(saved["num_classes"]), "config": dict(saved["config"]), **saved}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error


def _saved_fields(folder: Path) -> dict[str, Any]:
    return dict(_saved(folder)["config"])
