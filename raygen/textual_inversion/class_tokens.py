"""Learned tokens before they are learned: their names and prompts, and what is checked before any work.

Not for learning (`learning.py`) nor for files (`token_files.py`). Nothing here loads a model's weights.
"""

# T tokens of a prompt

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raygen.errors import ConfigError, ModelError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import FoundPainter
from raygen.inpainters.prompts import tokenize, unknown_tokens
from raygen.model_files.hub import loadable
from raygen.textual_inversion.config import TextualInversionConfig

PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True, slots=True)
class ClassToken:
    """The token of one class.

    Attributes:
        name: "<landbird>".
        word: What follows it in prompts.
        initializer: Word whose embedding it starts from.
    """

    name: str
    word: str
    initializer: str

    def fill(self, template: str) -> str:
        """A template with the token and the word in it."""
        return template.replace("{token}", self.name).replace("{word}", self.word)


def class_tokens(settings: TextualInversionConfig, class_names: Sequence[str]) -> list[ClassToken]:
    """One token per class, in order of label.

    Raises:
        ConfigError: A list of another length than there are classes, or two tokens of one name.
    """
    names = list(settings.tokens) or [_default_name(name) for name in class_names]
    words = _per_class("words", settings.words or tuple(class_names), class_names)
    initializers = _per_class("initializers", settings.initializers or tuple(words), class_names)
    if len(names) != len(class_names):
        raise ConfigError(
            f"textual_inversion.tokens has {len(names)} names for the {len(class_names)} classes; give one each"
        )
    if len({*names}) < len(names):
        raise ConfigError(
            f"textual_inversion.tokens: two classes have the same token ({', '.join(names)}); name them apart"
        )
    return [ClassToken(*fields) for fields in zip(names, words, initializers, strict=True)]


def check_num_images(settings: TextualInversionConfig, counts: dict[str, int], *, split: str) -> None:
    """Checks that every class has as many images as it is to be learned from; `counts` by class name.

    Raises:
        ConfigError: It has not.
    """
    for name, count in counts.items():
        if count < settings.num_images:
            raise ConfigError(
                f"textual_inversion.num_images is {settings.num_images}, but class '{name}' has {count} {split} images"
            )


def check_tokens(tokens: Sequence[ClassToken], settings: TextualInversionConfig, tokenizer: Any) -> None:
    """Checks names, initializers and prompts against a model's tokenizer.

    Raises:
        ConfigError: A name that the tokenizer knows already, an initializer that is not one token, a text that is
            longer than the text encoder reads, or one that names another token.
    """
    vocabulary = tokenizer.get_vocab()
    added = {*tokenizer.get_added_vocab()}
    for token in tokens:
        if token.name in vocabulary:
            raise ConfigError(
                f"textual_inversion.tokens: the model's tokenizer has '{token.name}' already; choose another name"
            )
        initializer_id(token, tokenizer)
        for field, templates in (("prompt", (settings.prompt,)), ("templates", settings.all_templates)):
            for template in templates:
                text = token.fill(template)
                read = tokenize(tokenizer, text, {token.name: np.zeros((1, 1), np.float32)})
                if read.first_dropped is not None:
                    raise ConfigError(
                        f"textual_inversion.{field}: '{text}' has {len(read.ids)} tokens with start and end, but the "
                        f"text encoder reads {read.max_length}; shorten it, or give shorter textual_inversion.words"
                    )
                # The inpainter knows all tokens; a token is learned with no other than itself.
                known = added | ({each.name for each in tokens} if field == "prompt" else {token.name})
                if others := unknown_tokens(text, known):
                    raise ConfigError(
                        f"textual_inversion.{field}: '{text}' names {others[0]}, which is not known there and would be "
                        "read as plain letters; leave it out"
                    )


def initializer_id(token: ClassToken, tokenizer: Any) -> int:
    """Id of the word that a token starts from.

    Raises:
        ConfigError: It is not exactly one token.
    """
    ids = tokenizer(token.initializer, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ConfigError(
            f"textual_inversion.initializers: '{token.initializer}' is {len(ids)} tokens for the model's tokenizer; "
            f"give a word for {token.name} that is one, such as the name of a wider class ('bird')"
        )
    return int(ids[0])


def trained_model(settings: TextualInversionConfig, inpainter: InpainterConfig) -> InpainterConfig:
    """The model that the tokens are learned with; without its safety checker, since it shows no pictures."""
    changes = {"kind": "stable_diffusion", "url": None, "dtype": settings.dtype, "safety_checker": False}
    if settings.model is not None:
        changes |= {name: getattr(settings, name) for name in ("model", "revision", "variant")}
    return inpainter.model_copy(update=changes)


def load_tokenizer(found: FoundPainter) -> Any:
    """A model's tokenizer.

    Raises:
        ModelError: It cannot be loaded.
    """
    from transformers import CLIPTokenizer

    return _load_part(CLIPTokenizer, found, "tokenizer")


def check_same_text_encoder(trained: FoundPainter, painter: FoundPainter) -> None:
    """Checks that tokens learned with one model can be used with another.

    Raises:
        ModelError: Their text encoders differ in width, or their tokenizers in vocabulary.
    """
    from transformers import CLIPTextConfig

    widths = [_load_part(CLIPTextConfig, found, "text_encoder").hidden_size for found in (trained, painter)]
    if widths[0] != widths[1]:
        raise ModelError(
            f"textual_inversion.model {trained.config.model} has a text encoder of width {widths[0]}, "
            f"{painter.config.model} one of {widths[1]}; learn with a model that has the same text encoder"
        )
    if load_tokenizer(trained).get_vocab() != load_tokenizer(painter).get_vocab():
        raise ModelError(
            f"textual_inversion.model {trained.config.model} has another vocabulary than {painter.config.model}; learn "
            "with a model that has the same text encoder"
        )


def check_prediction(scheduler_config: dict[str, Any], *, model: str) -> str:
    """What a model predicts, "epsilon" or "v_prediction".

    Raises:
        ModelError: Something else, which tokens cannot be learned from here.
    """
    kind = str(scheduler_config.get("prediction_type", "epsilon"))
    if kind not in PREDICTIONS:
        raise ModelError(
            f"{model}: its scheduler predicts '{kind}'; tokens are learned from {' or '.join(PREDICTIONS)}"
        )
    return kind


def _load_part(kind: Any, found: FoundPainter, part: str) -> Any:
    config = found.config
    name = loadable(found.name, config.revision)
    # A hub id takes a subfolder and a revision; a folder is opened where the part is.
    place: tuple[str, dict[str, Any]] = (name, {"subfolder": part, "revision": config.revision or "main"})
    if Path(name).is_dir():
        place = (str(Path(name) / part), {})
    try:
        return kind.from_pretrained(place[0], **place[1])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"the {part} of model '{config.model}' cannot be loaded: {error}") from error


def _default_name(class_name: str) -> str:
    bare = re.sub(r"[^a-z0-9]+", "-", class_name.lower()).strip("-")[:63]
    if not bare:
        raise ConfigError(
            f"class '{class_name}' gives no name for its token; set textual_inversion.tokens, such as [<one>, <two>]"
        )
    return f"<{bare}>"


def _per_class(field: str, value: str | tuple[str, ...], class_names: Sequence[str]) -> list[str]:
    words = [value] * len(class_names) if isinstance(value, str) else list(value)
    if len(words) != len(class_names):
        raise ConfigError(
            f"textual_inversion.{field} has {len(words)} words for the {len(class_names)} classes; give one for all, "
            "or one each"
        )
    return words
