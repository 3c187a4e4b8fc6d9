"""metadata.csv as spreadsheets save it: the same rows, or a refusal that names the line of the file."""

import csv
import io
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raygen.datasets import open_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.folder import FolderConfig, open_folder
from raygen.errors import DataError
from raygen.images import encode_image

PICTURE = encode_image(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
HEADER = ("img_filename", "y", "split", "place")
LINES = [(f"img/{i}.png", str(i % 2), str(i % 3), str((i // 2) % 2)) for i in range(12)]
ROWS = [(f"img/{i}", i % 2, ("train", "val", "test")[i % 3], (i // 2) % 2) for i in range(12)]


def text(lines: Any = LINES, header: Any = HEADER, *, separator: str = ",", newline: str = "\n") -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator=newline)
    writer.writerow(header)
    writer.writerows(lines)
    return out.getvalue()


def make(root: Path, table: str | bytes) -> Path:
    (root / "img").mkdir(parents=True)
    for i in range(12):
        (root / "img" / f"{i}.png").write_bytes(PICTURE)
    (root / "metadata.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    return root


def rows(root: Path) -> list[tuple[Any, ...]]:
    listing = open_folder(FolderConfig(path=root))
    assert listing.problems == []
    return [(e.image_id, e.label, e.split, e.attribute) for e in listing.entries]


def with_cell(column: int, value: str) -> str:
    """The table with one cell of line 5 changed."""
    lines = [list(line) for line in LINES]
    lines[3][column] = value
    return text(lines)


@pytest.mark.parametrize(
    "table",
    [
        text(),
        "\ufeff" + text(),
        ("\ufeff" + text()).encode("utf-16-le"),
        text().encode("utf-16"),
        text().encode("utf-32"),
        text(separator=";"),
        text(separator="\t"),
        "sep=;\r\n" + text(separator=";", newline="\r\n"),
        text(newline="\r\n"),
        text(newline="\r"),
        text(header=(" img_filename", "y ", " split", " place ")),
        text(header=("File Name", "Label", "SPLIT", "Attribute")),
        text([[f" {cell} " for cell in line] for line in LINES]),
        text([(name, f"{y}.0", f"{split}.0", f"{place}.") for name, y, split, place in LINES]),
        text([(*line, "", "") for line in LINES], (*HEADER, "", "")),
        text([(*line, "", "") for line in LINES]),
        text([part for line in LINES for part in ((), line, ("", "", "", ""))]),
        text([(str(i), *line) for i, line in enumerate(LINES)], ("Unnamed: 0", *HEADER)),
        text([(*line, "two\nlines, and a comma") for line in LINES], (*HEADER, "note")),
        text([(*line, "x", "y") for line in LINES], (*HEADER, "note", "note")),
        text([(name.replace("/", "\\"), *rest) for name, *rest in LINES]),
        text([(name, y, ("Train", "validation", "TEST")[int(s)], place) for name, y, s, place in LINES]),
        "\n".join(", ".join(f'"{cell}"' for cell in line) for line in (HEADER, *LINES)),
    ],
    ids=lambda table: repr(table[:24]),
)
def test_a_table_from_a_spreadsheet_is_the_table(tmp_path: Path, table: str | bytes) -> None:
    root = make(tmp_path / "data", table)
    assert rows(root) == sorted(ROWS)
    assert check_dataset(root).problems == []


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (text().encode("utf-16-le"), "null characters, as UTF-16 does"),
        (text([("img/ü.png", "0", "0", "0")]).encode("latin-1"), r"is not UTF-8, line 2"),
        (b"PK\x03\x04\x14\x00", "is a workbook of a spreadsheet, not text"),
        (text(separator="^"), r"no column for the file .*found \['img_filename\^y\^split\^place'\]"),
        (b"\xef\xbb\xbf\r\n \r\n", "metadata.csv is empty; expected a header"),
        (text([]), "has a header and no line"),
        (text(header=("img_filename", "y", "split", "y")), "column 'y' occurs 2 times"),
        (text(header=("File", "Label", "split", "LABEL")), "no column for the file"),
        (text(header=("Filename", "Label", "split", "LABEL")), "column 'label' occurs 2 times"),
        (text().replace("5.png,1", '5.png,"1'), "line 7: a quotation mark is opened and never closed"),
        (text([*LINES, ("x" * 200_000, "0", "0", "0")]), "line 14: not CSV: field larger"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, table: str | bytes, message: str) -> None:
    root = make(tmp_path / "data", table)
    for read in (rows, check_dataset):
        with pytest.raises(DataError, match=message):
            read(root)


@pytest.mark.parametrize(
    "value", ["1e9", "nan", "True", "-1", "1000", str(2**70), "9" * 5000, "1.5", "1,0", "=1", "1_0"]
)
@pytest.mark.parametrize("column", [1, 3])
def test_a_value_that_is_no_label_is_named_before_anything_is_made_for_it(
    tmp_path: Path, column: int, value: str
) -> None:
    root = make(tmp_path / "data", with_cell(column, value))
    (problem,) = refused(root)
    assert "line 5" in problem
    assert value[:60] in problem
    assert len(problem) < 400
    assert len(open_folder(FolderConfig(path=root)).info.class_names) <= 2


def refused(root: Path) -> list[str]:
    """What check finds, which is what a run is refused for."""
    with pytest.raises(DataError) as caught:
        open_dataset(FolderConfig(path=root)).write(root, run_seed=0)
    findings = check_dataset(root)
    assert findings.problems[0] in str(caught.value)
    assert all(line.isprintable() for line in findings.lines())
    return findings.problems


def test_labels_with_gaps_are_taken_up_to_a_thousand_or_the_number_of_lines(tmp_path: Path) -> None:
    root = make(tmp_path / "data", with_cell(1, "999"))
    assert len(open_folder(FolderConfig(path=root)).info.class_names) == 1000
    lines = check_dataset(root).lines()
    assert len(lines) < 250
    assert any("more warnings" in line for line in lines)
    both = [list(line) for line in LINES]
    both[3][1] = both[5][3] = "999"
    with pytest.raises(DataError, match="labels up to 999 and attributes up to 999, which make 1,000,000 groups"):
        rows(make(tmp_path / "both", text(both)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("img", "is a folder, not a file"),
        ("img/pipe", "is a named pipe, not a file"),
        ("img/dangling.png", "is a link to /gone.png, which does not exist"),
        ("img/circle.png", "is a link that leads in a circle"),
        ("/dev/zero", "is a device, not a file"),
        ("img/3", "does not exist"),
        ("C:\\birds\\3.png", "does not exist"),
        ("x" * 3000, "cannot be reached: File name too long"),
        ("img/3.png\0", "null characters"),
        ("img/\n3.png", r"img/\n3.png does not exist"),
    ],
)
@pytest.mark.parametrize("column", ["img_filename", "mask_filename"])
def test_a_cell_that_names_no_file_is_an_error_with_its_line(
    tmp_path: Path, column: str, name: str, message: str
) -> None:
    lines = [[*line, ""] for line in LINES]
    lines[3][0 if column == "img_filename" else 4] = name
    root = make(tmp_path / "data", text(lines, (*HEADER, "mask_filename")))
    os.mkfifo(root / "img" / "pipe")
    (root / "img" / "dangling.png").symlink_to("/gone.png")
    (root / "img" / "circle.png").symlink_to("circle.png")
    if "\0" in name:
        with pytest.raises(DataError, match=message):
            check_dataset(root)
        return
    (problem,) = refused(root)
    assert "line 5: " in problem
    assert message in problem
    assert len(problem) < 600


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    """Blank lines and line breaks inside cells count."""
    table = text([(), (*LINES[0], "a\nb\nc"), (), (*LINES[1], "")], (*HEADER, "note")) + "img/2.png,duck,0,0,\n"
    (problem,) = refused(make(tmp_path / "data", table))
    number = table.splitlines().index("img/2.png,duck,0,0,") + 1
    assert f"line {number}: column 'y' is 'duck'" in problem


@pytest.mark.parametrize(("line", "message"), [("img/2.png,0", "split is ''"), ("img/2.png,0,0,0,1", "has 5 cells")])
def test_a_line_with_another_number_of_cells_is_named(tmp_path: Path, line: str, message: str) -> None:
    (problem,) = refused(make(tmp_path / "data", text(LINES[:2]) + line + "\n"))
    assert f"line 4: {message}" in problem


def test_a_column_that_is_nearly_one_that_is_read_is_said(tmp_path: Path) -> None:
    """Where the needed names are there, others are taken as they are, so that the table has the rows it always had."""
    root = make(tmp_path / "data", text(header=("img_filename", "y", "split", "Place")))
    assert rows(root) == sorted((*row[:3], None) for row in ROWS)
    assert any("column 'Place' is not read; its name is 'place'" in line for line in check_dataset(root).warnings)


def test_a_name_that_a_mac_wrote_is_found(tmp_path: Path) -> None:
    """An umlaut is one letter in the table and a letter with dots in the file's name."""
    root = make(tmp_path / "data", with_cell(0, unicodedata.normalize("NFC", "img/ü.png")))
    (root / "img" / "3.png").rename(root / unicodedata.normalize("NFD", "img/ü.png"))
    assert len(rows(root)) == 12


def test_a_picture_and_its_neighbour_of_another_suffix_are_two(tmp_path: Path) -> None:
    root = make(tmp_path / "data", text([*LINES, ("img/0.jpg", "0", "0", "0")]))
    (root / "img" / "0.jpg").write_bytes(PICTURE)
    assert {row[0] for row in rows(root)} == {*(row[0] for row in ROWS[1:]), "img/0.png", "img/0.jpg"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"class_names": ("a", "b", "c")}, r"class_names has 3 names \(a, b, c\) for labels 0\.\.1"),
        ({"class_names": ("a", "a")}, "has 'a' 2 times"),
        ({"class_names": ("a",)}, r"label 1; expected 0\.\.0 \(a\)"),
        ({"attribute_names": ("a", "b", "c")}, r"attribute_names has 3 names \(a, b, c\) for attributes 0\.\.1"),
        ({"attribute_names": ("a",)}, r"attribute 1; expected 0\.\.0"),
    ],
)
def test_names_that_do_not_fit_the_table_are_refused(
    tmp_path: Path, names: dict[str, tuple[str, ...]], message: str
) -> None:
    root = make(tmp_path / "data", text())
    with pytest.raises(DataError, match=message):
        open_dataset(FolderConfig(path=root, **names)).write(root, run_seed=0)


def test_swapped_names_of_a_published_dataset_are_refused(tmp_path: Path) -> None:
    table = text([(*line, "/o/ocean/1.jpg") for line in LINES], (*HEADER, "place_filename"))
    config = FolderConfig(path=make(tmp_path / "waterbirds", table), class_names=("waterbird", "landbird"))
    with pytest.raises(DataError, match="'landbird' would be called 'waterbird'"):
        open_folder(config)


def test_a_table_without_a_line_that_can_be_used_is_told_line_by_line(tmp_path: Path) -> None:
    root = make(tmp_path / "data", text([(file, "0.5", *rest) for file, _, *rest in LINES]))
    problems = check_dataset(root).problems
    assert len([problem for problem in problems if "column 'y' is '0.5'" in problem]) == len(LINES)
    assert len(refused(tmp_path / "data")) == len(problems)
