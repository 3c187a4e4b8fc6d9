import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from raygen.report.figures import (
    MAX_POINTS,
    Estimate,
    ScorePanel,
    bar,
    estimate_rows,
    percent,
    percent_axis,
    score_panel,
    stacked_bar,
)


def number(text: str | None) -> float:
    assert text is not None
    return float(text)


def share(text: str | None) -> float:
    """Where a percent coordinate stands on the axis, whose margins are 1%."""
    return (number((text or "").rstrip("%")) - 1) / 98


def panel(**changes: Any) -> ScorePanel:
    values = {
        "title": "a to b",
        "source_probability_N": np.array([0.0, 0.5, 1.0]),
        "attribution_inside_N": np.array([2.0, -1.0, 0.5]),
        "kept_N": np.array([True, False, False]),
        "source_probability_below": 0.8,
        "attribution_above": 1.0,
    }
    return ScorePanel(**{**values, **changes})


def test_dots_and_intervals_stand_at_their_values() -> None:
    svg = ET.fromstring(estimate_rows([Estimate("before", "erm", 0.4, 0.3, 0.55), Estimate("after", "dbb", 1, 0.9, 1)]))
    dots = [share(dot.get("cx")) for dot in svg.iter("circle")]
    lines = [line for line in svg.iter("line") if line.get("class") == "whisker"]
    whiskers = [(share(line.get("x1")), share(line.get("x2"))) for line in lines]
    assert dots == pytest.approx([0.4, 1.0], abs=1e-3)
    assert np.array(whiskers) == pytest.approx(np.array([[0.3, 0.55], [0.9, 1.0]]), abs=1e-3)
    assert svg.get("aria-label") == "erm 40.0%, interval 30.0% to 55.0%; dbb 100.0%, interval 90.0% to 100.0%"


def test_value_beside_a_high_dot_stays_inside() -> None:
    svg = ET.fromstring(estimate_rows([Estimate("after", "dbb", 0.99, 0.97, 1.0)]))
    text = next(t for t in svg.iter("text"))
    assert text.get("text-anchor") == "end"
    assert share(text.get("x")) == pytest.approx(0.97, abs=1e-3)


def test_stacked_bar_fills_the_width_in_proportion() -> None:
    svg = ET.fromstring(stacked_bar([("kept", "kept", 1), ("pruned", "both", 0), ("failed", "failed", 3)]))
    places = [(number(r.get("x", "")[:-1]), number(r.get("width", "")[:-1])) for r in svg.iter("rect")]
    assert places == [(0, 25), (25, 0), (25, 75)]
    (empty,) = ET.fromstring(stacked_bar([("kept", "kept", 0)])).iter("rect")
    assert empty.get("width") == "0.000%"


def test_points_and_thresholds_stand_at_their_values() -> None:
    svg = ET.fromstring(score_panel(panel()))
    lines = [line for line in svg.iter("line") if line.get("class") == "threshold"]
    psi_x, rho_y = number(lines[0].get("x1")), number(lines[1].get("y1"))
    points = {path.get("class"): path.get("d", "") for path in svg.iter("path")}
    (kept,) = re.findall(r"M([\d.]+) ([\d.]+)h0", points["points kept"])
    assert float(kept[0]) < psi_x
    assert float(kept[1]) < rho_y  # up is less in SVG
    pruned = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+) ([\d.]+)m", points["points pruned"])]
    # psi 0.5 lies in the middle of the axis, psi 1 at its end; psi 0 at its start.
    assert pruned[0][0] == pytest.approx((float(kept[0]) + pruned[1][0]) / 2, abs=0.1)
    assert pruned[0][1] > rho_y
    region = next(r for r in svg.iter("rect"))
    assert number(region.get("x")) + number(region.get("width")) == pytest.approx(psi_x, abs=0.1)
    assert number(region.get("y")) + number(region.get("height")) == pytest.approx(rho_y, abs=0.1)


def test_test_that_is_off_has_no_line() -> None:
    svg = ET.fromstring(score_panel(panel(source_probability_below=None, attribution_above=None)))
    assert not [line for line in svg.iter("line") if line.get("class") == "threshold"]


@pytest.mark.parametrize("rho", [[], [0.0], [3.0, 3.0], [-1e-9, 1e-9], [-4000.0, 1e5], [np.nan, np.inf, 1.0]])
def test_any_scores_make_a_figure(rho: Any) -> None:
    num = len(rho)
    scores = {"source_probability_N": np.full(num, 0.5), "attribution_inside_N": np.array(rho)}
    svg = score_panel(panel(**scores, kept_N=np.ones(num, dtype=bool)))
    assert not re.search("nan|inf(?!ormation)", ET.tostring(ET.fromstring(svg)).decode())


def test_many_points_are_thinned() -> None:
    num = 4 * MAX_POINTS
    scores = {"source_probability_N": np.linspace(0, 1, num), "attribution_inside_N": np.linspace(0, 1, num)}
    svg = score_panel(panel(**scores, kept_N=np.zeros(num, dtype=bool)))
    assert svg.count("m-2-2l4 4m0-4l-4 4") == MAX_POINTS


def test_names_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    for svg in (
        estimate_rows([Estimate("after", evil, 0.5, 0.4, 0.6)]),
        stacked_bar([("kept", evil, 1)]),
        bar(0.5, evil),
        score_panel(panel(title=evil)),
    ):
        assert "<script" not in svg
        ET.fromstring(svg)


def test_percent_has_one_digit() -> None:
    assert [percent(0.4124), percent(1), percent(0.5, 0)] == ["41.2%", "100.0%", "50%"]
    assert "25%" in percent_axis()
