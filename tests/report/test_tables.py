from pathlib import Path

import pytest
from report_runs import write_run

from raygen.report import compare, summarize
from raygen.report.tables import print_checks, print_comparison, print_results
from raygen.storage.run_folder import Step


def test_results_are_printed_with_their_numbers(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    print_results(summarize(finished_run))
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if " dbb " in line)
    # 24 of 28 right; the worst group 6 of 8.
    assert "85.7" in line
    assert "75.0" in line
    assert "7 planned, 6 generated, 2 kept" in text


def test_the_share_of_the_loss_that_the_fit_noted_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    run = write_run(tmp_path / "run")
    for name, share in (("dbb", 0.714), ("control_flat", 0.25)):
        step = Step(run / "fit" / name, {})
        step.begin()
        step.finish({"generated_share": share})
    summary = summarize(run)
    assert summary["generated_share"] == {"dbb": 0.714, "control_flat": 0.25}
    print_results(summary)
    assert "the kept pictures hold 71% of the loss of dbb" in capsys.readouterr().out


def test_no_number_is_cut_however_long_a_name_is(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    summary = summarize(finished_run)
    long = "cf(inpaint)+f(mixed_rand)+group_dro+sal"
    print_results({**summary, "results": {long: summary["results"]["dbb"], **summary["results"]}})
    text = capsys.readouterr().out
    assert "…" not in text.replace("g0, g1 …", "")
    # The name goes on in the next lines of its column, which ends before the first number.
    assert long in "".join(line[:17].strip() for line in text.splitlines() if line.startswith("  "))


def test_comparison_is_printed_with_one_line_per_test_row(
    finished_run: Path, erm_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    rows = compare([finished_run, erm_run])
    print_comparison(rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in rows:
        cells = [row["recipe"], row["result"], "1", f"{100 * row['worst_group']['mean']:.1f}"]
        found = any([word for word in line if word != "│"][:4] == cells for line in lines)
        assert found == (row["split"] == "test")


def test_failed_rows_are_printed_by_step_and_reason(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    summary = summarize(finished_run)
    (failure,) = summary["failures"]
    assert failure == {"step": "candidates", "reason": "the repaint mask is empty", "rows": 1}
    print_results(summary)
    text = capsys.readouterr().out
    assert "rows that failed" in text
    assert any(line.split()[1:6:2] == ["candidates", "1", "the"] for line in text.splitlines())
    many = [{"step": "scores", "reason": f"reason {i}", "rows": i} for i in range(20, 0, -1)]
    print_results({**summary, "failures": many})
    # Ten are shown; the others are counted: 10 + 9 + ... + 1.
    line = next(line for line in capsys.readouterr().out.splitlines() if "other reasons" in line)
    assert "55" in line.split()


def test_a_name_is_printed_as_it_is(
    finished_run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets, colons and long paths too: they are no markup, and are of use as a whole."""
    monkeypatch.setenv("COLUMNS", "60")
    name = "a[/b]:bird:[red]" + "/folder" * 20
    summary = summarize(finished_run)
    print_results({**summary, "failures": [{"step": "data", "reason": name, "rows": 1}]})
    print_checks([("disk", name, False, "")])
    text = "".join(capsys.readouterr().out.split()).replace("│", "")
    assert text.count(name) == 2
