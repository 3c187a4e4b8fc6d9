"""The CLIPSeg inside the package: small, sharp on scenes that it never saw, and the text decides."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raygen.datasets.scene_rendering import OBJECT_WORDS
from raygen.model_files import find_model
from raygen.tiny.segmenter import CLASS_WORDS
from raygen.tiny.segmenter_card import find, held_out, measure

FOLDER = Path(find_model("tiny", tiny="segmenter_weights").name)
MAX_BYTES = 4_000_000
# Another draw than the card's.
SEED = 1


def test_it_is_small_and_complete() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".ckpt"))]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


@pytest.mark.parametrize(
    ("distribution", "texts"),
    [("biased", OBJECT_WORDS), ("balanced", OBJECT_WORDS), ("balanced", tuple(words[1] for words in CLASS_WORDS))],
)
def test_it_finds_the_bird_of_scenes_that_it_never_saw(distribution: str, texts: Any) -> None:
    scenes = held_out(distribution, 100, seed=SEED)
    found = measure(scenes, find(FOLDER, scenes, texts))
    assert found.iou >= 0.75
    assert found.found_fraction == 1


def test_it_finds_nothing_that_is_not_there() -> None:
    scenes = held_out("balanced", 48, seed=SEED)
    for word in ("cat", "zebra"):  # the second was never in a prompt
        assert measure(scenes, find(FOLDER, scenes, (word, word))).found_fraction < 0.05


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on_and_ends_as_a_model_with_a_card(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TRAIN, str(tmp_path / "work"), str(tmp_path / "out")]
    for minutes in ("0.05", "0.1"):
        subprocess.run([*command, minutes], check=True, timeout=500)
        (tmp_path / "work" / "segmenter.done").rename(tmp_path / f"done-{minutes}")
    steps = [int((tmp_path / f"done-{minutes}").read_text().split()[0]) for minutes in ("0.05", "0.1")]
    assert 0 < steps[0] < steps[1]
    out = tmp_path / "out" / "segmenter_weights"
    assert {"README.md", "birds.png", "config.json", "model.safetensors"} <= {path.name for path in out.iterdir()}
    assert "mean IoU" in (out / "README.md").read_text()


# The command line with a world of a few scenes.
TRAIN = """
import sys
from raygen.tiny import segmenter_card, train
work, out, minutes = sys.argv[1:]
train.NUM_SCENES, segmenter_card.NUM_SCENES = 64, 32
sys.argv = ["train", "--work", work, "--out", out, "--models", "segmenter", "--segmenter-minutes", minutes,
            "--workers", "1"]
train.main()
"""
