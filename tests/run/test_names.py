"""Names of recipes and of their pairs."""

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from raygen import recipes
from raygen.algorithms import ALGORITHMS
from raygen.cli import app
from raygen.errors import ConfigError
from raygen.run.names import find_recipe, known_recipes, recipe_name
from raygen.synthesis import SYNTHESES

RECIPES = known_recipes()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_has_a_config_of_its_synthesis_and_algorithm(name: str) -> None:
    config = recipes.make_config({"recipe": name}, [], where="test")
    assert config.recipe == name
    assert config.algorithm.name == RECIPES[name].algorithm
    assert (config.synthesis and config.synthesis.name) == RECIPES[name].synthesis


@pytest.mark.parametrize("synthesis", ["scgs", "dbb"])
@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_any_algorithm_goes_with_any_synthesis_in_either_order(synthesis: str, name: str) -> None:
    algorithm = recipe_name(name)
    config = recipes.make_config({"recipe": f"{algorithm} + {synthesis}"}, [], where="test")
    own = RECIPES[synthesis].algorithm == name
    assert config.recipe == (synthesis if own else f"{synthesis}+{algorithm}")
    assert config.synthesis is not None
    assert (config.synthesis.name, config.algorithm.name) == (synthesis, name)
    assert recipes.make_config({"recipe": f"{synthesis}+{algorithm}"}, [], where="test") == config


@pytest.mark.parametrize("name", ["", "dbbb", "dbb+", "jtt+dfr", "scgs+dbb", "scgs+jtt+dfr", "balanced", None, 3])
def test_a_name_that_is_none_is_refused_with_those_that_are(name: object) -> None:
    with pytest.raises(ValueError, match=r"known: .*\bdbb, .* such as scgs\+jtt"):
        find_recipe(name)


def test_a_pair_names_both_papers() -> None:
    assert find_recipe("scgs+jtt")[1].paper == f"{RECIPES['scgs'].paper} with {RECIPES['jtt'].paper}"


@pytest.mark.parametrize("override", ["algorithm.name=jtt", "synthesis.name=dbb"])
def test_a_config_that_is_not_its_recipe_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe scgs has .* give the pair as the recipe"):
        recipes.make_config({"recipe": "scgs"}, [override], where="test")


def test_the_list_of_recipes_is_that_of_the_registries() -> None:
    result = CliRunner().invoke(app, ["recipes", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [row["name"] for row in found["recipes"]] == sorted(RECIPES)
    assert [row["name"] for row in found["syntheses"]] == sorted(SYNTHESES)
    assert [row["name"] for row in found["algorithms"]] == sorted(ALGORITHMS)
    for kind, modules in (("syntheses", SYNTHESES), ("algorithms", ALGORITHMS)):
        for row in found[kind]:
            config = modules[row["name"]].Config
            assert (row["paper"], row["label_access"]) == (config.paper, config.label_access)
    by_name = {row["name"]: row for row in found["recipes"]}
    assert by_name["group_dro"]["label_access"] == "train: group; validation: group to select"
    assert by_name["dbb"] == {
        "name": "dbb",
        "synthesis": "dbb",
        "algorithm": "balanced",
        "paper": RECIPES["dbb"].paper,
        "label_access": "train: class; validation: group to select",
    }
    table = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": "200"}).stdout
    for name, row in by_name.items():
        assert any(name in line and row["label_access"] in line for line in table.splitlines())


def test_a_recipe_says_what_its_generation_reads_beyond_its_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SYNTHESES["dbb"].Config, "label_access", "train: group")
    assert find_recipe("dbb")[1].label_access.endswith("(to generate: train: group)")
    assert "to generate" not in find_recipe("dbb+group_dro")[1].label_access


@pytest.mark.parametrize("modules", [ALGORITHMS, SYNTHESES])
def test_every_paper_says_which_labels_it_reads(modules: dict[str, Any]) -> None:
    for name, module in modules.items():
        assert re.match(r"train: (none|class|group)\b", module.Config.label_access), name
