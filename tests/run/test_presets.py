"""Named settings of a recipe."""

import json
import re

import pytest
from typer.testing import CliRunner

from raygen import recipes
from raygen.cli import app
from raygen.config import apply_overrides
from raygen.errors import ConfigError
from raygen.synthesis import SYNTHESES

PRESETS = [(name, preset) for name, module in SYNTHESES.items() for preset in module.Config.presets]


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"synthesis.k": 7, "algorithm.learning_rate": 5e-6, "algorithm.gamma": [2, 3], "seed": 5}
    monkeypatch.setattr(SYNTHESES["dbb"].Config, "presets", {"mine": fields, "other": {}})


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_sets_fields_that_there_are_to_what_they_may_be(name: str, preset: str) -> None:
    config = recipes.make_config({"recipe": name}, [], where="test", preset=preset)
    data = config.model_dump(mode="json")
    for field, value in SYNTHESES[name].Config.presets[preset].items():
        assert apply_overrides(data, [f"{field}={json.dumps(value)}"]) == data, field


@pytest.mark.usefixtures("mine")
def test_a_preset_is_over_the_config_and_under_what_is_set() -> None:
    data = {"recipe": "dbb", "synthesis": {"k": 9, "dilation_px": 4}, "seed": 8}
    config = recipes.make_config(data, ["seed=6"], where="test", preset="mine").model_dump()
    assert (config["synthesis"]["k"], config["synthesis"]["dilation_px"], config["seed"]) == (7, 4, 6)
    assert (config["algorithm"]["learning_rate"], config["algorithm"]["gamma"]) == (5e-6, (2, 3))


@pytest.mark.usefixtures("mine")
def test_what_a_preset_says_of_the_fit_is_for_the_synthesis_own_algorithm() -> None:
    with_jtt = recipes.make_config({"recipe": "dbb+jtt"}, [], where="test", preset="mine")
    as_usual = recipes.make_config({"recipe": "dbb+jtt"}, ["synthesis.k=7", "seed=5"], where="test")
    assert with_jtt == as_usual
    assert with_jtt.algorithm.name == "jtt"


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("dbb", "recipe dbb has no preset 'theirs'; known: mine, other"),
        ("jtt", "recipe jtt has no preset 'theirs'; it has none; these have: "),
        ("dbbb", "--preset theirs: recipe is 'dbbb'; known: "),
    ],
)
def test_an_unknown_preset_is_refused_with_those_that_there_are(recipe: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)):
        recipes.make_config({"recipe": recipe}, [], where="test", preset="theirs")


@pytest.mark.usefixtures("mine")
def test_presets_are_listed() -> None:
    assert (
        "dbb --preset mine, dbb --preset other" in CliRunner().invoke(app, ["recipes"], env={"COLUMNS": "200"}).stdout
    )
