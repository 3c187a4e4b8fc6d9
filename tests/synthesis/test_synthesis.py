import pytest
from pydantic import TypeAdapter
from score_tables import dataset, score_table

from raygen.maskers import MaskerConfig
from raygen.maskers.box import BoxConfig
from raygen.maskers.cam import CamConfig
from raygen.maskers.truth import TruthConfig
from raygen.maskers.whole import WholeConfig
from raygen.schema import PLAN
from raygen.synthesis import SynthesisConfig, masker, select


def config(**fields):
    return TypeAdapter(SynthesisConfig).validate_python(fields)


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
        ({"name": "dbb", "dilation_px": 3}, TruthConfig(dilation_px=3)),
        ({"name": "dbb", "mask": "box"}, BoxConfig(dilation_px=8)),
        (
            {"name": "dbb", "mask": "cam", "tau": 0.4},
            CamConfig(method="gradcam++", tau=0.4, repaint="attended", explain="source_label", dilation_px=8),
        ),
    ],
)
def test_each_synthesis_asks_for_a_masker_that_exists(fields, expected):
    assert TypeAdapter(MaskerConfig).validate_python(masker(config(**fields))) == expected


@pytest.mark.parametrize("name", ["scgs", "dbb"])
def test_each_synthesis_plans_rows_of_the_schema_sorted_by_key(name):
    scores = score_table([0, 0, 0, 1, 1, 1], [[0, 1], [0, 2], [1, 0], [1, 0], [2, 0], [0, 1]])
    plan = select(config(name=name), scores, dataset=dataset(), run_seed=0)
    assert plan.schema == PLAN
    assert plan.num_rows
    keys = plan["key"].to_pylist()
    assert keys == sorted(set(keys))
