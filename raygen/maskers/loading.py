"""Models that maskers take from transformers: what is in their folders, and how they are loaded."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch

from raygen.errors import ConfigError, ModelError
from raygen.model_files import FoundModel, check_safetensors, load_errors, read_json
from raygen.model_files.hub import MODEL_INDEX, check_loadable, loadable

Dtype = Literal["float32", "float16", "bfloat16"]
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def check_model(found: FoundModel, *, kinds: Collection[str], what: str, field: str) -> None:
    """Checks a model before any work: its folder, or what the cache or the hub have of a hub id.

    Args:
        found: The model.
        kinds: The `model_type`s that will do.
        what: What it is to be loaded as, such as "a CLIPSeg model".
        field: The config's field that names it.

    Raises:
        ModelError: See `check_folder` and `raygen.model_files.hub.check_loadable`.
    """

    def check(folder: Path, is_whole: bool) -> None:
        if is_whole:
            check_folder(str(folder), kinds=kinds, what=what)
        else:
            check_kind(_kind(folder), found.name, kinds=kinds, what=what)

    check_loadable(found.name, found.asked_revision, index=MODEL_INDEX, field=field, check=check)


def check_folder(name: str, *, kinds: Collection[str], what: str) -> None:
    """Checks a local model; of a hub id nothing is known before it is loaded.

    Args:
        name: Folder or hub id, see `find_model`.
        kinds: The `model_type`s that will do.
        what: What it is to be loaded as, such as "a CLIPSeg model".

    Raises:
        ModelError: A file is missing, or the folder holds another kind of model.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    check_kind(_kind(folder), name, kinds=kinds, what=what)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{folder}: no .safetensors file; weights in other formats are not loaded (pickle)")
    for path in weights:
        check_safetensors(path)
    if not any((folder / file).is_file() for file in _PROCESSOR_FILES):
        raise ModelError(f"{folder}: neither {' nor '.join(_PROCESSOR_FILES)}; the folder is incomplete, copy it again")


def _kind(folder: Path) -> str:
    return str(read_json(folder / MODEL_INDEX, folder, layout="transformers").get("model_type"))


def check_kind(kind: str, name: str, *, kinds: Collection[str], what: str) -> None:
    """Raises a ModelError if a model's `model_type` is none of `kinds`."""
    if kind not in kinds:
        raise ModelError(
            f"model '{name}' is of type '{kind}', which cannot be used as {what}; expected {' or '.join(sorted(kinds))}"
        )


def checked_kind(name: str, *, revision: str | None, kinds: Collection[str], what: str) -> str:
    """The `model_type` of a model, a local one's files or a hub id's config checked; see `check_folder`."""
    from transformers import AutoConfig

    check_folder(name, kinds=kinds, what=what)
    kind = str(load_processor(AutoConfig, name, revision=revision, what=what).model_type)
    check_kind(kind, name, kinds=kinds, what=what)
    return kind


def load_model(loader: Any, name: str, *, revision: str | None, dtype: Dtype, device: str, what: str) -> Any:
    """A model in evaluation mode, without gradients.

    Args:
        loader: The model's class, or one of transformers' Auto classes.
        name: Folder or hub id.
        revision: Of a hub id.
        dtype: Of the weights.
        device: "cpu" or "cuda".
        what: What it is loaded as, for messages.

    Raises:
        ModelError: It cannot be loaded, or its files lack weights, which would stay random.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    with load_errors(name, what=what):
        model, info = loader.from_pretrained(
            loadable(name, revision),
            revision=revision,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            output_loading_info=True,
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"model '{name}' cannot be loaded as {what}: its files lack {len(missing)} weights, such as {missing[0]}"
        )
    return model.to(device).eval().requires_grad_(False)


def load_processor(loader: Any, name: str, *, revision: str | None, what: str) -> Any:
    """A model's processor.

    Raises:
        ModelError: It cannot be loaded.
    """
    with load_errors(name, what=what):
        return loader.from_pretrained(loadable(name, revision), revision=revision)


def check_length(text: str, num_tokens: int, limit: int) -> None:
    """Raises a ConfigError if a text does not fit a model, which would cut it without a word."""
    if num_tokens > limit:
        raise ConfigError(
            f"the object text '{text}' is {num_tokens} tokens long, but the model reads {limit}; shorten "
            "synthesis.language.text"
        )
