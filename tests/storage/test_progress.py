"""How far a long step is, said by the driver."""

import threading
import time
from functools import partial
from pathlib import Path

import pytest

from raygen.storage import progress


def test_each_new_line_is_said_once_and_none_after_the_end(tmp_path: Path) -> None:
    progress.tell(tmp_path, "of an interrupted fit")
    heard: list[str] = []
    has_heard = threading.Event()

    def say(line: str) -> None:
        heard.append(line)
        has_heard.set()

    read = partial(progress.told, tmp_path)
    with progress.said(read, progress.labelled("fit erm", say), every_s=0.01):
        for number in (1, 2):
            has_heard.clear()
            progress.tell(tmp_path, f"epoch {number}/2")
            assert has_heard.wait(10)
        time.sleep(0.1)
    progress.tell(tmp_path, "too late")
    time.sleep(0.1)
    assert heard == ["fit erm: epoch 1/2", "fit erm: epoch 2/2"]


def test_an_error_of_the_step_is_not_hidden(tmp_path: Path) -> None:
    read = partial(progress.told, tmp_path)
    with pytest.raises(ValueError, match="of the step"), progress.said(read, progress.quiet, every_s=0.01):
        raise ValueError("of the step")
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_of_many_lines_the_newest_is_said() -> None:
    heard: list[str] = []
    has_heard = threading.Event()

    def say(line: str) -> None:
        heard.append(line)
        has_heard.set()

    with progress.newest(say, every_s=0.05) as tell:
        for number in range(100):
            tell(f"{number} of 100")
        assert has_heard.wait(10)
    assert heard[-1] == "99 of 100"
    assert len(heard) <= 2


def test_what_workers_note_is_there_once_and_until_it_is_read(tmp_path: Path) -> None:
    for line in ("no room for train", "no room for val", "no room for train"):  # the first by two workers
        progress.note(tmp_path, line)
    progress.tell(tmp_path, "epoch 1/2")
    assert progress.noted(tmp_path) == ["no room for train", "no room for val"]
    assert progress.noted(tmp_path) == []
