"""Networks of others: timm's, transformers', and those of a function; and which of their layers is the last.

Nothing is known of their layers by name. What is their last linear layer is asked of a forward pass: it is the one
whose result is the network's.
"""

# N images, C classes, D features

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raygen.classifier.config import HF, PRETRAINED, TIMM, ClassifierConfig
from raygen.errors import ConfigError, ModelError
from raygen.model_files import load_errors
from raygen.model_files.hub import MODEL_INDEX, ask, cached, loadable


class LogitsOf(nn.Module):
    """A model of transformers as a network like others: pictures in, logits out.

    Args:
        model: What `AutoModelForImageClassification` gave.
        missing: Names of its weights that the model's files do not have.
    """

    def __init__(self, model: nn.Module, missing: Sequence[str] = ()) -> None:
        super().__init__()
        self.model, self.missing = model, tuple(missing)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits, (N, C), or features where the last layer is off."""
        logits_NC: torch.Tensor = self.model(pixel_values=images_NCHW).logits
        return logits_NC


def open_network(
    config: ClassifierConfig, num_classes: int, *, description: Mapping[str, Any] | None, pretrained: bool
) -> nn.Module:
    """The network of a config with `is_own`, which gives logits; on the CPU.

    Args:
        config: Which.
        num_classes: C. Published weights may be of another number: then the network's own last layer is new.
        description: Of transformers' model, as `describe` gave it; None: it is read from the model's folder or the hub.
        pretrained: Whether it has the weights of whoever published it; else random ones, or what a function gives.

    Raises:
        ConfigError: There is no such network, or a function that gives none.
        ModelError: Its files cannot be had.
    """
    if config.kind == "hf":
        return _of_transformers(config, num_classes, description=description, pretrained=pretrained)
    network = (
        _of_timm(config, num_classes, pretrained=pretrained)
        if config.kind == "timm"
        else _of_function(config, num_classes)
    )
    # What is changed in place would be lost to whoever looks at layers from outside; the numbers are the same.
    return not_in_place(network)


def describe(network: nn.Module) -> dict[str, Any] | None:
    """What a saved classifier needs to be built again without the model's folder; None where its name says it all."""
    if not isinstance(network, LogitsOf):
        return None
    model: Any = network.model
    # Where it lay is no part of what it is.
    return {name: value for name, value in model.config.to_dict().items() if name not in {"_name_or_path"}}


def class_names(network: nn.Module) -> tuple[str, ...] | None:
    """The names that a model has for its classes, in order; None where it has none, or only numbers."""
    if not isinstance(network, LogitsOf):
        return None
    model: Any = network.model
    named = {int(number): str(name) for number, name in (model.config.id2label or {}).items()}
    names = tuple(named[number] for number in sorted(named))
    return None if all(name == f"LABEL_{number}" for number, name in enumerate(names)) else names


def not_in_place(network: nn.Module) -> nn.Module:
    """The network with no layer that changes its input."""
    for layer in network.modules():
        if getattr(layer, "inplace", False) is True:
            setattr(layer, "inplace", False)  # noqa: B010 (which kinds of modules have it, torch's types do not say)
    return network


def take_head_off(network: nn.Module, *, config: ClassifierConfig) -> tuple[str, nn.Linear]:
    """Takes a network's last linear layer off, so that it gives features, (N, D); gives back its name and the layer.

    Raises:
        ConfigError: What the network gives is not what a linear layer gives, or pictures of that size do not go in.
    """
    named, layers = config.head, dict(network.named_modules())
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    if named is not None and named not in linear:
        found = type(layers[named]).__name__ if named in layers else "none of its layers"
        raise ConfigError(
            f"classifier.head is {named}, which is {found} in {config.architecture}; its linear layers end with "
            f"{', '.join(linear[-5:]) or '(there are none)'}"
        )
    calls: list[tuple[str, torch.Tensor]] = []

    def note(name: str) -> Any:
        return lambda _layer, _inputs, output: calls.append((name, output))

    handles = [layers[name].register_forward_hook(note(name)) for name in linear]
    try:
        result_NC = _result_of(network, config=config)
    finally:
        for handle in handles:
            handle.remove()
    name = calls[-1][0] if calls and calls[-1][1] is result_NC else None
    if name is None or named not in (None, name) or sum(called == name for called, _ in calls) != 1:
        wanted = "" if named is None else f", and so not what {named} gives"
        last = f"The last that is called is {calls[-1][0]}. " if calls else ""
        raise ConfigError(
            f"classifier.architecture: what {config.architecture} gives is not what its last linear layer gives"
            f"{wanted} (a softmax after it, a convolution in its place, two heads?). {last}Features for a linear layer "
            "are what the recipes work with: give a network whose result is that of one nn.Linear, the logits"
        )
    head = layers[name]
    assert isinstance(head, nn.Linear)
    network.set_submodule(name, nn.Identity())
    return name, head


def _result_of(network: nn.Module, *, config: ClassifierConfig) -> torch.Tensor:
    """What a network makes of two pictures.

    Raises:
        ConfigError: No tensor of two axes.
    """
    found: Any = _forward(network, config=config)
    if not isinstance(found, torch.Tensor) or found.ndim != 2 or len(found) != 2:
        shown = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise ConfigError(
            f"classifier.architecture: {config.architecture} makes {shown} of two pictures; expected logits, a tensor "
            "of shape (2, number of classes)"
        )
    return found


def _forward(network: nn.Module, *, config: ClassifierConfig) -> torch.Tensor:
    size_px, was_training = config.image_size_px, network.training
    try:
        with torch.no_grad():
            found: torch.Tensor = network.eval()(torch.zeros(2, 3, size_px, size_px))
            return found
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"classifier.image_size_px: {config.architecture} does not take pictures of {size_px} x {size_px} "
            f"({reason}); set classifier.image_size_px to the size that it was made for"
        ) from error
    finally:
        network.train(was_training)


def _of_transformers(
    config: ClassifierConfig, num_classes: int, *, description: Mapping[str, Any] | None, pretrained: bool
) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging as transformers_logging

    name = config.architecture.removeprefix(HF)
    with load_errors(name, what="an image classifier"):
        if description is not None:
            fields = dict(description)
            own = AutoConfig.for_model(fields.pop("model_type"), **fields)
            return not_in_place(LogitsOf(AutoModelForImageClassification.from_config(own)))
        folder = model_folder(name)
        own = AutoConfig.from_pretrained(folder)
        if own.num_labels != num_classes:
            # Its names are of other classes.
            own.id2label = {number: f"LABEL_{number}" for number in range(num_classes)}
            own.label2id = {label: number for number, label in own.id2label.items()}
        if not pretrained:
            return not_in_place(LogitsOf(AutoModelForImageClassification.from_config(own)))
        transformers_logging.disable_progress_bar()
        model, found = AutoModelForImageClassification.from_pretrained(
            folder, config=own, ignore_mismatched_sizes=True, dtype=torch.float32, output_loading_info=True
        )
        return not_in_place(LogitsOf(model, sorted(found["missing_keys"])))


def model_folder(name: str) -> str:
    """What transformers takes for a folder or hub id.

    Raises:
        ModelError: A path at which there is no model.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / MODEL_INDEX).is_file():
            raise ModelError(f"{path} has no {MODEL_INDEX}: it is no folder that transformers' save_pretrained wrote")
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise ModelError(f"{HF}{name}: there is no folder {path.absolute()}, and it has not the form of a hub id")
    if cached(name, None) is None and (reason := ask(name, MODEL_INDEX, None)) is not None:
        raise ModelError(
            f"{HF}{name}: there is no folder of that name, it is not in the hub's cache, and {reason}. Correct the "
            "path, or give a hub id that this machine can reach or has in its cache"
        )
    return loadable(name, None)


def _of_timm(config: ClassifierConfig, num_classes: int, *, pretrained: bool) -> nn.Module:
    timm = timm_library()
    name = config.architecture.removeprefix(TIMM)
    if not timm.is_model(name):
        close = timm.list_models(f"*{name.split('.')[0][:8]}*")[:5]
        hint = f"; it has {', '.join(close)}" if close else ""
        raise ConfigError(f"classifier.architecture: timm has no '{name}'{hint}")
    options: dict[str, Any] = {"pretrained": pretrained, "num_classes": num_classes}
    sized = {"img_size": config.image_size_px}
    try:
        try:
            network: nn.Module = timm.create_model(name, **options, **sized)
        except TypeError:  # a network that takes any size
            network = timm.create_model(name, **options)
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"classifier.architecture: timm's {name} cannot be made"
            + (f" with weights={PRETRAINED}, which are downloaded" if pretrained else "")
            + f": {error}"
        ) from error
    except (ValueError, AssertionError) as error:
        raise ConfigError(
            f"classifier.image_size_px: timm's {name} cannot be made for pictures of {config.image_size_px}: {error}"
        ) from error
    return network


def timm_library() -> Any:
    """The library timm.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise ConfigError(
            "classifier.architecture is one of timm's, which is not installed; pip install 'raygen[timm]'"
        ) from error


def _of_function(config: ClassifierConfig, num_classes: int) -> nn.Module:
    """What a user's function gives: called with `num_classes=C` where it takes that, else with nothing."""
    module_name, _, function_name = config.architecture.partition(":")
    where = f"classifier.architecture: {config.architecture}"
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m` has it; a console script does not
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise ConfigError(
            f"{where}: the module cannot be imported ({error}). It has to be installed, lie in the folder that raygen "
            "is started from, or on PYTHONPATH, on all machines"
        ) from error
    except AttributeError as error:
        raise ConfigError(f"{where}: module {module_name} has no {function_name}") from error
    if not callable(function):
        raise ConfigError(f"{where} is a {type(function).__name__}, not a function that gives a network")
    try:
        network: Any = function(**function_arguments(function, num_classes))
    except Exception as error:  # the user's own code
        raise ConfigError(f"{where} failed: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ConfigError(f"{where} gave a {type(network).__name__}; expected a torch.nn.Module")
    return network


def function_arguments(function: Callable[..., Any], num_classes: int) -> dict[str, Any]:
    """What a user's function is called with."""
    parameters: Mapping[str, inspect.Parameter] = {}
    with contextlib.suppress(ValueError):  # of a function in C, which does not say
        parameters = inspect.signature(function).parameters
    takes = "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {"num_classes": num_classes} if takes else {}
