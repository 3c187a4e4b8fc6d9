"""Named settings of a recipe, such as those that a paper says its own numbers come from."""

import json
from collections.abc import Mapping
from typing import Any

from raygen.errors import ConfigError
from raygen.run.names import Recipe, find_recipe, recipe_name
from raygen.run.published import published_fields, published_presets
from raygen.synthesis import SYNTHESES


def preset_overrides(config: Mapping[str, Any], preset: str) -> list[str]:
    """The fields that presets set, as overrides `field=value` of a run's config.

    "DATASET:SOURCE" is of published numbers and goes with every recipe (`raygen.run.published`). Any other belongs to a
    synthesis (`SynthesisBase.presets`) and holds for its pairs too; what it says of the fit (`algorithm.…`) is for the
    algorithm of the synthesis's own recipe, and is left out with any other.

    Args:
        config: The run's config as it was given, not checked yet, with the recipe's name.
        preset: The preset's name, or several with commas between them: a later one is over those before it.

    Raises:
        ConfigError: No such recipe, or it has no such preset.
    """
    try:
        name, found = find_recipe(config.get("recipe"))
    except ValueError as error:
        raise ConfigError(f"--preset {preset}: {error}") from error
    fields: dict[str, Any] = {}
    for one in preset.split(","):
        fields |= _fields(config, one.strip(), name, found)
    return [f"{field}={json.dumps(value)}" for field, value in fields.items()]


def _fields(config: Mapping[str, Any], preset: str, name: str, found: Recipe) -> Mapping[str, Any]:
    if ":" in preset:
        if preset not in (published := published_presets()):
            raise ConfigError(f"there is no preset '{preset}' of a dataset; known: {', '.join(published)}")
        return published_fields(preset, found.algorithm)
    known = presets_of(found)
    if preset not in known:
        raise ConfigError(f"recipe {name} has no preset '{preset}'; {_those_there_are(known)}")
    assert found.synthesis is not None  # else it knows none
    paper = SYNTHESES[found.synthesis].Config
    fields = paper.preset_fields(preset, config)
    if found.algorithm != paper.algorithm:
        fields = {field: value for field, value in fields.items() if not field.startswith("algorithm.")}
    return fields


def presets_of(recipe: Recipe) -> Mapping[str, Mapping[str, Any]]:
    """The presets of a recipe by name: values by the field's path in a run's config."""
    return {} if recipe.synthesis is None else SYNTHESES[recipe.synthesis].Config.presets


def _those_there_are(known: Mapping[str, Any]) -> str:
    if known:
        return f"known: {', '.join(sorted(known))}"
    others = [
        f"{recipe_name(name)} ({', '.join(sorted(module.Config.presets))})"
        for name, module in sorted(SYNTHESES.items())
        if module.Config.presets
    ]
    return f"it has none; these have: {', '.join(others)}"
