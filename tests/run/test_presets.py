"""Named settings of a recipe."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize
from typer.testing import CliRunner

from raygen import recipes
from raygen.cli import app
from raygen.config import apply_overrides
from raygen.errors import ConfigError
from raygen.run.published import published_fields, published_presets
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


@pytest.mark.parametrize("preset", published_presets())
@pytest.mark.parametrize("recipe", ["erm", "group_dro", "jtt", "lisa", "dbb+dfr"])
def test_a_published_preset_sets_fields_that_there_are_whatever_the_recipe(preset: str, recipe: str) -> None:
    config = recipes.make_config({"recipe": recipe}, [], where="test", preset=preset)
    data = config.model_dump(mode="json")
    fields = published_fields(preset, config.algorithm.name)
    for field, value in fields.items():
        assert apply_overrides(data, [f"{field}={json.dumps(value)}"]) == data, field
    own = {"group_dro": "gdro", "jtt": "jtt", "lisa": "lisa"}.get(recipe, "")
    sets_fit = any(field.startswith("algorithm.") for field in fields)
    assert sets_fit == (preset in (f"waterbirds:{own}", f"celeba:{own}"))


def seen(preset: str, image_HWC: np.ndarray) -> np.ndarray:
    return recipes.make_config({"recipe": "erm"}, [], where="test", preset=preset).classifier.frame.picture(image_HWC)


def test_published_frames_are_those_of_the_authors_transforms() -> None:
    """By torchvision on pictures, as their code has it; CelebA's pictures are 178 x 218."""
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(9, 7, 3), dtype=np.uint8))
    image = image.resize((178, 218), Image.Resampling.BICUBIC)
    image_HWC = np.asarray(image)
    squashed = Compose([Resize((256, 256)), CenterCrop(224)])(image)
    assert np.array_equal(seen("waterbirds:dfr", image_HWC), np.asarray(squashed))
    assert np.array_equal(seen("celeba:dfr", image_HWC), np.asarray(squashed))
    middle = Compose([CenterCrop(178), Resize((224, 224))])(image)
    assert np.array_equal(seen("celeba:gdro", image_HWC), np.asarray(middle))


def test_an_erm_of_group_dros_is_selected_by_the_average_and_of_dfrs_is_the_last() -> None:
    gdro, dfr = (
        recipes.make_config({"recipe": "group_dro"}, [], where="test", preset=f"waterbirds:{name}")
        for name in ("gdro", "dfr")
    )
    assert (gdro.erm.selects_by(), gdro.algorithm.selects_by(), dfr.erm.selects_by()) == ("average", "auto", None)
    assert (gdro.erm.weight_decay, gdro.algorithm.model_dump()["weight_decay"]) == (1e-4, 1.0)
    assert (dfr.erm.augment, dfr.erm.epochs, dfr.erm.batch_size, dfr.erm.learning_rate) == (
        "random_resized_crop",
        100,
        32,
        1e-3,
    )


def test_presets_can_be_put_together_and_what_is_set_is_over_them() -> None:
    config = recipes.make_config(
        {"recipe": "scgs"}, ["erm.epochs=3"], where="test", preset="waterbirds:disc, metashift:disc,paper"
    )
    assert (config.erm.batch_size, config.erm.epochs) == (16, 3)
    assert config.synthesis is not None
    assert config.synthesis.model_dump()["sample_fraction"] == 0.2
    with pytest.raises(ConfigError, match="there is no preset 'waterbirds:drf' of a dataset; known: celeba:afr, "):
        recipes.make_config({"recipe": "erm"}, [], where="test", preset="waterbirds:drf")


@pytest.mark.usefixtures("mine")
def test_presets_are_listed() -> None:
    said = CliRunner().invoke(app, ["recipes"], env={"COLUMNS": "200"}).stdout
    assert "dbb --preset mine, dbb --preset other" in said
    assert "for any recipe: celeba:afr, celeba:dfr, " in said
