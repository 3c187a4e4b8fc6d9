"""Users' folders: three layouts, and what is wrong with them said by name."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raygen.datasets import write_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.folder import FolderConfig
from raygen.errors import DataError
from raygen.images import encode_image, encode_mask
from raygen.rows import RowIndex

HEADER = ("img_filename", "y", "split", "place", "mask_filename")


def picture(seed: int) -> bytes:
    return encode_image(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8))


def make_csv(folder: Path, lines: list[tuple[Any, ...]]) -> Path:
    (folder / "img").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(lines)
    for i, line in enumerate(lines):
        (folder / str(line[0])).write_bytes(picture(i))
    return folder


LINES = [(f"img/{i}.png", i % 2, i % 3, (i // 2) % 2, "") for i in range(12)]


def write(path: Path, out: Path, **fields: Any) -> RowIndex:
    out.mkdir()
    write_dataset(FolderConfig(path=path, **fields), out, run_seed=0)
    return RowIndex.open(out)


def test_metadata_csv(tmp_path: Path) -> None:
    folder = make_csv(tmp_path / "data", LINES)
    (folder / "mask.png").write_bytes(encode_mask(np.eye(9, 7, dtype=bool)))
    index = write(folder, tmp_path / "out", class_names=("dog", "cat"))
    assert index.table.num_rows == 12
    assert index.dataset.prompts == ("a photo of a dog", "a photo of a cat")
    row = index.fetch(["img/3"], ["image_png", "label", "attribute", "split", "object_png"]).to_pylist()[0]
    assert row == {"image_png": picture(3), "label": 1, "attribute": 1, "split": "train", "object_png": None}


def test_image_folders(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            (folder / "1.png").write_bytes(picture(0))
    index = write(tmp_path / "data", tmp_path / "out")
    assert index.dataset.class_names == ("cat", "dog")
    assert index.dataset.attribute_names == ()
    assert index.table["attribute"].null_count == 6


def test_a_written_dataset_can_be_read_again(tmp_path: Path, scenes_folder: Path) -> None:
    index = write(scenes_folder, tmp_path / "out")
    assert index.table.equals(RowIndex.open(scenes_folder).table)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES, ("img/99.png", "duck", 0, 0, "")], "line 14: column 'y' is 'duck'"),
        ([*LINES, ("img/99.png", 0, 7, 0, "")], "split is '7'"),
        ([*LINES, ("img/99.png", "", 0, 0, "")], "every picture needs a label"),
        ([*LINES, ("img/5.png", 0, 0, 0, "")], "occurs twice"),
        ([*LINES, ("img/99.png", -1, 0, 0, "")], "label -1"),
        ([], "no line"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, lines: list[tuple[Any, ...]], message: str) -> None:
    folder = make_csv(tmp_path / "data", lines)
    with pytest.raises(DataError, match=message):
        write(folder, tmp_path / "out")


def test_a_label_outside_the_classes_is_refused(tmp_path: Path) -> None:
    folder = make_csv(tmp_path / "data", [*LINES, ("img/99.png", 2, 0, 0, "")])
    with pytest.raises(DataError, match=r"label 2; expected 0\.\.1 \(dog, cat\)"):
        write(folder, tmp_path / "out", class_names=("dog", "cat"))


def test_absent_empty_and_unknown_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        write(tmp_path / "no", tmp_path / "out1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is empty"):
        write(tmp_path / "empty", tmp_path / "out2")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "x.txt").write_text("x")
    with pytest.raises(DataError, match="unknown layout"):
        write(tmp_path / "odd", tmp_path / "out3")


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    folder = make_csv(tmp_path / "data", LINES)
    (folder / "img" / "4.png").unlink()
    with pytest.raises(DataError, match=r"4\.png is named in .* and does not exist"):
        write(folder, tmp_path / "out")


def test_check_finds_damaged_pictures_and_empty_groups(tmp_path: Path) -> None:
    folder = make_csv(tmp_path / "data", LINES)
    (folder / "img" / "4.png").write_bytes(picture(4)[:60])
    (folder / "img" / "5.png").write_text("not a picture")
    findings = check_dataset(folder)
    assert findings.num_errors == 2
    assert [line.split(":")[0] for line in findings.problems] == ["img/4", "img/5"]
    assert sum(findings.counts.values()) == 12
