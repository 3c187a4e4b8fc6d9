"""Which counterfactual and factual pictures are planned."""

from typing import Any

import numpy as np
import pytest
from score_tables import dataset, score_table, shuffled

from raygen.errors import DataError
from raygen.synthesis import infill
from raygen.synthesis.infill import InfillConfig

LABELS = [0, 0, 0, 1, 1, 1, 1]


def test_a_plan_has_a_picture_of_each_role_for_each_image() -> None:
    scores, names = score_table(LABELS, np.zeros((7, 2))), dataset()
    plan = infill.select(InfillConfig(prompt="a lake"), scores, dataset=names, run_seed=0)
    assert plan["role"].to_pylist() == ["counterfactual", "factual"] * 7
    assert plan["source_label"].equals(plan["target_label"])
    assert set(plan["prompt"].to_pylist()) == {"a lake"}
    assert plan.equals(
        infill.select(InfillConfig(prompt="a lake"), shuffled(scores, seed=1), dataset=names, run_seed=0)
    )
    for fields, role in (({"factual": None}, "counterfactual"), ({"counterfactual": None}, "factual")):
        one = infill.select(InfillConfig(**fields), scores, dataset=names, run_seed=0)
        assert one["role"].to_pylist() == [role] * 7
        assert set(one["key"].to_pylist()) <= set(plan["key"].to_pylist())
    painted = infill.select(InfillConfig(counterfactual="inpaint", when="training"), scores, dataset=names, run_seed=0)
    assert painted["role"].to_pylist() == ["counterfactual"] * 7


def test_a_larger_amount_only_adds_images_and_the_seed_draws_them() -> None:
    scores = score_table(LABELS * 8, np.zeros((56, 2)))
    keys: list[set[str]] = [
        {*infill.select(InfillConfig(k=k), scores, dataset=dataset(), run_seed=0)["key"].to_pylist()}
        for k in (1, 5, 0.5, 1.0)
    ]
    assert [len(found) for found in keys] == [4, 20, 56, 112]
    assert keys[0] < keys[1] < keys[2] < keys[3]
    other = infill.select(InfillConfig(k=5), scores, dataset=dataset(), run_seed=1)
    assert {*other["key"].to_pylist()} != keys[1]
    with pytest.raises(DataError, match="has 24 training image"):
        infill.select(InfillConfig(k=25), scores, dataset=dataset(), run_seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"counterfactual": None, "factual": None}, "both null"),
        ({"factual": "mixed_rand", "mask": "cam"}, "set mask to truth or box, or when: training"),
        ({"when": "training", "k": 5}, "leave it at 1.0"),
        ({"fgsm_epsilon": 0}, "greater than 0"),
        ({"counterfactual": "fgsm"}, "grey"),
        ({"factual": "tile"}, "shuffle"),
    ],
)
def test_what_cannot_be_made_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfillConfig(**fields)
    InfillConfig(factual="mixed_rand", mask="cam", when="training")
