"""The fields of an edit: names, types, limits and defaults, one table; from texts to checked values.

What a field means for pixels is for `pictures.py` and the engine. Nothing is ignored: a field that is not in the
table is refused, and one that is accepted without effect is told in `warnings`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raygen.endpoint.edits import MAX_HTTP_GUIDANCE, MAX_HTTP_STEPS, MAX_SEED
from raygen.errors import EndpointError
from raygen.inpainters.schedulers import SCHEDULERS
from serve.config import ServedModelConfig
from serve.http.body import Form
from serve.http.limits import MAX_NUM_IMAGES, MAX_PROMPT_LENGTH, MAX_USER_LENGTH, number_text

QUALITY_STEPS = {"low": 15, "medium": 30, "standard": 30, "high": 50}
MAX_FORM_SEED = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Field:
    """One field.

    Attributes:
        kind: How its text is read.
        default: Its value when it is not sent; None: the model's, or none.
        low: Least value.
        high: Greatest value, or length of a text.
        choices: All values of an enumeration.
        is_exclusive: `low` itself is not allowed.
    """

    kind: Literal["text", "int", "number", "bool", "enum", "seeds", "size"]
    default: Any = None
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    is_exclusive: bool = False


FIELDS: dict[str, Field] = {
    # OpenAI's
    "prompt": Field("text", high=MAX_PROMPT_LENGTH),
    "model": Field("text", high=128),
    "n": Field("int", 1, low=1, high=MAX_NUM_IMAGES),
    "size": Field("size", "auto"),
    "response_format": Field("enum", "b64_json", choices=("b64_json",)),
    "output_format": Field("enum", "png", choices=("png", "jpeg", "webp")),
    "output_compression": Field("int", 100, low=0, high=100),
    "stream": Field("bool", False),
    "partial_images": Field("int", 0, low=0, high=3),
    "quality": Field("enum", "auto", choices=("auto", *QUALITY_STEPS)),
    "background": Field("enum", "auto", choices=("auto", "opaque")),
    "input_fidelity": Field("enum", choices=("low", "high")),
    "user": Field("text", high=MAX_USER_LENGTH),
    "safety_identifier": Field("text", high=MAX_USER_LENGTH),
    # raygen's
    "seed": Field("int", -1, low=-1, high=MAX_FORM_SEED),
    "seeds": Field("seeds"),
    "num_inference_steps": Field("int", low=1, high=MAX_HTTP_STEPS),
    "guidance_scale": Field("number", low=0, high=MAX_HTTP_GUIDANCE),
    "strength": Field("number", low=0, high=1, is_exclusive=True),
    "negative_prompt": Field("text", high=MAX_PROMPT_LENGTH),
    "mask_mode": Field("enum", "auto", choices=("auto", "alpha", "luminance", "luminance_inverted", "full")),
    "mask_blur": Field("int", 0, low=0, high=64),
    "preserve_unmasked": Field("bool", True),
    "padding_mask_crop": Field("int", low=0, high=256),
    "scheduler": Field("enum", choices=SCHEDULERS),
    "prompt_overflow": Field("enum", "error", choices=("error", "truncate")),
    "literal_tokens": Field("bool", False),
}
# Texts that may be empty.
MAY_BE_EMPTY = {"negative_prompt", "user", "safety_identifier"}
# An int, as JSON and every client writes it: no sign but minus, no spaces, no leading zeros.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,19})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")
_SIZE = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})")
_JSON_KINDS: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "enum": (str,),
    "size": (str,),
    "int": (int,),
    "number": (int, float),
    "bool": (bool,),
    "seeds": (str, list),
}


def read_fields(form: Form) -> dict[str, Any]:
    """Every field's value, by name; defaults where nothing was sent.

    Raises:
        EndpointError: missing_required_parameter, invalid_type, invalid_value, out_of_range,
            invalid_size.
    """
    if "prompt" not in form.texts:
        raise EndpointError("there is no prompt", code="missing_required_parameter", param="prompt")
    values = {}
    for name, spec in FIELDS.items():
        text = form.texts.get(name)
        kind = form.json_kinds.get(name)
        if kind is not None and kind not in _JSON_KINDS[spec.kind]:
            raise EndpointError(f"{name} is of the wrong JSON type", code="invalid_type", param=name)
        values[name] = spec.default if text is None else _READERS[spec.kind](name, text, spec)
    return values


def check_fields(sent: Mapping[str, str], values: Mapping[str, Any], model: ServedModelConfig) -> None:
    """Checks what fields say together.

    Args:
        sent: The fields that were sent.
        values: Their values and the defaults of the rest.
        model: Whose defaults hold for what is None.

    Raises:
        EndpointError: conflicting_parameters, out_of_range, invalid_value.
    """
    if values["quality"] != "auto" and "num_inference_steps" in sent:
        raise _conflict("quality", "quality and num_inference_steps both say how many steps; send one")
    if "seeds" in sent and "seed" in sent:
        raise _conflict("seeds", "seed and seeds both say the seeds; send one")
    if values["seed"] + values["n"] - 1 > MAX_FORM_SEED:
        raise EndpointError(
            f"the last of {values['n']} pictures would have the seed {values['seed'] + values['n'] - 1}; "
            f"seed + n - 1 is at most {MAX_FORM_SEED}",
            code="out_of_range",
            param="seed",
        )
    if "seeds" in sent and "n" in sent and values["n"] != len(values["seeds"]):
        raise _conflict("n", f"n is {values['n']}, and there are {len(values['seeds'])} seeds")
    if values["partial_images"] and not values["stream"]:
        raise _conflict("partial_images", "partial_images needs stream=true")
    if values["output_format"] == "png" and values["output_compression"] < 100:
        raise _conflict("output_compression", "PNG is lossless; output_compression is for jpeg and webp")
    steps = steps_of(values, model)
    strength = values["strength"] if values["strength"] is not None else model.inpainter.strength
    if int(steps * strength) < 1:
        raise EndpointError(
            f"strength {number_text(strength)} leaves none of {steps} steps; raise either",
            code="out_of_range",
            param="strength",
        )


def steps_of(values: Mapping[str, Any], model: ServedModelConfig) -> int:
    """Denoising steps that were asked for, or the model's own number."""
    if values["num_inference_steps"] is not None:
        return int(values["num_inference_steps"])
    return QUALITY_STEPS.get(values["quality"], model.inpainter.num_inference_steps)


def warnings_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What is accepted and has no effect, in words."""
    if values["input_fidelity"] is not None:
        return ("input_fidelity has no effect: pixels outside the mask are kept anyway",)
    return ()


def _text(name: str, text: str, spec: Field) -> str:
    if not text and name not in MAY_BE_EMPTY:
        raise EndpointError(f"{name} is empty", code="invalid_value", param=name)
    if len(text) > spec.high:
        code = "prompt_too_long" if name.endswith("prompt") else "out_of_range"
        raise EndpointError(
            f"{name} has {len(text)} characters; at most {number_text(spec.high)}", code=code, param=name
        )
    if "\0" in text:
        raise EndpointError(f"{name} holds a NUL character", code="invalid_value", param=name)
    return text


def _int(name: str, text: str, spec: Field) -> int:
    if not _INT.fullmatch(text) or text == "-0":
        raise EndpointError(f"{name} is not a whole number", code="invalid_type", param=name)
    return int(_in_range(name, int(text), spec))


def _number(name: str, text: str, spec: Field) -> float:
    if not _NUMBER.fullmatch(text):
        raise EndpointError(f"{name} is not a finite number", code="invalid_type", param=name)
    return _in_range(name, float(text), spec)


def _in_range(name: str, value: float, spec: Field) -> float:
    too_low = value <= spec.low if spec.is_exclusive else value < spec.low
    if too_low or value > spec.high or not math.isfinite(value):
        least = "above" if spec.is_exclusive else "from"
        raise EndpointError(
            f"{name} is out of range: {least} {number_text(spec.low)} to {number_text(spec.high)}",
            code="out_of_range",
            param=name,
        )
    return value


def _bool(name: str, text: str, spec: Field) -> bool:
    if text not in {"true", "false"}:
        raise EndpointError(f"{name} is neither true nor false", code="invalid_type", param=name)
    return text == "true"


def _enum(name: str, text: str, spec: Field) -> str:
    if text not in spec.choices:
        raise EndpointError(f"{name} is none of {', '.join(spec.choices)}", code="invalid_value", param=name)
    return text


def _seeds(name: str, text: str, spec: Field) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) > MAX_NUM_IMAGES or not all(_INT.fullmatch(part) and part[0] != "-" for part in parts):
        raise EndpointError(
            f"{name} is not a list of 1 to {MAX_NUM_IMAGES} whole numbers with commas between",
            code="invalid_type",
            param=name,
        )
    seeds = tuple(int(part) for part in parts)
    if max(seeds) > MAX_SEED:
        raise EndpointError(f"{name}: a seed is at most {MAX_SEED}", code="out_of_range", param=name)
    return seeds


def _size(name: str, text: str, spec: Field) -> tuple[int, int] | str:
    if text == "auto":
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise EndpointError("size is neither auto nor WIDTHxHEIGHT, such as 512x512", code="invalid_size", param="size")
    width, height = int(match[1]), int(match[2])
    nearest = [min(2048, max(64, 8 * round(side / 8))) for side in (width, height)]
    if [width, height] != nearest:
        raise EndpointError(
            f"sides of size are multiples of 8 from 64 to 2048; the nearest is {nearest[0]}x{nearest[1]}",
            code="invalid_size",
            param="size",
        )
    return width, height


def _conflict(param: str, message: str) -> EndpointError:
    return EndpointError(message, code="conflicting_parameters", param=param)


_READERS: dict[str, Any] = {
    "text": _text,
    "int": _int,
    "number": _number,
    "bool": _bool,
    "enum": _enum,
    "seeds": _seeds,
    "size": _size,
}
