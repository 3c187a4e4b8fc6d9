"""Names of recipes and of their pairs."""

import pytest

from raygen import recipes
from raygen.algorithms import ALGORITHMS
from raygen.errors import ConfigError
from raygen.run.names import find_recipe, known_recipes, recipe_name

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
    with pytest.raises(ValueError, match=r"known: .*dbb, dfr, erm, .* such as scgs\+jtt"):
        find_recipe(name)


def test_a_pair_names_both_papers() -> None:
    assert find_recipe("scgs+jtt")[1].paper == f"{RECIPES['scgs'].paper} with {RECIPES['jtt'].paper}"


@pytest.mark.parametrize("override", ["algorithm.name=jtt", "synthesis.name=dbb"])
def test_a_config_that_is_not_its_recipe_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"recipe scgs has .* give the pair as the recipe"):
        recipes.make_config({"recipe": "scgs"}, [override], where="test")
