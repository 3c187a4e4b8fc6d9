"""How the values of an edit's fields are written as texts, type by type, stricter than any library reads them.

`"2.0"`, `"+7"` and `" 2"` are no whole numbers, `nan` and a thousand digits are no numbers, `1` is not true.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from raygen.endpoint.edits import MAX_SEED
from serve.http.limits import MAX_NUM_IMAGES

# An int, as JSON and every client writes it: no sign but minus, no spaces, no leading zeros.
_INT = re.compile(r"-?(0|[1-9][0-9]{0,19})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,19})(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?")
_SIZE = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})")
# What the schema says of sizes and seeds. Multiples of 8 from 64 to 2048, in decimal: after an even digit end the
# multiples of 8, after an odd one the others that are 4 more.
_EVEN = "(00|08|16|24|32|40|48|56|64|72|80|88|96)"
_ODD = "(04|12|20|28|36|44|52|60|68|76|84|92)"
_SIDE = f"(64|72|80|88|96|[2468]{_EVEN}|[13579]{_ODD}|1[02468]{_EVEN}|1[13579]{_ODD}|20(00|08|16|24|32|40|48))"
_SEED = "(0|[1-9][0-9]{0,17})"

Text = Annotated[str, Field(pattern=r"^[^\u0000]*$")]
Size = Annotated[
    tuple[int, int] | Literal["auto"], WithJsonSchema({"type": "string", "pattern": f"^(auto|{_SIDE}x{_SIDE})$"})
]
# A form has the first spelling only.
Seeds = Annotated[
    tuple[int, ...],
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": f"^{_SEED}(,{_SEED}){{0,{MAX_NUM_IMAGES - 1}}}$"},
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
                    "minItems": 1,
                    "maxItems": MAX_NUM_IMAGES,
                },
            ]
        }
    ),
]


@dataclass(frozen=True, slots=True)
class Kind:
    """How the values of a type are written.

    Attributes:
        name: As the capabilities call it.
        json_types: Of its values in the JSON form, where numbers are no texts.
        read: From the text to the value.
    """

    name: str
    json_types: tuple[type, ...]
    read: Callable[[str], Any]


def _whole(text: str) -> int:
    if not _INT.fullmatch(text) or text == "-0":
        raise PydanticCustomError("invalid_type", "{name} is not a whole number")
    return int(text)


def _number(text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise PydanticCustomError("invalid_type", "{name} is not a finite number")
    return float(text)


def _truth(text: str) -> bool:
    if text not in {"true", "false"}:
        raise PydanticCustomError("invalid_type", "{name} is neither true nor false")
    return text == "true"


def _seeds(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) > MAX_NUM_IMAGES or not all(_INT.fullmatch(part) and part[0] != "-" for part in parts):
        raise PydanticCustomError(
            "invalid_type", f"{{name}} is not a list of 1 to {MAX_NUM_IMAGES} whole numbers with commas between"
        )
    seeds = tuple(int(part) for part in parts)
    if max(seeds) > MAX_SEED:
        raise PydanticCustomError("out_of_range", f"{{name}}: a seed is at most {MAX_SEED}")
    return seeds


def _size(text: str) -> tuple[int, int] | str:
    if text == "auto":
        return text
    match = _SIZE.fullmatch(text)
    if match is None:
        raise PydanticCustomError("invalid_size", "{name} is neither auto nor WIDTHxHEIGHT, such as 512x512")
    width, height = int(match[1]), int(match[2])
    nearest = [min(2048, max(64, 8 * round(side / 8))) for side in (width, height)]
    if [width, height] != nearest:
        raise PydanticCustomError(
            "invalid_size",
            f"sides of {{name}} are multiples of 8 from 64 to 2048; the nearest is {nearest[0]}x{nearest[1]}",
        )
    return width, height


_KINDS: dict[Any, Kind] = {
    str: Kind("text", (str,), str),
    int: Kind("int", (int,), _whole),
    float: Kind("number", (int, float), _number),
    bool: Kind("bool", (bool,), _truth),
    tuple[int, ...]: Kind("seeds", (str, list), _seeds),
    tuple[int, int]: Kind("size", (str,), _size),
}
_ENUM = Kind("enum", (str,), str)


def kind_of(annotation: Any) -> Kind:
    """The kind of a type; of `X | None` and `Annotated[X, …]` that of X."""
    if get_origin(annotation) is Literal:
        return _ENUM
    return _KINDS.get(annotation) or kind_of(get_args(annotation)[0])
