"""Which parameters share a candidate set, and that one of the largest amount holds the pictures of all smaller ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from score_tables import dataset, score_table
from small_sweeps import ONLY_K, small_sweep
from tiny_pipelines import save_pipeline

from raygen.config import Decides, Strict
from raygen.errors import ConfigError
from raygen.run.opened import Opened
from raygen.synthesis import SYNTHESES, SynthesisConfig
from raygen.synthesis.dbb import DbbConfig
from tune.candidate_sets import candidate_set_configs, candidate_set_name, plan_candidate_sets
from tune.spaces import config_at
from tune.sweep_config import make_sweep

# The shipped CLIPSeg, which is DBB's default, looks for nothing in other pictures.
SCENES = replace(dataset(), name="scenes")
# Another value of every field of every synthesis but its name and amount.
OTHERS = {
    "dbb": {
        "target": (1, 0),
        "mask": "box",
        "language": {"threshold": 0.4},
        "dilation_px": 3,
        "tau": 0.7,
        "prune": False,
        "source_probability_test": "off",
        "attribution": "ig",
        "num_steps": 7,
        "completeness_tolerance": 0.1,
        "attribution_test": "off",
        "attribution_threshold": 0.5,
    },
    "scgs": {
        "mis_source": "kfold",
        "mis_epoch": 3,
        "num_folds": 3,
        "num_clusters": 3,
        "sample_fraction": 0.7,
        "covariance": "uniform",
        "max_components": 2,
        "temperature": 2.0,
        "cam": "gradcam",
        "tau": 0.2,
        "top_q": 0.1,
        "min_kept_fraction": 0.1,
        "gen_ratio_base": "mis_other",
    },
}

# What has to be so for a field to be set at all.
NEEDS: dict[str, dict[str, object]] = {"completeness_tolerance": {"attribution": "ig"}}


def scores() -> pa.Table:
    """Forty images of two classes, a quarter of them misclassified."""
    rng = np.random.default_rng(0)
    labels = [0] * 25 + [1] * 15
    logits_NC = rng.normal(size=(40, 2)) + 1.5 * np.eye(2)[labels]
    return score_table(labels, logits_NC, features_ND=rng.normal(size=(40, 6)))


def config(**fields: object) -> Any:
    return TypeAdapter(SynthesisConfig).validate_python(fields)


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_the_fields_of_a_synthesis_are_all_known(name: str) -> None:
    """A new field must be told apart: does it change pictures, or only which are kept?"""
    kind: type[Strict] = type(config(name=name))
    (amount,) = kind.fields_of(Decides.AMOUNT)
    assert set(kind.model_fields) == {*OTHERS[name], "name", amount}
    assert {*kind.fields_of(Decides.FIT)} <= {*OTHERS[name]}


@pytest.mark.parametrize(("name", "field"), [(name, field) for name, fields in OTHERS.items() for field in fields])
def test_a_filter_leaves_the_pictures_as_they_are_and_shares_the_pool(name: str, field: str) -> None:
    run = make_sweep({"recipe": name, "dataset": {"name": "scenes"}}, [], where="test").run
    needs = NEEDS.get(field, {})
    first, other = config(name=name, **needs), config(name=name, **{**needs, field: OTHERS[name][field]})
    is_filter, paper = first.decides(field) is Decides.FIT, SYNTHESES[name]
    if is_filter:
        plans = [paper.select(c, scores(), dataset=dataset(), run_seed=0) for c in (first, other)]
        assert plans[0].equals(plans[1])
        assert paper.masker(first, SCENES) == paper.masker(other, SCENES)
        assert first.measure() == other.measure()
        assert first.identification_epochs() == other.identification_epochs()
        assert first.identification_folds() == other.identification_folds()
    names = {candidate_set_name(run.model_copy(update={"synthesis": c})) for c in (first, other)}
    assert len(names) == (1 if is_filter else 2)


@pytest.mark.parametrize(
    ("name", "amounts"),
    [("dbb", [0.1, 0.3, 0.7, 1.0]), ("dbb", [1, 4, 15]), ("scgs", [0.1, 0.4, 1.0, 3.0])],
)
def test_pictures_of_a_smaller_amount_are_among_those_of_a_larger_one(name: str, amounts: list[float]) -> None:
    (field,) = config(name=name).fields_of(Decides.AMOUNT)
    plans = [
        SYNTHESES[name].select(config(name=name, **{field: amount}), scores(), dataset=dataset(), run_seed=0)
        for amount in amounts
    ]
    assert plans[0].num_rows < plans[-1].num_rows
    largest = plans[-1]
    for plan in plans[:-1]:
        # Equal in all columns: the same source, seed, prompt and target, hence the same picture.
        assert largest.filter(pc.is_in(largest["key"], plan["key"].combine_chunks())).equals(plan)


def test_the_default_dbb_space_needs_one_pool_of_all_images() -> None:
    sweep = small_sweep()
    (candidate_set,) = candidate_set_configs(sweep.run, sweep.space, num_classes=2, max_pools=1).values()
    assert isinstance(candidate_set.synthesis, DbbConfig)
    assert candidate_set.synthesis.k == 1.0
    for k in (0.1, 0.5):
        point = {
            "synthesis.k": k,
            "synthesis.source_probability_test": "off",
            "algorithm.gamma.0": 3,
            "algorithm.gamma.1": 9,
        }
        assert candidate_set_name(config_at(sweep.run, point, space=sweep.space)) == candidate_set_name(candidate_set)


def test_the_default_scgs_space_needs_four_pools_of_the_largest_ratio() -> None:
    sweep = make_sweep({"recipe": "scgs", "dataset": {"name": "scenes"}}, [], where="test")
    candidate_sets = candidate_set_configs(sweep.run, sweep.space, num_classes=2, max_pools=sweep.search.max_pools)
    made = {(c.synthesis.num_clusters, c.synthesis.tau, c.synthesis.gen_ratio) for c in candidate_sets.values()}  # type: ignore[union-attr]
    assert made == {(2, 0.5, 0.4), (2, 0.7, 0.4), (4, 0.5, 0.4), (4, 0.7, 0.4)}
    assert "synthesis.num_clusters" in sweep.space


def test_more_pools_than_the_limit_are_refused_with_their_number() -> None:
    sweep = small_sweep(
        "tiny", "tune.space.inpainter.num_inference_steps=[2, 4, 8]", "tune.space.synthesis.tau=[0.4, 0.6]"
    )
    with pytest.raises(ConfigError, match=r"6 pools .*num_inference_steps 3, synthesis.tau 2.*max_pools is 5"):
        candidate_set_configs(sweep.run, sweep.space, num_classes=2, max_pools=5)
    assert len(candidate_set_configs(sweep.run, sweep.space, num_classes=2, max_pools=6)) == 6


def test_where_the_endpoint_is_does_not_make_another_pool() -> None:
    run = small_sweep().run
    reduced = run.model_copy(update={"inpainter": run.inpainter.model_copy(update={"on_out_of_memory": "reduce"})})
    assert candidate_set_name(reduced) == candidate_set_name(run)


def test_pools_of_one_model_learn_their_tokens_once(tmp_path: Path) -> None:
    model = save_pipeline(tmp_path / "model")
    quick = "textual_inversion={num_images: 4, num_steps: 1, batch_size: 1, initializers: [l, w]}"
    sweep = small_sweep(model, quick, "tune.space.synthesis.dilation_px=[4, 8]", *ONLY_K)
    configs = candidate_set_configs(sweep.run, sweep.space, num_classes=2, max_pools=2)
    opened = {name: Opened(config) for name, config in configs.items()}
    _, planned = plan_candidate_sets(opened, tmp_path / "sweep", lambda line: None)
    assert len(planned) == 2
    (tokens,) = {candidate_set.run.done["tokens"].folder for candidate_set in planned}
    assert (tokens / "landbird" / "learned_embeds.safetensors").is_file()
    for candidate_set in planned:
        prompts = pq.read_table(candidate_set.run.done["plan"].folder / "plan.parquet")["prompt"].to_pylist()
        assert {*prompts} == {"a photo of a <landbird> landbird", "a photo of a <waterbird> waterbird"}
