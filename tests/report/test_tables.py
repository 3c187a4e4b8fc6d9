from raygen.report import compare, summarize
from raygen.report.tables import print_comparison, print_results


def test_results_are_printed_with_their_numbers(finished_run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    print_results(summarize(finished_run))
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if " dbb " in line)
    # 24 of 28 right; the worst group 6 of 8.
    assert "85.7" in line
    assert "75.0" in line
    assert "7 planned, 6 generated, 2 kept" in text


def test_comparison_is_printed_with_one_line_per_test_row(finished_run, erm_run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    rows = compare([finished_run, erm_run])
    print_comparison(rows)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in rows:
        cells = [row["recipe"], row["result"], "1", f"{100 * row['worst_group']['mean']:.1f}"]
        found = any([word for word in line if word != "│"][:4] == cells for line in lines)
        assert found == (row["split"] == "test")
