"""Measures beside accuracy in summary.json, in the terminal, on the page, and compared over runs."""

import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import write_run

from raygen.report import compare, summarize, write_comparison, write_report
from raygen.report.measures import MEASURES, absent, explained, shown, table
from raygen.report.scatter import Point, scatter
from raygen.report.tables import print_comparison, print_results

RESULTS = ("erm", "dbb", "control_flat")


def test_the_summary_has_them_per_result(measured_run: Path) -> None:
    for number, name in enumerate(RESULTS):
        found = summarize(measured_run)["results"][name]["test"]["measures"]
        assert found["saliency_aupr"]["value"] == pytest.approx(0.625 - 0.1 * number)
        assert (found["saliency_aupr"]["n"], found["saliency_aupr"]["constant"]) == (8, 0.25)
        assert found["pointing_game"]["value"] == 0.5
        assert found["auc"]["value"] == 0.5  # logits say which number an image has, not which class
        assert found["flip_rate"]["value"] is None


def test_the_terminal_shows_values_what_a_constant_score_gives_and_what_is_not_there(
    measured_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    print_results(summarize(measured_run))
    text = capsys.readouterr().out
    _, _, after = text.partition("measures: test, %")
    lines = {words[0]: words[1:] for line in after.splitlines() if len(words := line.replace("│", "").split()) > 1}
    assert lines["erm"] == ["62.5", "50.0", "50.0"]
    assert lines["control_flat"] == ["42.5", "50.0", "50.0"]
    assert "One score for all pixels gives 25.0." in text
    assert "flip rate: not measured: the dataset has no pictures with the background exchanged" in text


def test_the_page_shows_the_same_with_a_scatter_against_either_accuracy(measured_run: Path) -> None:
    page = write_report(measured_run).read_text(encoding="utf-8")
    section = page[page.index('<section id="measures"') : page.index('id="pictures"')]
    assert [cell.strip() for cell in re.findall(r"<td>([0-9.+]+)<small>", section)] == [
        *("62.5", "50.0", "50.0"),
        *("52.5", "50.0", "50.0"),
        *("42.5", "50.0", "50.0"),
    ]
    assert section.count("<svg") == 2
    assert "erm: saliency AUPR 62.5%, worst-group accuracy 16.7%" in section
    assert "dbb: saliency AUPR 52.5%, average accuracy 85.7%" in section
    assert "next-class shift: not measured: there are no pairs" in section
    assert "nan" not in section.lower()


def test_without_measures_nothing_is_said_of_them(
    finished_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    summary = summarize(finished_run)
    print_results(summary)
    assert "saliency" not in capsys.readouterr().out
    assert 'id="measures"' not in write_report(finished_run).read_text(encoding="utf-8")
    for by_split in summary["results"].values():  # as summary.json of before had it
        for entry in by_split.values():
            del entry["measures"]
    print_results(summary)


def test_a_comparison_has_their_means_over_the_runs_that_have_them(
    measured_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    second = write_run(tmp_path / "second", seed=1)
    rows = write_comparison([measured_run, second], tmp_path / "comparison.html")
    (row,) = [row for row in rows if (row["result"], row["split"]) == ("dbb", "test")]
    saliency = pytest.approx(0.525)
    assert row["measures"]["saliency_aupr"] == {
        "mean": saliency,
        "std": None,
        "min": saliency,
        "max": saliency,
        "constant": 0.25,
    }
    assert set(row["measures"]) == {"saliency_aupr", "pointing_game", "auc"}
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<td>52.5<small>") == 1
    assert page.count("dbb: saliency AUPR 52.5%") == 2
    print_comparison(rows)
    line = next(line for line in capsys.readouterr().out.splitlines() if "dbb: dbb" in line)
    assert line.replace("│", "").split() == ["dbb:", "dbb", "52.5", "50.0", "50.0"]


def entry(**measures: Any) -> dict[str, Any]:
    found = {
        name: {"value": value, "n": 4, "interval": None, "constant": 0.2, "reason": "why"}
        for name, value in measures.items()
    }
    return {"worst_group": 0.5, "average": 0.75, "measures": found}


def test_a_measure_that_some_result_has_is_shown_and_explained() -> None:
    entries = [entry(auc=0.75, flip_rate=None), entry(auc=None, flip_rate=None), {"worst_group": 0, "average": 0}]
    assert shown(entries) == ["auc"]
    assert absent(entries) == ["flip rate: not measured: why"]
    ((title, sentence),) = explained(entries)
    assert title == "AUC"
    assert sentence.endswith("A logit that knows nothing gives 20.0.")
    found = table(dict(zip("abc", entries, strict=True)), split="test", recipe="a", noun="group")
    assert [row["cells"][0]["text"] for row in found["rows"]] == ["75.0", "–", "–"]


def test_differences_have_their_sign_and_every_measure_a_sentence() -> None:
    found = table({"a": entry(next_class_shift=-0.031)}, split="test", recipe="a", noun="class")
    assert found["rows"][0]["cells"][0]["text"] == "−3.1"
    assert all(words.text.endswith(".") for words in MEASURES.values())


def test_one_result_makes_no_scatter() -> None:
    found = table({"a": entry(saliency_aupr=0.4), "b": entry(auc=0.5)}, split="test", recipe="a", noun="group")
    assert found["scatter"] == []


def test_dots_of_a_scatter_stand_at_their_values_and_names_clear_of_them() -> None:
    points = [Point("before", "erm", 0.2, 0.0), Point("after", "<a>", 0.2, 0.5), Point("other", "c", 0.3, 1.0)]
    svg = str(scatter(points, x_name="x", y_name="y", constant=0.1))
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle class="dot" cx="([0-9.]+)" cy="([0-9.]+)"', svg)]
    (x0, y0), (x1, y1), (x2, y2) = dots
    assert x0 == x1 < x2
    assert y1 == pytest.approx((y0 + y2) / 2, abs=0.1)  # up is a smaller y
    (line,) = re.findall(r'class="threshold" x1="([0-9.]+)"', svg)
    assert x0 - float(line) == pytest.approx(x2 - x0, abs=0.2)
    assert "<a>" not in svg
    assert [name for name in ("erm", "&lt;a&gt;", "c") if f">{name}</text>" in svg] == ["erm", "&lt;a&gt;", "c"]


def test_names_that_have_no_room_are_left_to_the_dots_titles() -> None:
    points = [Point("other", f"result {number}", 0.2, 0.5) for number in range(30)]
    svg = str(scatter(points, x_name="x", y_name="y", constant=0.2))
    assert svg.count("<circle") == svg.count("<title>") == 30
    places = re.findall(r'class="value" x="([0-9.]+)" y="([0-9.]+)" text-anchor="(\w+)"', svg)
    assert 0 < len(places) == len(set(places)) < 30


def test_without_attributes_nothing_is_called_a_group(
    erm_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    second = write_run(tmp_path / "second", recipe="erm", seed=1, has_attributes=False)
    summary = summarize(erm_run)
    print_results(summary)
    rows = compare([erm_run, second])
    assert {row["noun"] for row in rows} == {"class"}
    print_comparison(rows)
    terminal = capsys.readouterr().out
    assert terminal.count("worst class") == 3  # a title and a column, and the comparison's column
    assert "c0" in terminal
    page = write_report(erm_run).read_text(encoding="utf-8")
    write_comparison([erm_run, second], tmp_path / "comparison.html")
    comparison = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    for text in (terminal, _words(page), _words(comparison)):
        said = re.sub(r"a group inside of a class", "", text)
        assert not re.search(r"worst.group|\bgroups?\b", said, re.IGNORECASE), said
    assert "a group inside of a class" in terminal
    assert "a group inside of a class" in page


def _words(page: str) -> str:
    """What a reader sees or hears of a page."""
    body = re.sub(r"(?s)<style>.*?</style>|<pre.*?</pre>", "", page).replace('role="group"', "")
    return re.sub(r"data:[^\"]*", "", body)
