"""Reading, overriding and checking configs; what every config model shares.

The models themselves live beside the code that they configure; `raygen.run.config.RunConfig` puts them together.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, Union, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from raygen.errors import ConfigError
from raygen.seeding import MAX_SEED

# The core schema of YAML 1.2, section 10.3.2, in place of PyYAML's YAML 1.1, where `off` is false, 010 is 8, 1:30 is
# 90, 1e-4 is a word and 2026-01-31 is a date: (pattern, first letters) of the plain words that are no strings.
_YAML = "tag:yaml.org,2002:"
_CORE_SCHEMA = {
    "bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "int": (r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    "float": (
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        "-+.0123456789",
    ),
}
_KEPT_OF_1_1 = {_YAML + "null", _YAML + "merge"}


class _Loader(yaml.SafeLoader):
    """Reads YAML 1.2, and refuses a key that stands twice in a mapping, which YAML forbids and PyYAML lets win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == _YAML + "merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice in one mapping", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        text = node.value
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back as it was: text that would be a number there is quoted."""


for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: kept
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        if (kept := [(tag, pattern) for tag, pattern in found if tag in _KEPT_OF_1_1])
    }
    for _name, (_pattern, _letters) in _CORE_SCHEMA.items():
        _kind.add_implicit_resolver(_YAML + _name, re.compile(_pattern), list(_letters))
_Loader.add_constructor(_YAML + "int", _Loader.construct_whole_number)


def _holds_bool(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_bool, value)))


def _allows_bool(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_allows_bool, get_args(annotation)))


class Decides(Enum):
    """What a field of a run's config decides; fingerprints, refusals and what sweeps share follow from it.

    A field says it by `Annotated[…, Decides.NOTHING]`; for all others of its class `class …(Strict, decides=…)` does.
    """

    RESULTS = "results"
    """Bits of results: part of the run's identity, and of the fingerprints of the steps that read it."""
    AMOUNT = "amount"
    """Results: how many pictures are generated. Those of a smaller amount are among those of a larger one."""
    FIT = "fit"
    """Results, but of no picture: which of them are kept, and how a classifier is fitted with them."""
    NOTHING = "nothing"
    """No result: where and how often things run, and what stops them."""


class Identity(Enum):
    """How a field that decides stands in what a result is known by; said by `Annotated[…, Identity.…]`."""

    ABSENT_BY_DEFAULT = "absent by default"
    """Left out while it has its default, which is what was done before there was the field: folders of then go on."""


class Strict(BaseModel):
    """Base of every config model: frozen; an unknown key, a number that is not finite, and true for 1 are errors.

    Attributes:
        others_decide: What the fields decide that do not say it themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    others_decide: ClassVar[Decides | None] = None

    def __init_subclass__(cls, *, decides: Decides | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.others_decide = decides or cls.others_decide

    @classmethod
    def mark_of(cls, field: str) -> Decides | None:
        """What a field of this model decides; None where nothing says it, or there is no such field."""
        own = cls.model_fields[field].metadata if field in cls.model_fields else ()
        return next((mark for mark in own if isinstance(mark, Decides)), cls.others_decide)

    @classmethod
    def fields_of(cls, mark: Decides) -> list[str]:
        """Names of the fields that decide that."""
        return [name for name in cls.model_fields if cls.mark_of(name) is mark]

    def decides(self, path: str) -> Decides:
        """What a field decides, by its path, such as "synthesis.k": what the first on the way says beside RESULTS."""
        name, _, rest = path.partition(".")
        mark, inner = self.mark_of(name) or Decides.RESULTS, getattr(self, name, None)
        return inner.decides(rest) if mark is Decides.RESULTS and rest and isinstance(inner, Strict) else mark

    def deciding(self, *without: Decides) -> dict[str, Any]:
        """Plain data of the fields that decide results, in nested models too.

        Args:
            without: Fields that decide these are left out as well.
        """
        names = [
            name
            for name, field in type(self).model_fields.items()
            if self.mark_of(name) not in {Decides.NOTHING, *without}
            and not (Identity.ABSENT_BY_DEFAULT in field.metadata and getattr(self, name) == field.default)
        ]
        nested = {name: inner for name in names if isinstance(inner := getattr(self, name), Strict)}
        plain = self.model_dump(mode="json", include={*names} - {*nested})
        return {**plain, **{name: inner.deciding(*without) for name, inner in nested.items()}}

    @model_validator(mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, data: Any) -> Any:
        # Python's bool is an int, so pydantic takes `seed: true` for 1.
        for name, value in data.items() if isinstance(data, Mapping) else ():
            field = cls.model_fields.get(name)
            if field is not None and _holds_bool(value) and not _allows_bool(field.annotation):
                raise ValueError(f"{name} is {str(value).lower()}, and true and false are no numbers")
        return data


Model = TypeVar("Model", bound=BaseModel)
Config_co = TypeVar("Config_co", bound=BaseModel, covariant=True)
PositiveInt = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class HasConfig(Protocol[Config_co]):
    """A module of a registry: what it is configured by, and what that says of it."""

    @property
    def Config(self) -> type[Config_co]:
        """Its config, which has the module's name in the registry as its field `name`."""
        ...


def one_of(registry: Mapping[str, HasConfig[BaseModel]]) -> BeforeValidator:
    """Makes a field take the config of any module of a registry, told apart by `name`.

    The registry is looked into whenever a config is read, so what is put into it later counts too.
    """

    def chosen(value: Any) -> Any:
        return _union(tuple(module.Config for module in registry.values())).validate_python(value)

    return BeforeValidator(chosen)


@cache
def _union(configs: tuple[type[BaseModel], ...]) -> TypeAdapter[Any]:
    union: Any = Annotated[Union[configs], Field(discriminator="name")]  # noqa: UP007 (known only now)
    return TypeAdapter(union)


def load_yaml(path: Path) -> dict[str, Any]:
    """Top-level mapping of a YAML file.

    Raises:
        ConfigError: No such file, not YAML, or not a mapping at the top.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}). Give the path of a YAML config file.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    data = _read_yaml(text, where=str(path))
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of config fields at the top, found {type(data).__name__}")
    return data


def dump_yaml(data: Mapping[str, Any]) -> str:
    """YAML text of plain data, keys in their order; `load_yaml` reads it back as it was."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _read_yaml(text: str, *, where: str) -> Any:
    """Plain data of a YAML text: what JSON can hold.

    Raises:
        ConfigError: Not YAML, or more than plain data: an anchor inside itself, binary data, a set.
    """
    try:
        data = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        raise ConfigError(f"{where}: not valid YAML: {error}") from error
    try:
        return json.loads(json.dumps(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{where}: expected plain YAML (mappings, lists, numbers, words): {error}") from error


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of a config with `a.b=value` overrides applied; values are read as YAML (`[1,3]`, `true`, `0.5`).

    Raises:
        ConfigError: An override has no `=`, or goes through a field that is not a mapping.
    """
    result: dict[str, Any] = json.loads(json.dumps(data))
    for override in overrides:
        name, found, text = override.partition("=")
        if not found or not all(name.split(".")):
            raise ConfigError(f"--set {override}: expected field=value, such as --set synthesis.k=200")
        value = _read_yaml(text, where=f"--set {override}")
        *parents, last = name.split(".")
        place = result
        for depth, parent in enumerate(parents):
            child = place[parent] = {} if place.get(parent) is None else place[parent]  # null: switched on by a field
            if not isinstance(child, dict):
                raise ConfigError(
                    f"--set {override}: '{'.'.join(parents[: depth + 1])}' is {child!r}, not a group of fields"
                )
            place = child
        place[last] = value
    return result


def validate(model: type[Model], data: Mapping[str, Any], *, where: str) -> Model:
    """The config model filled from data; every wrong field is named at once.

    Args:
        model: The pydantic model.
        data: Plain data, as read from YAML.
        where: Where the data came from, for the message.

    Raises:
        ConfigError: Unknown fields (with the nearest known name), wrong types, values out of range.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        # Each member of a union has its own complaint about the same field: the first one is enough.
        found: dict[str, str] = {}
        for problem in error.errors():
            location = ".".join(_location(problem, data)) or "config"
            found.setdefault(location, _describe(location, dict(problem), model))
        lines = list(found.values())
        raise ConfigError(
            f"{where}: {len(lines)} wrong field(s)\n" + "\n".join(f"  {line}" for line in lines)
        ) from error


def fingerprint(value: Any) -> str:
    """Hash of plain data, 16 hex digits; the same for equal data whatever the order of keys."""
    return hashlib.sha256(_plain_json(value)).hexdigest()[:16]


def fingerprint_of_many(first: Any, *others: Iterable[Any]) -> str:
    """`fingerprint([first, *others])` of lists that are too long to be in memory as text, or at all."""
    found = hashlib.sha256(b"[" + _plain_json(first))
    for items in others:
        before = b",["
        for item in items:
            found.update(before + _plain_json(item))
            before = b","
        found.update(b"]" if before == b"," else b",[]")
    found.update(b"]")
    return found.hexdigest()[:16]


def _plain_json(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # Paths that are not UTF-8 come with lone surrogates.
    return text.encode("utf-8", "surrogatepass")


def differing_fields(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Lines "a.b: old -> new" for every leaf that differs between two plain mappings."""
    lines = []
    for key in sorted({*old, *new}):
        name = f"{prefix}{key}"
        left, right = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += differing_fields(left, right, prefix=f"{name}.")
        elif left != right:
            lines.append(f"{name}: {left!r} -> {right!r}")
    return lines


def _location(problem: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Names of a wrong field as the user wrote them.

    Pydantic adds the chosen member of a union ("synthesis.dbb.k", "actors.tuple[int, int]"); those parts are not in
    the data and are left out.
    """
    names: list[str] = []
    place: Any = data
    for depth, part in enumerate(problem["loc"]):
        inside = isinstance(place, Mapping) and part in place
        inside = inside or (isinstance(place, list | tuple) and isinstance(part, int) and part < len(place))
        if inside:
            place = place[part]
        elif not (problem["type"] == "missing" and depth == len(problem["loc"]) - 1):
            continue
        names.append(str(part))
    return names


def _describe(location: str, problem: dict[str, Any], model: type[BaseModel]) -> str:
    if problem["type"] == "extra_forbidden":
        names = [name for kind in models_inside(model) for name in kind.model_fields]
        close = difflib.get_close_matches(location.rpartition(".")[2], names, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        return f"{location}: unknown field{hint}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{location}: is required and missing"
    found = problem.get("input")
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool | list | tuple | None) else ""
    return f"{location}: {message}{shown}"


def models_inside(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all models inside it, with those that stand for a base of theirs (`one_of`)."""
    found: dict[type[BaseModel], None] = {}
    waiting: list[Any] = [model]
    while waiting:
        kind = waiting.pop()
        if kind in found:
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found[kind] = None
            waiting += [field.annotation for field in kind.model_fields.values()]
            waiting += kind.__subclasses__()
        else:
            waiting += get_args(kind)
    return list(found)
