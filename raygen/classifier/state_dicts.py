"""Files of weights: read without pickle, and taken over whatever wrapped their names."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from raygen.errors import ModelError

# What training scripts and Lightning call the state dict in their checkpoints; the averaged weights last, since the
# others are those that were fitted.
HOLDERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights", "params", "state_dict_ema")
# What torch.compile puts into names, anywhere.
COMPILED = "_orig_mod."


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, as the file names them.

    A .safetensors file, or one of torch's with tensors and plain data alone. Of a checkpoint that has more in it, the
    state dict (`HOLDERS`).

    Raises:
        ModelError: No such file, a damaged one, or one that holds objects, which are never loaded.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(
            f"{path}: no such file. Give 'imagenet' or the path of a .safetensors, .pth, .pt or .ckpt file"
        ) from error
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors{_kinds_in(path)}, never loaded; save the model's state_dict() as "
            ".safetensors, or torch.save(model.state_dict(), …)"
        ) from error
    except (OSError, safetensors.SafetensorError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ModelError(f"{path} is damaged or not a weights file: {error}") from error
    return _state_in(state, path)


def _state_in(state: Any, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(state, Mapping):
        held = next((state[name] for name in HOLDERS if isinstance(state.get(name), Mapping)), None)
        if held is None:
            break
        state = held
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        found = type(state).__name__
        if isinstance(state, Mapping):
            others = [f"{name} ({type(value).__name__})" for name, value in state.items() if not torch.is_tensor(value)]
            found = f"a mapping with {', '.join(others[:5])}"
        raise ModelError(f"{path} is not a state dict (a mapping of names to tensors): it holds {found}")
    if not state:
        raise ModelError(f"{path} is an empty state dict")
    return {str(name): tensor for name, tensor in state.items()}


def _kinds_in(path: Path) -> str:
    """The kinds of objects in a file of torch's, for messages."""
    try:
        kinds = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # what cannot even be looked into is refused all the same
        return ""
    return f" ({', '.join(sorted(kinds)[:5])})" if kinds else ""


def under_prefix(state: Mapping[str, torch.Tensor], wanted: Mapping[str, str]) -> tuple[dict[str, torch.Tensor], int]:
    """Weights by the names that a classifier has for them, and how many of the wanted ones are there.

    Names may stand behind a prefix: "module." of DataParallel, "model." or "net." of a Lightning module, any other;
    what stands beside that, such as the weights of a metric, is left out.

    Args:
        state: Tensors by the file's names.
        wanted: The classifier's names by those of the bare network.
    """
    plain = {name.replace(COMPILED, ""): tensor for name, tensor in state.items()}
    prefixes = {""}
    for name in sorted(wanted, key=len)[-3:]:  # long names: hardly one of something else ends so
        prefixes |= {found.removesuffix(name) for found in plain if found.endswith(f".{name}")}
    counts = {prefix: sum(prefix + name in plain for name in wanted) for prefix in prefixes}
    best = max(sorted(prefixes, key=len), key=lambda prefix: counts[prefix])
    inside = {name.removeprefix(best): tensor for name, tensor in plain.items() if name.startswith(best)}
    return {wanted.get(name, name): tensor for name, tensor in inside.items()}, counts[best]
