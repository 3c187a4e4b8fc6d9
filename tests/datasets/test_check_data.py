"""`raygen data check`: JSON for programs, what is an error for which recipe, and copies of pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from raygen.cli import app
from raygen.datasets.check import check_dataset
from raygen.images import encode_image, encode_mask

SPLITS = ("train", "val", "test")
EMPTY, SOME = np.zeros((9, 7), dtype=bool), np.eye(9, 7, dtype=bool)


def picture(number: int) -> bytes:
    return encode_image(np.random.default_rng(number).integers(0, 256, (9, 7, 3), dtype=np.uint8))


def make(
    root: Path,
    *,
    attributes: bool = True,
    masks: dict[int, np.ndarray] | None = None,
    same: dict[int, int] | None = None,
) -> Path:
    """24 pictures, two in each group of each split; `same` are copies of others."""
    root.mkdir()
    lines = [f"path,label,split{',attribute' if attributes else ''}{',mask' if masks else ''}"]
    for i in range(24):
        (root / f"{i:02}.png").write_bytes(picture((same or {}).get(i, i)))
        cells = [f"{i:02}.png", "cat" if i % 2 else "dog", SPLITS[i // 8]]
        cells += ["land" if i % 4 < 2 else "water"] if attributes else []
        if masks:
            cells.append(f"mask-{i:02}.png")
            (root / cells[-1]).write_bytes(encode_mask(masks.get(i, SOME)))
        lines.append(",".join(cells))
    (root / "metadata.csv").write_text("\n".join(lines))
    return root


def checked(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(app, ["data", "check", *arguments, "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_findings_are_json_for_programs(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    code, found = checked(str(root))
    assert code == 0
    assert found == {
        "rows": 24,
        "splits": {split: {"rows": 8, "groups": [2, 2, 2, 2]} for split in SPLITS},
        "errors": [],
        "warnings": [],
    }
    (root / "03.png").write_bytes(picture(3)[:50])
    with (root / "metadata.csv").open("a") as table:
        table.write("\n99.png,cat,train,land")
    code, found = checked(str(root / "metadata.csv"))
    assert code == 2
    assert [error["row"] for error in found["errors"]] == [f"{root}/metadata.csv, line 26", "03"]
    assert found["errors"][0]["problem"].endswith("99.png does not exist")
    assert "damaged or cut off" in found["errors"][1]["problem"]


def test_groups_are_counted_by_number_and_are_classes_without_attributes(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    text = (root / "metadata.csv").read_text()
    (root / "metadata.csv").write_text(text.replace("00.png,dog,train,land", "00.png,cat,train,water"))
    # cat on land, cat on water, dog on land, dog on water
    assert checked(str(root))[1]["splits"]["train"]["groups"] == [2, 3, 1, 2]
    assert checked(str(make(tmp_path / "plain", attributes=False)))[1]["splits"]["val"] == {"rows": 8, "groups": [4, 4]}


def test_a_missing_split_is_of_no_row(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    table = root / "metadata.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if ",val" not in line))
    code, found = checked(str(root))
    assert code == 2
    assert found["errors"] == [{"row": None, "problem": "no image in split val; every run needs some"}]
    assert list(found["splits"]) == ["train", "test"]


@pytest.mark.parametrize(
    ("recipe", "rows"), [(None, []), ("jtt", []), ("erm+sal", ["02"]), ("group_dro", []), ("evals", [])]
)
def test_an_empty_mask_is_an_error_where_masks_are_read(tmp_path: Path, recipe: str | None, rows: list[str]) -> None:
    root = make(tmp_path / "data", masks={2: EMPTY})
    code, found = checked(str(root), *([] if recipe is None else ["--recipe", recipe]))
    assert [error["row"] for error in found["errors"]] == rows
    assert code == (2 if rows else 0)
    # Without a recipe nobody knows who will read it.
    assert any("object masks select nothing" in text for text in found["warnings"]) == (recipe is None)


def test_a_mask_of_another_size_is_no_error_for_a_recipe_that_reads_none(tmp_path: Path) -> None:
    root = make(tmp_path / "data", masks={2: np.ones((3, 3), dtype=bool)})
    assert [error["row"] for error in checked(str(root))[1]["errors"]] == ["02"]
    assert checked(str(root), "--recipe", "jtt")[1]["errors"] == []


@pytest.mark.parametrize(
    ("recipe", "problem"), [("jtt", None), ("group_dro", "needs the attribute"), ("dfr", "needs the attribute")]
)
def test_missing_attributes_are_an_error_where_groups_are_read(
    tmp_path: Path, recipe: str, problem: str | None
) -> None:
    _, found = checked(str(make(tmp_path / "data", attributes=False)), "--recipe", recipe)
    assert [problem in error["problem"] for error in found["errors"]] == ([] if problem is None else [True])
    assert all(error["row"] is None for error in found["errors"])


def test_a_group_that_validation_lacks_is_an_error_where_validation_is_fitted_on(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    table = root / "metadata.csv"
    table.write_text("\n".join(line for line in table.read_text().splitlines() if ",dog,val,water" not in line))
    _, found = checked(str(root), "--recipe", "dfr")
    (error,) = found["errors"]
    assert error["row"] is None
    assert "no image of 1 of them: (dog, water) of 2 test images" in error["problem"]
    assert checked(str(root), "--recipe", "jtt")[1]["errors"] == []


def test_pictures_that_are_in_two_splits_are_a_leak(tmp_path: Path) -> None:
    assert check_dataset(make(tmp_path / "clean")).warnings == []
    root = make(tmp_path / "data", same={8: 0, 20: 4, 1: 3, 6: 7})
    leak, dispute, plain = check_dataset(root).warnings
    assert leak.startswith("2 pictures are in two splits, with the same bytes: 00 (train) = 08 (val), 04 (train) = 20")
    assert dispute.startswith("1 pictures have two labels, with the same bytes: 06 (label 1) = 07 (label 0)")
    assert plain.startswith("1 pictures are in the same split more than once, with the same bytes: 01 (train) = 03")


def test_a_name_without_files_cannot_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["data", "check", "scenes"])
    assert "is drawn, not read" in str(result.exception)
    make(tmp_path / "scenes")
    assert checked("scenes")[1]["rows"] == 24
