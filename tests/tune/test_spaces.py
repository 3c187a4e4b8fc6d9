"""The search spaces: what they mean for a config, and the errors that name the bad key."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sweeps import small_sweep, toy_task

from raygen.algorithms.balanced import BalancedConfig
from raygen.config import load_yaml
from raygen.datasets import open_dataset
from raygen.errors import ConfigError
from raygen.synthesis import SYNTHESES
from raygen.synthesis.dbb import DbbConfig
from tune.candidate_sets import candidate_set_configs
from tune.domains import Domain
from tune.search import check
from tune.spaces import check_amount, check_space, config_at, default_space, expand, point_of
from tune.sweep_config import make_sweep
from tune.trials import check_sampler

CONFIG = Path(__file__).parents[2] / "tune" / "config.yaml"
DBB = {"recipe": "dbb", "dataset": {"name": "scenes"}}


# With a word of the refusal: a trial is one fit with a validation accuracy after every epoch, on kept pictures alone.
NOT_SEARCHED = {"dac": "dac_head is not", "infill": "neither counterfactual pictures nor object masks"}


@pytest.mark.parametrize(("recipe", "message"), sorted(NOT_SEARCHED.items()))
def test_a_synthesis_whose_own_recipe_is_no_single_fit_is_refused(recipe: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sweep({**DBB, "recipe": recipe}, [], where="test")


@pytest.mark.parametrize("recipe", sorted({*SYNTHESES} - {*NOT_SEARCHED}))
def test_every_point_of_a_default_space_is_a_config(recipe: str) -> None:
    sweep = make_sweep({**DBB, "recipe": recipe}, [], where="test")
    domains = expand(sweep.space, num_classes=2)
    rng = np.random.default_rng(0)
    for _ in range(50):
        point = {name: one_of(domain, rng) for name, domain in domains.items()}
        config = config_at(sweep.run, point, space=sweep.space)
        assert point_of(config, space=sweep.space, num_classes=2) == point


def one_of(domain: Domain, rng: np.random.Generator) -> Any:
    """Any value of a domain."""
    if (points := domain.points()) is not None:
        return rng.choice(np.array(points, dtype=object))
    assert domain.low is not None
    assert domain.high is not None
    return float(rng.uniform(domain.low, domain.high))


def test_the_dbb_space_is_the_papers_and_gamma_goes_below_1() -> None:
    domains = expand(make_sweep(DBB, [], where="test").space, num_classes=2)
    assert domains["synthesis.k"].points() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert domains["algorithm.gamma.0"] == domains["algorithm.gamma.1"]
    gamma = domains["algorithm.gamma.0"]
    assert (gamma.low, gamma.high, gamma.log) == (0.05, 10, True)
    assert all(gamma.holds(value) for value in range(1, 11))
    assert set(domains) == {
        "synthesis.k",
        "synthesis.source_probability_test",
        "synthesis.attribution_threshold.0",
        "synthesis.attribution_threshold.1",
        "algorithm.gamma.0",
        "algorithm.gamma.1",
    }


def test_a_point_sets_its_fields_per_class_and_nothing_else() -> None:
    sweep = small_sweep()
    point = {"synthesis.k": 0.3, "synthesis.attribution_threshold.0": 0.1, "synthesis.attribution_threshold.1": 0.4}
    config = config_at(sweep.run, {**point, "algorithm.gamma.0": 2, "algorithm.gamma.1": 7}, space=sweep.space)
    assert isinstance(config.algorithm, BalancedConfig)
    assert isinstance(config.synthesis, DbbConfig)
    found: Any = (config.algorithm.gamma, config.synthesis.k, config.synthesis.attribution_threshold)
    assert found == ((2, 7), 0.3, (0.1, 0.4))
    synthesis = config.synthesis.model_copy(update={"k": 0.5, "attribution_threshold": 0.0})
    algorithm = config.algorithm.model_copy(update={"gamma": 1.0})
    assert config.model_copy(update={"synthesis": synthesis, "algorithm": algorithm}) == sweep.run


@pytest.mark.usefixtures("ray_session")
def test_a_samplers_rounding_makes_no_other_trial(scenes_folder: Path, tmp_path: Path) -> None:
    task = toy_task(small_sweep(), scenes_folder, tmp_path)
    rough, plain = {"synthesis.k": 0.1 + 0.2, "algorithm.gamma.1": 3.0}, {"synthesis.k": 0.3, "algorithm.gamma.1": 3}
    assert rough != plain
    assert task.begin(rough).params == plain
    assert task.name_of(rough) == task.name_of(plain) != task.name_of({**plain, "synthesis.k": 0.4})


def test_the_runs_own_config_is_a_point_only_if_the_space_holds_it() -> None:
    sweep = small_sweep()
    own = point_of(sweep.run, space=sweep.space, num_classes=2)
    assert own is not None
    assert own["synthesis.k"] == 0.5
    assert own["algorithm.gamma.1"] == 1
    outside = small_sweep("tiny", "synthesis.k=20")
    assert point_of(outside.run, space=outside.space, num_classes=2) is None


def test_the_default_config_file_says_what_the_defaults_are() -> None:
    assert make_sweep(load_yaml(CONFIG), [], where="file") == make_sweep(DBB, [], where="code")


def test_a_grid_of_too_many_points_is_refused() -> None:
    with pytest.raises(ConfigError, match="5120 points"):  # 10 x 2 x 16 x 16
        check(small_sweep("tiny", "tune.sampler=grid", "tune.space.algorithm.gamma=null"))


FORMER = "tune.space.algorithm.gamma={low: 1, high: 10, per_class: true}"


def test_a_sweep_that_was_begun_before_keeps_its_gamma() -> None:
    """By its config's name it is the same sweep; what it searched, it goes on to search."""
    before, today = make_sweep(DBB, [FORMER], where="test"), make_sweep(DBB, [], where="test")
    assert before.space != today.space
    assert before.identity() == today.identity()
    assert today.as_begun(before.dump()) == before
    assert today.as_begun(today.dump()) == today
    other = make_sweep(DBB, ["tune.space.algorithm.gamma={low: 1, high: 5, per_class: true}"], where="test")
    assert other.identity() != today.identity()
    assert other.as_begun(before.dump()) == other


def test_a_sweep_survives_its_saved_config() -> None:
    sweep = make_sweep(DBB, ["tune.space.synthesis.k=[0.2, 0.4]", "tune.space.algorithm.gamma=null"], where="test")
    assert set(sweep.space) == set(default_space("dbb", where="test")) - {"algorithm.gamma"}
    assert make_sweep(json.loads(json.dumps(sweep.dump())), [], where="saved") == sweep


@pytest.mark.parametrize(
    ("override", "key", "why"),
    [
        ("tune.space.synthesis.kk=[0.1, 0.2]", "tune.space.synthesis.kk", "did you mean 'k'"),
        ("tune.space.synthesis.k.hgih=0.5", "tune.space.synthesis.k.hgih", "did you mean 'high'"),
        ("tune.space.synthesis.k=[]", "tune.space.synthesis.k.values", "at least 1 item"),
        ("tune.space.algorithm.gamma={low: 3, high: 3}", "tune.space.algorithm.gamma", "is empty"),
        ("tune.space.algorithm.gamma={low: -1, high: 3}", "tune.space.algorithm.gamma", "-1 is not possible"),
        ("tune.space.algorithm.gama={low: 1, high: 3}", "tune.space.algorithm.gama", "did you mean 'gamma'"),
        ("tune.space.synthesis.k={low: 0.1, high: 1.5}", "tune.space.synthesis.k", "1.5 is not possible"),
        ("tune.space.synthesis.k=[1, 0.5]", "tune.space.synthesis.k", "mixes counts and fractions"),
        ("tune.space.synthesis.k=[10, 67]", "tune.space.synthesis.k", "'landbird', which has 66 training images"),
        ("tune.space.synthesis.source_probability_test=[true]", "source_probability_test", "True is not possible"),
        ("tune.space.dataset.scale=[1, 2]", "tune.space.dataset.scale", "cannot be searched"),
        ("tune.space.synthesis.name=[dbb]", "tune.space.synthesis.name", "cannot be searched"),
        ("tune.space=3", "tune.space", "expected parameters"),
        ("tune.metric=f1", "tune.metric", "'worst_group' or 'average'"),
        ("tune.trails=3", "tune.trails", "did you mean 'trials'"),
        ("tune.sampler=grid", "tune.sampler", "gamma.0 has no end of values"),
        ("tune.space.synthesis.dilation_px=[0, 2, 4, 6, 8]", "tune.max_pools", "dilation_px 5"),
        ("tune.space.inpainter.strength={low: 0.5, high: 1.0}", "tune.space.inpainter.strength", "no end of values"),
        ("tune.asha={grace_epochs: 4}", "tune.asha.grace_epochs", "3 epochs"),
        ("fit.num_workers=2", "fit.num_workers", "one worker"),
        ("fit_seed=3", "fit_seed is 3", "tune.num_refits"),
    ],
)
def test_a_space_that_cannot_be_is_refused_by_the_key(override: str, key: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(small_sweep("tiny", override))
    assert key in str(caught.value)
    assert why in str(caught.value)


def test_a_space_without_parameters_is_refused() -> None:
    overrides = [f"tune.space.{path}=null" for path in default_space("dbb", where="test")]
    with pytest.raises(ConfigError, match="nothing to search"):
        check(small_sweep("tiny", *overrides))


@pytest.mark.parametrize("recipe", ["erm", "erm_reweighted", "group_dro"])
def test_a_recipe_without_pictures_has_no_search(recipe: str) -> None:
    with pytest.raises(ConfigError, match=f"recipe '{recipe}' has no search; known: "):
        make_sweep({**DBB, "recipe": recipe}, [], where="test")


def test_a_grid_is_searched_if_it_fits_the_trials() -> None:
    paths = ("synthesis.attribution_threshold", "synthesis.source_probability_test", "algorithm.gamma")
    overrides = [f"tune.space.{path}=null" for path in paths]
    sweep = small_sweep("tiny", *overrides, sampler="grid", trials=10)
    check_sampler(sweep, expand(sweep.space, num_classes=2))
    with pytest.raises(ConfigError, match=r"10 points \(synthesis.k 10\), but tune.trials is 9"):
        check_sampler(small_sweep("tiny", *overrides, sampler="grid", trials=9), expand(sweep.space, num_classes=2))


def test_the_largest_amount_is_held_against_each_class(scenes_folder: Path) -> None:
    counts = open_dataset(small_sweep().run.dataset).class_counts("train")
    assert counts == {"landbird": 66, "waterbird": 36}
    folder = small_sweep("tiny", f"dataset={{name: folder, path: {scenes_folder}}}").run.dataset
    assert open_dataset(folder).class_counts("val") == {
        "landbird": 40,
        "waterbird": 40,
    }
    for amounts, ok in (("[66, 36]", True), ("[66, 37]", False), ("[67, 36]", False), ("1.0", True)):
        run = small_sweep("tiny", f"synthesis.k={amounts}").run
        if ok:
            check_amount(run, counts)
        else:
            with pytest.raises(ConfigError, match=r"tune\.space\.synthesis\.k"):
                check_amount(run, counts)


def test_amounts_per_class_make_one_pool_of_the_largest_of_each() -> None:
    sweep = small_sweep("tiny", "tune.space.synthesis.k={values: [10, 30], per_class: true}")
    check_space(sweep.run, sweep.space, num_classes=2)
    (candidate_set,) = candidate_set_configs(sweep.run, sweep.space, num_classes=2, max_pools=1).values()
    assert isinstance(candidate_set.synthesis, DbbConfig)
    assert candidate_set.synthesis.k == (30, 30)


def test_a_pair_is_searched_over_its_synthesis() -> None:
    sweep = make_sweep({**DBB, "recipe": "group_dro+dbb"}, [], where="test")
    assert sweep.run.recipe == "dbb+group_dro"
    assert set(sweep.space) == {path for path in default_space("dbb", where="test") if path.startswith("synthesis.")}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("scgs+jtt", r"scgs\+jtt cannot be searched: a trial is one fit .* jtt is not"),
        ("dbb+dfr", r"dbb\+dfr cannot be searched: a trial is one fit .* dfr is not"),
        ("jtt", "'jtt' has no search; known: "),
        ("nothing", "recipe is 'nothing'; known"),
    ],
)
def test_what_cannot_be_a_trial_is_refused_before_work(recipe: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_sweep({**DBB, "recipe": recipe}, [], where="test")
