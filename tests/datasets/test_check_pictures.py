"""What `raygen data check` says of pictures and masks that can be read and are probably not meant."""

# H height, W width

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edit_forms import encoded
from raw_pictures import png16
from typer.testing import CliRunner

from raygen.cli import app
from raygen.datasets import open_dataset
from raygen.datasets.check import Findings, check_dataset
from raygen.datasets.folder import FolderConfig
from raygen.datasets.rows import RowIndex
from raygen.fits import training_objects
from raygen.images import encode_image

MASK_HW = np.zeros((9, 7), dtype=np.uint8)
MASK_HW[2:5, 3:6] = 255


def dataset(folder: Path, pictures: dict[int, bytes] | None = None, masks: dict[int, bytes] | None = None) -> Path:
    """Twelve images of noise with good masks, but for these."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("img_filename", "y", "split", "place", "mask_filename"))
        for i in range(12):
            noise = encode_image(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
            (folder / f"{i}.png").write_bytes((pictures or {}).get(i, noise))
            (folder / f"{i}_mask.png").write_bytes((masks or {}).get(i, encoded(MASK_HW)))
            writer.writerow((f"{i}.png", i % 2, i // 4, i // 2 % 2, f"{i}_mask.png"))
    return folder


def about(findings: Findings, word: str) -> str:
    (line,) = [line for line in findings.warnings if word in line]
    return line


def test_pictures_of_one_colour_are_counted_with_examples(tmp_path: Path) -> None:
    grey, black = encoded(np.full((9, 7), 90, dtype=np.uint8)), png16(np.zeros((9, 7)))
    findings = check_dataset(dataset(tmp_path / "data", pictures={i: grey if i < 6 else black for i in range(1, 8)}))
    assert findings.problems == []
    line = about(findings, "one colour")
    assert line.startswith("7 of 12 pictures have one colour only: 1 (90, 90, 90), 2 (90, 90, 90), ")
    assert ", …" in line
    assert "7 (0, 0, 0)" not in line  # five examples are enough


def test_samples_in_doubt_are_errors(tmp_path: Path) -> None:
    findings = check_dataset(dataset(tmp_path / "data", pictures={3: png16(np.arange(63).reshape(9, 7) * 60)}))
    (problem,) = findings.problems
    assert problem.startswith("3: its values go from 0 to 3720, far below 65535")


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (encoded(MASK_HW * 0), "select nothing, their brightest value is 0: 4, 5;"),
        (encoded(MASK_HW // 85 + np.eye(9, 7, dtype=np.uint8)), "do not say what they select: 4, 5 (nothing in it is"),
        (encoded(MASK_HW * 0 + 255), "select everything: 4, 5;"),
    ],
    ids=["nothing", "unclear", "everything"],
)
def test_masks_that_select_nothing_or_everything_are_warnings_for_who_reads_them(
    tmp_path: Path, mask: bytes, expected: str
) -> None:
    folder = dataset(tmp_path / "data", masks={4: mask, 5: mask})
    findings = check_dataset(folder)
    assert findings.problems == []
    line = about(findings, "object masks")
    assert line.startswith("2 object masks ")
    assert expected in line
    assert "synthesis.mask=truth or box" in line
    result = CliRunner().invoke(app, ["data", "check", str(folder)])
    assert result.exit_code == 0
    assert f"warning: {line}" in result.stdout


def test_masks_that_are_damaged_or_of_another_size_are_errors(tmp_path: Path) -> None:
    masks = {1: encoded(MASK_HW)[:50], 2: encoded(MASK_HW.T)}
    folder = dataset(tmp_path / "data", masks=masks)
    found = check_dataset(folder).problems
    assert [line.split(":")[0] for line in found] == ["1", "2"]
    assert CliRunner().invoke(app, ["data", "check", str(folder)]).exit_code == 2


@pytest.mark.parametrize("mask", [MASK_HW * 0, np.arange(63, dtype=np.uint8).reshape(9, 7)], ids=["empty", "unclear"])
def test_colours_for_the_flat_control_where_no_mask_can_be_used(tmp_path: Path, mask: Any) -> None:
    """The whole picture stands for the object, as where there are no masks."""
    colours = {i: encoded(np.full((9, 7, 3), (i, 40, 80), dtype=np.uint8)) for i in range(12)}
    folder = dataset(tmp_path / "data", pictures=colours, masks=dict.fromkeys(range(12), encoded(mask)))
    (tmp_path / "out").mkdir()
    open_dataset(FolderConfig(path=folder)).write(tmp_path / "out", run_seed=0)
    found = training_objects.flat_colours(RowIndex(tmp_path / "out"), seed=0)
    # Train are images 0 to 3, of classes 0 and 1 by turns.
    assert {label: sorted(map(tuple, colours_MC.tolist())) for label, colours_MC in found.items()} == {
        0: [(0, 40, 80), (2, 40, 80)],
        1: [(1, 40, 80), (3, 40, 80)],
    }
