from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter
from score_tables import dataset, score_table

from raygen.datasets.table import DatasetInfo
from raygen.errors import ConfigError
from raygen.maskers import MaskerConfig
from raygen.maskers.box import BoxConfig
from raygen.maskers.cam import CamConfig
from raygen.maskers.clipseg import ClipsegConfig
from raygen.maskers.grounded_sam import GroundedSamConfig
from raygen.maskers.language import LanguageConfig
from raygen.maskers.truth import TruthConfig
from raygen.maskers.whole import WholeConfig
from raygen.schema import PLAN, ROLE
from raygen.synthesis import SYNTHESES, SynthesisConfig, of


def config(**fields: Any) -> Any:
    return TypeAdapter(SynthesisConfig).validate_python(fields)


def masker(found: Any, dataset: DatasetInfo) -> dict[str, Any]:
    return of(found).masker(found, dataset)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"name": "scgs", "tau": 0.6, "cam": "gradcam"},
            CamConfig(method="gradcam", tau=0.6, repaint="unattended", explain="predicted_label", dilation_px=0),
        ),
        (
            {"name": "scgs", "top_q": 0.1},
            CamConfig(repaint="unattended", explain="predicted_label", dilation_px=0, top_q=0.1),
        ),
        ({"name": "scgs", "cam": "none"}, WholeConfig()),
        (
            {"name": "dbb", "language": {"model": "someone/clipseg"}},
            LanguageConfig(finder=ClipsegConfig(model="someone/clipseg"), texts=("cat", "dog")),
        ),
        (
            {"name": "dbb", "language": {"text": "an animal", "threshold": 0.4}, "dilation_px": 3},
            LanguageConfig(
                finder=ClipsegConfig(text="an animal", threshold=0.4), texts=("an animal", "an animal"), dilation_px=3
            ),
        ),
        (
            {"name": "dbb", "language": {"kind": "grounded_sam", "text": ["a cat", "a dog"]}},
            LanguageConfig(finder=GroundedSamConfig(text=("a cat", "a dog")), texts=("a cat", "a dog")),
        ),
        ({"name": "dbb", "mask": "truth", "dilation_px": 3}, TruthConfig(dilation_px=3)),
        ({"name": "dbb", "mask": "box"}, BoxConfig(dilation_px=8)),
        (
            {"name": "dbb", "mask": "cam", "tau": 0.4},
            CamConfig(method="gradcam++", tau=0.4, repaint="attended", explain="source_label", dilation_px=8),
        ),
        ({"name": "infill"}, TruthConfig(dilation_px=0)),
        ({"name": "infill", "mask": "box", "dilation_px": 2}, BoxConfig(dilation_px=2)),
        ({"name": "infill", "mask": "cam"}, CamConfig(tau=0.5, repaint="attended", dilation_px=0)),
        (
            {"name": "infill", "mask": "language", "language": {"text": "an animal"}},
            LanguageConfig(finder=ClipsegConfig(text="an animal"), texts=("an animal", "an animal"), dilation_px=0),
        ),
    ],
)
def test_each_synthesis_asks_for_a_masker_that_exists(fields: Any, expected: Any) -> None:
    assert TypeAdapter(MaskerConfig).validate_python(masker(config(**fields), dataset=dataset())) == expected


@pytest.mark.parametrize(
    ("text", "reason"), [(["a cat"], "1 entries, but the dataset has 2 classes"), (" ", "names nothing")]
)
def test_texts_that_do_not_fit_the_classes_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        masker(config(name="dbb", language={"text": text}), dataset=dataset())


def test_the_shipped_model_looks_for_birds_in_scenes_and_refuses_other_pictures() -> None:
    scenes = DatasetInfo("scenes", ("landbird", "waterbird"), (), ("", ""), ("bird", "bird"))
    assert masker(config(name="dbb"), dataset=scenes)["texts"] == ("bird", "bird")
    with pytest.raises(ConfigError, match="knows only the birds of 'scenes', but the dataset is 'animals'"):
        masker(config(name="dbb"), dataset=dataset())


@pytest.mark.parametrize("name", sorted(SYNTHESES))
def test_each_synthesis_plans_rows_of_the_schema_sorted_by_key(name: str) -> None:
    scores = score_table([0, 0, 0, 1, 1, 1], [[0, 1], [0, 2], [1, 0], [1, 0], [2, 0], [0, 1]])
    plan = SYNTHESES[name].select(config(name=name), scores, dataset=dataset(), run_seed=0)
    roles = [ROLE] if config(name=name).as_candidates() else []
    assert plan.schema == pa.schema([*PLAN, *roles])
    assert plan.num_rows
    keys = plan["key"].to_pylist()
    assert keys == sorted(set(keys))


@pytest.mark.parametrize(
    "fields",
    [{"name": "dbb", "k": 2}, {"name": "dbb", "k": 2, "target": [1, 0]}, {"name": "scgs"}, {"name": "infill", "k": 3}],
)
def test_only_the_columns_that_it_names_are_read(fields: dict[str, Any]) -> None:
    found = config(**fields)
    logits_NC = np.random.default_rng(0).normal(size=(40, 2))
    scores = score_table([n % 2 for n in range(40)], logits_NC)
    names = dataset(2)
    expected = of(found).select(found, scores, dataset=names, run_seed=0)
    assert expected.num_rows
    assert of(found).select(found, scores.select(found.score_columns()), dataset=names, run_seed=0).equals(expected)
