"""What is said of results, worked out by hand."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import CORRECT, Correct, write_run

from raygen.metrics import evaluate_predictions
from raygen.report import summarize
from raygen.report.headline import against_best, chance_line, is_chance, lines
from raygen.report.html import write_report
from raygen.report.tables import print_results


def entry(*rights: int, num: int = 100, num_classes: int = 2) -> dict[str, Any]:
    """Accuracies of groups of so many images, of which so many are right; as many attributes as that gives."""
    num_attributes = len(rights) // num_classes
    group_N = np.repeat(np.arange(len(rights)), num)
    label_N, correct_N = group_N // num_attributes, np.concatenate([np.arange(num) < right for right in rights])
    return evaluate_predictions(
        label_N,
        np.where(correct_N, label_N, (label_N + 1) % num_classes),
        group_N % num_attributes,
        num_classes=num_classes,
        num_attributes=num_attributes,
        train_counts_G=None,
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (entry(50, 50, 50, 50), True),
        (entry(100, 0, 0, 100), True),  # reads nothing but the attribute
        (entry(53, 53, 53, 53), True),  # 53% of 400 leave open 48 to 58
        (entry(20, 20, 20, 20), True),  # below
        (entry(100, 30, 30, 100), False),
        (entry(40, 40, 40, 40, 40, 40, num_classes=3), False),  # 40% of 600 is more than a third
        (entry(35, 35, 35, 35, 35, 35, num_classes=3), True),
        (entry(10, 10, num_classes=1), False),  # of one class nothing is chance
    ],
)
def test_chance_is_where_the_mean_over_groups_may_be_one_of_the_classes(found: Any, expected: bool) -> None:
    assert is_chance(found) == expected


def test_an_entry_of_before_says_nothing_of_chance() -> None:
    before = {name: value for name, value in entry(50, 50, 50, 50).items() if not name.startswith("group_mean")}
    assert not is_chance(before)


RESULTS = {
    "erm": entry(100, 30, 25, 100),
    "dbb": entry(90, 85, 80, 95),
    "dbb_unpruned": entry(95, 90, 88, 95),
    "control_flat": entry(90, 40, 35, 90),
    "control_paste": entry(90, 82, 76, 90),
    "unpruned_control_flat": entry(90, 60, 55, 90),
}


def test_the_comparison_is_with_the_best_control_of_as_many_rows() -> None:
    found = against_best("dbb", RESULTS, "dbb")
    assert found is not None
    assert found.control == "control_paste"
    assert found.gain == pytest.approx(0.04)
    assert found.interval[0] < 0 < found.interval[1]
    assert "no clear difference" in found.verdict
    unpruned = against_best("dbb_unpruned", RESULTS, "dbb")
    assert unpruned is not None
    assert unpruned.control == "unpruned_control_flat"
    assert unpruned.gain == pytest.approx(0.33)
    assert "more than the size" in unpruned.verdict
    assert against_best("erm", RESULTS, "dbb") is None
    # Without controls of its own it has the recipe's, if nothing was pruned.
    kept = {name: value for name, value in RESULTS.items() if not name.startswith("unpruned")}
    assert against_best("dbb_unpruned", kept, "dbb", {"kept": 9, "generated": 10}) is None
    same = against_best("dbb_unpruned", kept, "dbb", {"kept": 10, "generated": 10})
    assert same is not None
    assert same.control == "control_paste"


@pytest.mark.parametrize(
    ("worst", "verdict"),
    [
        (40, "the generated pictures do worse than this control"),  # 76 of 100: the interval lies below 0
        (70, "no clear difference"),  # 6 points less, and the interval reaches above 0
        (82, "no clear difference"),
        (99, "more than the size of the test split explains"),
    ],
)
def test_the_verdict_goes_by_both_ends_of_the_interval(worst: int, verdict: str) -> None:
    found = against_best("dbb", {**RESULTS, "dbb": entry(99, 99, worst, 99)}, "dbb")
    assert found is not None
    assert found.control == "control_paste"
    assert found.verdict.startswith(verdict)


def test_the_best_control_comes_before_erm_and_chance_is_no_success() -> None:
    by_chance = {**RESULTS, "dbb": entry(52, 52, 51, 52), "control_paste": entry(45, 40, 30, 45)}
    found = lines({"recipe": "dbb"}, by_chance, noun="group")
    # More than every control, by far: and yet.
    assert "dbb against its best control, control_flat: +16.0 points of the worst group" in found[0]
    assert found[0].endswith("no better than chance on balanced groups: whatever its worst group, this is no success")
    assert found[1] == "dbb over erm: +26.0 points of the worst group"
    assert found[-1].startswith(
        "no better than chance on balanced groups (mean over them, chance is 50.0%): dbb 51.8% ("
    )
    assert chance_line({"erm": RESULTS["erm"]}) is None
    assert lines({}, RESULTS, noun="group") == []  # as of `raygen evaluate`


def test_table_and_page_say_that_chance_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    half: dict[str, tuple[int, ...]] = {"val": (4, 3, 2, 2), "test": (5, 4, 3, 2)}
    found: Correct = {name: {**CORRECT[name]} for name in CORRECT}
    run = write_run(tmp_path / "run", correct={**found, "dbb": half})
    print_results(summarize(run))
    page = re.sub(r"<[^>]*>|\s+", " ", write_report(run).read_text(encoding="utf-8"))
    for text in (capsys.readouterr().out, page):
        assert "no better than chance on balanced groups" in text
        assert "this is no success" in text
    cards = page[page.index("Against the best control") :]
    assert (
        cards.index("Against the best control") < cards.index("Worst-group accuracy") < cards.index("Mean over groups")
    )
    # 5 of 10, 4 of 8, 3 of 6 and 2 of 4.
    assert "69.8% → 50.0%" in re.sub(r"\s+", " ", cards)
