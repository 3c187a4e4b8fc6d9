"""A run's classifier -> a folder that torch, torchvision and safetensors, or transformers, load without raygen."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch

import raygen
from raygen.classifier import CONFIG_FILE, WEIGHTS_FILE, Classifier, load_classifier
from raygen.config import dump_yaml, fingerprint
from raygen.datasets.table import read_info
from raygen.errors import RunFolderError
from raygen.exports.loading_code import loading_code, transformers_code
from raygen.exports.networks import plain_network
from raygen.exports.transformers_folders import write_transformers_folder
from raygen.report.collect import load_config, summarize
from raygen.storage.destinations import open_destination
from raygen.storage.run_folder import file_digest

ClassifierFormat = Literal["safetensors", "hf"]
ABOUT_FILE, CARD_FILE = "config.json", "README.md"


def export_classifier(run: Path, name: str, *, to: str, format: ClassifierFormat) -> str:
    """Writes one of a run's classifiers.

    Args:
        run: The run's folder.
        name: The fit, as in summary.json: "erm", a recipe, or a control.
        to: Path or URL of a new or empty folder.
        format: "safetensors": model.safetensors by the names of the library that made the network, and config.json.
            "hf": a folder of transformers.

    Returns:
        Where it is.

    Raises:
        RunFolderError: Not a run's folder, or no such fit in it.
        ModelError: The classifier is damaged, or its network cannot be had in that format.
        DataError: The folder is not empty.
        ResourceError: It cannot be reached or written to.
    """
    config, folder = load_config(run), _fit_folder(run, name)
    classifier, class_names = load_classifier(folder), read_info(run / "data").class_names
    key = fingerprint([format, raygen.__version__, file_digest(folder / WEIGHTS_FILE)])
    with tempfile.TemporaryDirectory(prefix="raygen-") as made:
        if format == "hf":
            write_transformers_folder(classifier, Path(made), class_names=class_names)
            code = transformers_code()
        else:
            library = _write_plain(classifier, Path(made), class_names=class_names)
            code = loading_code(library)
        card = _card(run, config, name, classifier, class_names=class_names, format=format, code=code)
        (Path(made) / CARD_FILE).write_text(card, encoding="utf-8")
        destination = open_destination(to, key=key)
        for path in sorted(Path(made).iterdir()):
            destination.write(path.name, path.read_bytes())
    destination.finish()
    return destination.address


def _fit_folder(run: Path, name: str) -> Path:
    names = ["erm", *sorted(path.parent.name for path in (run / "fit").glob(f"*/{CONFIG_FILE}"))]
    if name not in names or not (run / "erm" / CONFIG_FILE).is_file():
        found = [each for each in names if each != "erm" or (run / "erm" / CONFIG_FILE).is_file()]
        raise RunFolderError(f"{run} has no finished fit '{name}'; it has {', '.join(found) or 'none'}")
    return run / "erm" if name == "erm" else run / "fit" / name


def _write_plain(classifier: Classifier, folder: Path, *, class_names: tuple[str, ...]) -> str:
    """Writes weights, config and source; gives back whose network it is."""
    plain, frame = plain_network(classifier), classifier.frame
    about: dict[str, Any] = {
        "library": plain.library,
        "architecture": plain.architecture,
        "arguments": dict(plain.arguments),
        "class_names": list(class_names),
        # Height and width, or the shorter side.
        "resize": frame.whole_px if frame.resizing.takes_middle else [frame.whole_px, frame.whole_px],
        "interpolation": frame.interpolation,
        "crop": frame.size_px,
        "mean": classifier.mean_C11.flatten().tolist(),
        "std": classifier.std_C11.flatten().tolist(),
    }
    safetensors.torch.save_file(plain.state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for file_name, data in plain.files.items():
        (folder / file_name).write_bytes(data)
    return plain.library


def _card(
    run: Path,
    config: Mapping[str, Any],
    name: str,
    classifier: Classifier,
    *,
    class_names: tuple[str, ...],
    format: ClassifierFormat,
    code: str,
) -> str:
    header = {
        "library_name": "transformers" if format == "hf" else "pytorch",
        "pipeline_tag": "image-classification",
        "tags": ["raygen", "spurious-correlations"],
    }
    info = read_info(run / "data")
    lines = [
        f"---\n{dump_yaml(header)}---\n",
        f"# {classifier.config.architecture} on {info.name}, by {name}\n",
        f"Fitted by raygen {raygen.__version__}: recipe `{config['recipe']}`, fit `{name}`, seed {config.get('seed')}. "
        f"Classes: {', '.join(f'`{each}`' for each in class_names)}. The licences of the weights that it started "
        "from and of the pictures that it was fitted on hold for it too; raygen checks none.\n",
        *_accuracies(run, name),
        "## Load it\n\nIn this folder, with a picture beside:\n",
        f"```python\n{code}```",
    ]
    return "\n".join(lines) + "\n"


def _accuracies(run: Path, name: str) -> Iterator[str]:
    """A table of what the run measured; nothing where it has not evaluated the fit."""
    try:
        found = summarize(run)["results"]
    except RunFolderError:  # not evaluated yet
        return
    yield "| fit | split | average | worst group | images |\n| --- | --- | --- | --- | --- |"
    for result in dict.fromkeys(["erm", name]):
        for split, entry in found.get(result, {}).items():
            images = sum(group["n"] for group in entry["groups"])
            yield f"| {result} | {split} | {entry['average']:.1%} | {entry['worst_group']:.1%} | {images:,} |"
    yield "\nGroups are pairs of a class and a spurious attribute, where the dataset has attributes, else classes.\n"
