import itertools
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raygen.errors import DataError
from raygen.pruners import PruneThresholds, nothing_kept, verdicts

THRESHOLDS = PruneThresholds(source_probability_below={0: 0.5, 1: 0.8}, attribution_above={0: 1.0, 1: 2.0})


def candidates(*rows: tuple[str, int, int, float | None, float | None]) -> pa.Table:
    names = ("status", "source_label", "target_label", "source_probability", "attribution_inside")
    return pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})


@pytest.mark.parametrize(("psi_above", "rho_above"), list(itertools.product([-1, 0, 1], repeat=2)))
@pytest.mark.parametrize(("source", "target"), [(0, 1), (1, 0)])
def test_kept_only_strictly_below_psi_of_the_source_and_strictly_above_p_of_the_target(
    source: Any, target: int, psi_above: bool, rho_above: bool
) -> None:
    psi = THRESHOLDS.source_probability_below[source] + 0.125 * psi_above
    rho = THRESHOLDS.attribution_above[target] + 0.125 * rho_above
    kept_N, reasons = verdicts(candidates(("ok", source, target, psi, rho)), THRESHOLDS)
    expected = {
        (True, True): None,
        (False, True): "source_probability",
        (True, False): "attribution_inside",
        (False, False): "source_probability+attribution_inside",
    }[psi_above < 0, rho_above > 0]
    assert reasons == [expected]
    assert kept_N.tolist() == [expected is None]


def test_failed_candidate_is_never_kept_and_needs_no_scores() -> None:
    kept_N, reasons = verdicts(candidates(("failed", 0, 1, None, None), ("ok", 0, 1, 0.0, 9.0)), THRESHOLDS)
    assert kept_N.tolist() == [False, True]
    assert reasons == ["failed", None]


def test_without_thresholds_every_candidate_that_did_not_fail_is_kept() -> None:
    kept_N, reasons = verdicts(candidates(("ok", 0, 1, 1.0, None), ("failed", 0, 1, None, None)), PruneThresholds())
    assert kept_N.tolist() == [True, False]
    assert reasons == [None, "failed"]


def test_one_empty_mapping_switches_off_its_test_only() -> None:
    rows = candidates(("ok", 0, 1, 0.9, 9.0), ("ok", 0, 1, 0.1, 0.0))
    only_rho = PruneThresholds(attribution_above=THRESHOLDS.attribution_above)
    assert verdicts(rows, only_rho)[1] == [None, "attribution_inside"]
    only_psi = PruneThresholds(source_probability_below=THRESHOLDS.source_probability_below)
    assert verdicts(rows, only_psi)[1] == ["source_probability", None]


def test_label_without_a_threshold_and_row_without_a_score_are_errors() -> None:
    with pytest.raises(DataError, match="source_label 2"):
        verdicts(candidates(("ok", 2, 1, 0.1, 9.0)), THRESHOLDS)
    with pytest.raises(DataError, match="no attribution_inside"):
        verdicts(candidates(("ok", 0, 1, 0.1, None)), THRESHOLDS)


def test_no_candidates_no_verdicts() -> None:
    empty = candidates(("ok", 0, 1, 0.1, 9.0)).slice(0, 0)
    kept_N, reasons = verdicts(empty, THRESHOLDS)
    assert kept_N.dtype == bool
    assert kept_N.shape == (0,)
    assert reasons == []


def test_thresholds_survive_json_to_the_bit() -> None:
    psi = float(np.random.default_rng(0).random())
    thresholds = PruneThresholds(source_probability_below={0: psi}, attribution_above={1: -psi / 3})
    assert PruneThresholds.model_validate_json(thresholds.model_dump_json()) == thresholds


@pytest.mark.parametrize(
    ("statuses", "reasons", "expected", "absent"),
    [
        (["failed"] * 3, ["failed"] * 3, r"all 3 pictures to generate failed.*\n  2 x no object\n  1 x black", "prun"),
        (
            ["ok"] * 3,
            ["source_probability"] * 2 + ["attribution_inside"],
            r"none of 3 .*2 by source_probability",
            "fail",
        ),
        (
            ["ok", "failed", "failed"],
            ["source_probability", "failed", "failed"],
            r"none of 1 .*2 more of 3 failed",
            "all",
        ),
    ],
)
def test_where_nothing_is_kept_the_message_says_why(
    statuses: list[str], reasons: Any, expected: Any, absent: Any
) -> None:
    errors = [
        error if status == "failed" else None
        for status, error in zip(statuses, ["no object", "black", "no object"], strict=True)
    ]
    found = nothing_kept(pa.table({"status": statuses, "error": errors}), reasons)
    assert re.search(expected, found, re.DOTALL)
    assert absent not in found
