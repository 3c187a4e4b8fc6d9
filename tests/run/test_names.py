"""Names of recipes and of their pairs."""

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from raygen import recipes
from raygen.algorithms import ALGORITHMS
from raygen.cli import app
from raygen.config import validate
from raygen.errors import ConfigError
from raygen.run.config import RunConfig
from raygen.run.names import TERMS, find_recipe, known_recipes, recipe_name
from raygen.synthesis import SYNTHESES
from raygen.synthesis.infill import InfillConfig
from tune.sweep_config import make_sweep

RECIPES = known_recipes()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_has_a_config_of_its_synthesis_and_algorithm(name: str) -> None:
    config = recipes.make_config({"recipe": name}, [], where="test")
    assert config.recipe == name
    assert config.algorithm.name == RECIPES[name].algorithm
    assert (config.synthesis and config.synthesis.name) == RECIPES[name].synthesis


@pytest.mark.parametrize(
    ("recipe", "erm_select", "init"),
    [
        ("erm", "last", "scratch"),
        ("dbb", "last", "erm"),  # DBB goes on from ERM (eq. 6)
        ("scgs", "last", "scratch"),
        ("jtt", "last", "scratch"),
        ("scgs+jtt", "last", "scratch"),
        ("dfr", "last", "erm"),
        ("masktune", "last", "erm"),
    ],
)
def test_by_default_a_recipe_starts_where_its_paper_does_and_the_first_fit_is_not_selected(
    recipe: str, erm_select: str, init: str
) -> None:
    """ "Fitted as usual" chooses no epoch by groups: it takes the last."""
    config = recipes.make_config({"recipe": recipe}, [], where="test")
    assert (config.erm.select, config.erm.selects_by(), config.algorithm.init) == (erm_select, None, init)
    fields: dict[str, Any] = {"recipe": recipe, "algorithm": {"name": config.algorithm.name}}
    if config.synthesis is not None:
        fields["synthesis"] = {"name": config.synthesis.name}
    assert RunConfig.model_validate(fields).erm.select == erm_select  # also where no recipe's defaults come between


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


@pytest.mark.parametrize(
    ("given", "name", "values", "term"),
    [
        ("cf(inpaint)+f(shuffle)+sal", "cf(inpaint)+f(shuffle)+sal", ("inpaint", "shuffle"), "saliency_penalty"),
        ("sal + f(mixed_rand)", "f(mixed_rand)+sal", (None, "mixed_rand"), "saliency_penalty"),
        ("erm+cf( grey )", "cf(grey)", ("grey", None), None),
        ("jtt+cf(tile)", "cf(tile)+jtt", ("tile", None), None),
        ("infill+sal", "infill+sal", ("tile", "random"), "saliency_penalty"),
        ("erm+sal", "sal", None, "saliency_penalty"),
        ("sal+dbb", "dbb+sal", None, "saliency_penalty"),
        ("ls+jtt+scgs", "scgs+jtt+ls", None, "label_smoothing"),
        ("mixup", "mixup", None, "mixup_alpha"),
    ],
)
def test_values_and_terms_may_stand_in_a_name(given: str, name: str, values: Any, term: str | None) -> None:
    config = recipes.make_config({"recipe": given}, [], where="test")
    assert config.recipe == name
    found = config.synthesis
    if isinstance(found, InfillConfig):
        assert (found.counterfactual, found.factual) == values
    else:
        assert values is None
    fields = config.algorithm.model_dump()
    assert [field for field, _, _ in TERMS.values() if fields[field]] == ([] if term is None else [term])
    assert recipes.make_config(config.model_dump(mode="json"), [], where="again") == config
    if term is not None:  # another value than the name's default is kept
        other = recipes.make_config({"recipe": given}, [f"algorithm.{term}=0.5"], where="test")
        assert getattr(other.algorithm, term) == 0.5


def test_erm_with_a_term_is_called_by_it() -> None:
    config = recipes.make_config({"recipe": "erm"}, ["algorithm.mixup_alpha=0.4"], where="test")
    assert (config.recipe, config.algorithm.name) == ("mixup", "erm")
    with pytest.raises(ConfigError, match="recipe erm is the first fit alone"):
        validate(RunConfig, {**config.model_dump(mode="json"), "recipe": "erm"}, where="test")


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("cf(blue)", [], r"cf\(blue\), but values of synthesis.counterfactual are grey, random, .* inpaint"),
        ("f(grey)", [], r"f\(grey\), but values of synthesis.factual are random, shuffle, mixed_rand, fgsm"),
        ("cf(grey)+cf(tile)", [], "names something twice"),
        ("cf(grey)+dbb", [], "it takes one algorithm"),
        ("cf(grey)", ["synthesis.counterfactual=tile"], "has synthesis.counterfactual grey, but it is tile"),
        ("sal", ["algorithm.saliency_penalty=0"], "has the term algorithm.saliency_penalty, but it is 0"),
        ("cf(grey)+mixup", [], "algorithm.mixup_alpha is 0.2, and excludes counterfactual"),
        ("f(random)+ls", [], "algorithm.label_smoothing is 0.1, and excludes counterfactual"),
        ("sal+mixup", [], "saliency_penalty and mixup_alpha are both set"),
        ("sal", ["fit.precision=bfloat16"], "fit.precision is bfloat16, in which they vanish"),
        ("sal", ["erm.saliency_penalty=1"], "erm.saliency_penalty is set"),
        ("infill+lisa", [], "algorithm lisa mixes pictures"),
        ("infill+dac_head", [], "algorithm dac_head knows no counterfactual"),
        ("dfr+sal", [], "algorithm dfr fits no network .* and has no saliency_penalty"),
        ("infill", ["synthesis.when=training", "controls=[hole]"], "controls are set"),
        ("cf(inpaint)", ["textual_inversion.num_images=3"], "asks the inpainter for no class"),
        ("cf(inpaint)", ["inpainter.composite=false"], "composite is false"),
    ],
)
def test_what_does_not_go_together_is_refused(recipe: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipes.make_config({"recipe": recipe}, overrides, where="test")


def test_a_sweep_has_no_counterfactual_pictures() -> None:
    for recipe in ("infill", "dbb+sal"):
        with pytest.raises(ConfigError, match="neither counterfactual pictures nor object masks"):
            make_sweep({"recipe": recipe}, ["tune.space={algorithm.weight_decay: [0.1, 0.2]}"], where="test")
