"""Records of trials: what is written is read again, and what is damaged is named."""

from pathlib import Path

import numpy as np
import pytest

from raygen.errors import RunFolderError
from tune.records import Outcome, Progress, read_progress, read_records, write_outcome, write_progress


def begun(**fields: object) -> Progress:
    return Progress(**{"params": {"synthesis.k": 0.3}, "begun": 1.0, "pool": "p", "epochs_planned": 2, **fields})  # type: ignore[arg-type]


def entry(epoch: int, loss: float = 0.5) -> dict[str, float]:
    return {"epoch": epoch, "loss": loss, "val_average": 0.75, "val_worst_group": 0.5}


def test_what_was_right_is_kept_to_the_bit(tmp_path: Path) -> None:
    right = np.random.default_rng(0).random((2, 203)) < 0.5
    progress = begun(planned=4, kept=3)
    for epoch in range(2):
        progress.add(entry(epoch), right[epoch])
    write_progress(tmp_path, progress)
    found = read_progress(tmp_path)
    assert found == progress
    assert (found.correct_EN(203) == right).all()
    assert begun().correct_EN(203).shape == (0, 203)


def test_an_epoch_that_had_no_checkpoint_yet_is_replaced_not_added() -> None:
    progress = begun(planned=4, kept=3)
    progress.add(entry(0), np.array([True, False]))
    progress.add(entry(1, loss=0.4), np.array([True, False]))
    progress.add(entry(1, loss=0.3), np.array([True, True]))
    assert [row["loss"] for row in progress.epochs] == [0.5, 0.3]
    assert progress.correct_EN(2).tolist() == [[True, False], [True, True]]


def test_a_trial_stands_as_its_outcome_says_or_as_far_as_it_came(tmp_path: Path) -> None:
    full = begun(planned=4, kept=3, begun=1.0)
    for epoch in range(2):
        full.add(entry(epoch), np.array([True]))
    half = begun(planned=4, kept=3, begun=2.0)
    half.add(entry(0), np.array([True]))
    trials = {
        "full": (full, None, "complete"),
        "half": (half, None, "unfinished"),
        "stopped": (begun(planned=4, kept=3, begun=3.0), Outcome("stopped", 0, None), "stopped"),
        "failed": (begun(begun=4.0), Outcome("failed", 2, "bang"), "failed"),
        "empty": (begun(planned=4, kept=0, begun=5.0), None, "nothing kept"),
    }
    for name, (progress, outcome, _) in reversed(trials.items()):
        (tmp_path / name).mkdir()
        write_progress(tmp_path / name, progress)
        if outcome is not None:
            write_outcome(tmp_path / name, outcome)
    (tmp_path / "never_began").mkdir()
    records = read_records(tmp_path)
    assert [(record.name, record.status) for record in records] == [(n, status) for n, (_, _, status) in trials.items()]


@pytest.mark.parametrize("text", ["", "{", '{"params": {}}', '{"begun": 1, "unknown": 2}'])
def test_a_damaged_record_is_named_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "epochs.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"epochs.json is damaged .* to fit this trial again"):
        read_progress(tmp_path)
