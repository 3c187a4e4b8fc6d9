import re

import pytest

from raygen.report.sweep import parameter_name
from raygen.report.sweep_figures import Axis, TrialLine, against, parallel_coordinates
from raygen.report.words import describe_point

METRIC = Axis("worst-group accuracy", "validation", low=0.2, high=0.6, is_share=True)
K = Axis("k", low=0.0, high=1.0)
TEST = Axis("test", points=("selected", "off"))


def line(k: float, test: str, metric: float, role: str = "complete", error: float = 0.05) -> TrialLine:
    return TrialLine((k, test, metric), role, f"trial <{k}>", error)


def numbers(path: str) -> list[float]:
    return [float(text) for text in re.findall(r"-?[\d.]+", path)]


def test_a_value_lies_where_it_is_on_its_axis() -> None:
    assert [K.place(value) for value in (0.0, 0.25, 1.0)] == [0.0, 0.25, 1.0]
    assert METRIC.place(0.3) == pytest.approx(0.25)
    assert [TEST.place(value) for value in ("selected", "off")] == [0.25, 0.75]
    assert Axis("mixed", points=("1", "0.5")).place(0.5) == 0.75
    assert Axis("flat", low=3.0, high=3.0).place(3.0) == 0.5
    assert [text for _, text in METRIC.ticks()] == ["20.0%", "60.0%"]


def test_every_trial_is_one_line_with_a_corner_on_every_axis() -> None:
    figure = parallel_coordinates([K, TEST, METRIC], [line(0.1, "off", 0.2), line(0.9, "selected", 0.6, "best")])
    paths = re.findall(r'<path class="trial (\w+)" style="stroke-opacity:([\d.]+)" d="([^"]+)">', figure)
    assert [role for role, _, _ in paths] == ["complete", "best"]  # the best is drawn last, above the others
    assert float(paths[0][1]) < float(paths[1][1]) == 1.0
    for _, _, path in paths:
        assert len(numbers(path)) == 2 * 3
    low, high = (numbers(path)[-1] for _, _, path in paths)
    assert low > high  # the higher metric is further up
    assert "trial &lt;0.1&gt;" in figure


def test_a_complete_trial_has_a_whisker_of_one_standard_error_and_a_stopped_one_a_cross() -> None:
    figure = against(K, METRIC, [line(0.5, "off", 0.4), line(0.2, "off", 0.3, "stopped")], column=0)
    ((top, bottom),) = [
        sorted((float(a), float(b)))
        for a, b in re.findall(r'<line x1="[\d.]+" x2="[\d.]+" y1="([\d.]+)" y2="([\d.]+)"', figure)
    ]
    frame = re.findall(r'<line class="grid" x1="\d+" x2="\d+" y1="([\d.]+)"', figure)
    height = float(frame[0]) - float(frame[-1])
    # 0.05 up and down of an axis of 0.4.
    assert bottom - top == pytest.approx(height / 4, abs=0.2)
    assert figure.count("<circle") == 1
    assert figure.count('class="trial stopped"') == 1


def test_a_whisker_ends_at_the_frame() -> None:
    figure = against(K, METRIC, [line(0.5, "off", 0.6, error=0.5)], column=0)
    ((y1, y2),) = re.findall(r'<line x1="[\d.]+" x2="[\d.]+" y1="([\d.]+)" y2="([\d.]+)"', figure)
    frame = [float(y) for y in re.findall(r'<line class="grid" x1="\d+" x2="\d+" y1="([\d.]+)"', figure)]
    assert {float(y1), float(y2)} == {max(frame), min(frame)}


def test_points_are_described_with_their_classes_together() -> None:
    point = {"synthesis.k": 0.4, "algorithm.gamma.0": 3, "algorithm.gamma.1": 7, "synthesis.prune": False}
    assert describe_point(point) == "k=0.4 gamma=[3, 7] prune=False"
    assert parameter_name("algorithm.gamma.1", ["landbird", "waterbird"]) == ("gamma", "waterbird")
    assert parameter_name("synthesis.k", ["landbird", "waterbird"]) == ("k", "")
