"""A model's files: where they are, what they hash to, and errors that say what is wrong with them.

For everything that is loaded from a folder in Hugging Face layout or from the hub. Nothing here loads a model.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from raygen.errors import ModelError, unreadable
from raygen.model_files.hub import nearby

# The models that ship with the package, trained by `python -m raygen.tiny.train`.
TINY = "tiny"
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class FoundModel:
    """A model that was looked for: the shipped one, a folder, or a hub id.

    Attributes:
        asked: What the config calls it.
        asked_revision: What the config says of a hub id's revision.
        folder: Where the model is; None: the hub has it, or its cache.
        is_shipped: Whether it comes with the package.
    """

    asked: str
    asked_revision: str | None
    folder: Path | None
    is_shipped: bool = False

    @property
    def name(self) -> str:
        """What loaders take: the folder, or the hub id."""
        return self.asked if self.folder is None else str(self.folder)

    @property
    def for_workers(self) -> str:
        """The folder in full: workers have another directory, and the shipped model of their own; or the hub id."""
        return self.asked if self.folder is None or self.is_shipped else str(self.folder.resolve())

    @cached_property
    def revision(self) -> str | None:
        """Hash of the folder, or what the config says of a hub id."""
        return self.asked_revision if self.folder is None else model_revision(self.folder)


def find_model(model: str, *, revision: str | None = None, tiny: str | None) -> FoundModel:
    """Decides what a model's name means.

    Args:
        model: "tiny", a folder, or a hub id.
        revision: Of a hub id.
        tiny: Folder of the shipped model of this kind in `raygen/tiny`; None if there is none.

    Raises:
        ModelError: The name is none of these.
    """
    if model == TINY and tiny is not None:
        return FoundModel(model, revision, Path(str(resources.files("raygen.tiny") / tiny)), is_shipped=True)
    path = Path(model).expanduser()
    if path.is_dir():
        return FoundModel(model, revision, path)
    if path.exists() or path.is_absolute() or model.startswith((".", "~")) or model.count("/") != 1:
        shipped = "" if tiny is None else f" nor '{TINY}'"
        what = "is a file" if path.exists() else f"does not exist; {nearby(path)}"
        raise ModelError(
            f"model '{model}' is neither a folder nor a hub id (owner/name){shipped}: {path.absolute()} {what}"
        )
    return FoundModel(model, revision, None)


def model_revision(folder: Path) -> str:
    """Hash of a local model: its configs, and each weight file's size, first and last MiB; 16 hex digits.

    The ends of a safetensors file hold its table of contents and its last tensor; reading whole files would take
    half a minute for Stable Diffusion.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".json", ".safetensors", ".txt"} or not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            if size > _SAMPLE_BYTES:
                file.seek(max(_SAMPLE_BYTES, size - _SAMPLE_BYTES))
                digest.update(file.read())
    return digest.hexdigest()[:16]


def read_json(path: Path, folder: Path, *, layout: str) -> dict[str, Any]:
    """A JSON object in a model's folder.

    Args:
        path: The file.
        folder: The model's folder, for messages.
        layout: Whose layout the folder should have, for messages: "diffusers" or "transformers".

    Raises:
        ModelError: The file is absent or damaged.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no {path.relative_to(folder)}; not a {layout} model folder") from error
    except (ValueError, OSError) as error:
        raise ModelError(unreadable(path, error, "Fetch it again.")) from error
    if not isinstance(data, dict):
        raise ModelError(f"{path} is damaged: expected a JSON object")
    return dict(data)


def check_safetensors(path: Path) -> None:
    """Checks that a weights file is whole, by its table of contents and its size; no tensor is read.

    Raises:
        ModelError: It is cut off or something else: git-lfs's pointer to the file, a web page.
    """
    try:
        with safe_open(path, framework="numpy"):
            return
    except PermissionError as error:
        raise ModelError(unreadable(path, error, "")) from error
    except (OSError, SafetensorError) as error:
        if not os.access(path, os.R_OK):  # safetensors calls that a file that is not there
            raise ModelError(unreadable(path, PermissionError(), "")) from error
        with path.open("rb") as file:
            begin = file.read(64)
        kind = "is cut off or damaged"
        if begin.startswith(b"version https://git-lfs"):
            kind = "is git-lfs's pointer to the weights, not the weights (`git lfs pull` fetches them)"
        elif begin.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"{")):
            kind = "is a page of a web site, not weights"
        size = path.stat().st_size
        raise ModelError(f"{path} {kind}: {size:,} bytes, {error}. Fetch the file again.") from error


@contextlib.contextmanager
def load_errors(name: str, *, what: str) -> Iterator[None]:
    """Turns what Hugging Face's loaders raise into a ModelError.

    Args:
        name: Folder or hub id.
        what: What it was to be loaded as, such as "an inpainting pipeline".
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"model '{name}' cannot be loaded as {what}: {error}. Give a local folder in Hugging Face layout, or a hub "
            "id that this machine can reach."
        ) from error
