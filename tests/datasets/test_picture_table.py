"""A table of one's own: columns by any name, labels as tables write them, pictures that moved, a drawn split."""

import csv
import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from raygen.cli import app
from raygen.datasets import named_config, open_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.picture_table import TableConfig, list_pictures
from raygen.errors import ConfigError, DataError
from raygen.images import encode_image

PICTURE = encode_image(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
HEADER = ("path", "label", "attribute", "split")
SPLITS = ("train", "val", "test")


def lines(labels: Any = (0, 1), attributes: Any = (0, 1), num: int = 12) -> list[list[Any]]:
    """Every label in every split with every attribute."""
    return [[f"img/{i}.png", labels[i % 2], attributes[i // 2 % 2], SPLITS[i // 4 % 3]] for i in range(num)]


def make(root: Path, rows: Any, header: Any = HEADER, *, name: str = "birds.csv", num: int = 12) -> Path:
    (root / "img").mkdir(parents=True)
    for i in range(num):
        (root / "img" / f"{i}.png").write_bytes(PICTURE)
    if name.endswith(".parquet"):
        pd.DataFrame(rows, columns=list(header)).to_parquet(root / name)
    else:
        out = io.StringIO()
        csv.writer(out, delimiter="\t" if name.endswith(".tsv") else ",").writerows([header, *rows])
        (root / name).write_text(out.getvalue())
    return root / name


def listed(path: Path, **fields: Any) -> list[tuple[Any, ...]]:
    listing = list_pictures(TableConfig(path=path, **fields))
    assert listing.problems == []
    return [(e.image_id, e.label, e.attribute, e.split) for e in listing.entries]


EXPECTED = sorted((f"img/{i}", i % 2, i // 2 % 2, SPLITS[i // 4 % 3]) for i in range(12))


@pytest.mark.parametrize("name", ["birds.csv", "birds.tsv", "birds.parquet", "BIRDS.CSV"])
@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        ((0, 1), ("class 0", "class 1")),
        ((0.0, 1.0), ("class 0", "class 1")),
        ((-1, 1), ("class 0", "class 1")),
        ((-1.0, 1.0), ("class 0", "class 1")),
        ((1, 2), ("class 1", "class 2")),
        ((False, True), ("false", "true")),
        (("no", "yes"), ("no", "yes")),
        (("cat", "wild dog"), ("cat", "wild dog")),
        (("Ente", "Möwe"), ("Ente", "Möwe")),
    ],
)
def test_labels_and_attributes_are_read_however_they_are_written(
    tmp_path: Path, name: str, labels: tuple[Any, Any], class_names: tuple[str, str]
) -> None:
    table = make(tmp_path / "data", lines(labels, labels), name=name)
    assert listed(table) == EXPECTED
    info = list_pictures(TableConfig(path=table)).info
    assert info.class_names == class_names
    assert info.attribute_names == tuple(word.replace("class", "attribute") for word in class_names)


def test_what_labels_became_is_said(tmp_path: Path) -> None:
    table = make(tmp_path / "data", lines((-1, 1), ("land", "water")))
    first, second = open_dataset(TableConfig(path=table)).lines[:2]
    assert "column 'label' has -1 and 1, which are read as 0 and 1" in first
    assert "column 'attribute' holds words, which are numbered 0 = land, 1 = water" in second
    counted = open_dataset(TableConfig(path=make(tmp_path / "other", lines((1, 2))))).lines
    assert any("column 'label' counts from 1 to 2; these are read as 0 to 1" in line for line in counted)


def test_truth_in_any_capitals_under_a_telling_header_is_named_by_it(tmp_path: Path) -> None:
    rows = [
        [file, ("FALSE", "False", "true", "True")[i % 4], 0, split] for i, (file, _, _, split) in enumerate(lines())
    ]
    table = make(tmp_path / "data", rows, ("path", "wears_hat", "attribute", "split"))
    config = TableConfig(path=table, columns={"label": "wears_hat"})
    listing = list_pictures(config)
    assert listing.info.class_names == ("not wears_hat", "wears_hat")
    assert [e.label for e in listing.entries] == [int(int(e.image_id[4:]) % 4 > 1) for e in listing.entries]


def test_given_names_are_the_order_of_words(tmp_path: Path) -> None:
    table = make(tmp_path / "data", lines(("waterbird", "landbird")))
    by_word = {row[0]: row[1] for row in listed(table, class_names=("waterbird", "landbird"))}
    assert by_word == {row[0]: row[1] for row in EXPECTED}
    assert {row[0]: 1 - row[1] for row in listed(table)} == by_word  # as sorted, landbird is 0
    renamed = list_pictures(TableConfig(path=table, class_names=("Landvogel", "Wasservogel")))
    assert renamed.info.class_names == ("Landvogel", "Wasservogel")
    assert any("0 = landbird is Landvogel" in note for note in renamed.notes)
    absent = list_pictures(TableConfig(path=table, class_names=("landbird", "owl", "waterbird")))
    assert {e.label for e in absent.entries} == {0, 2}


@pytest.mark.parametrize(
    ("changed", "fields", "message"),
    [
        ({3: "dgo"}, {"class_names": ("cat", "dog")}, r"line 5: column 'label' is 'dgo'; .*did you mean 'dog'"),
        ({3: "7"}, {}, r"line 5: column 'label' is '7'; expected a word, as other rows have \(cat, dog\)"),
        ({3: "NaN"}, {}, "line 5: .*'NaN', which stands for no value"),
        ({3: "Dog"}, {}, "'Dog' and 'dog', which differ in capitals only"),
        ({3: ""}, {}, "line 5: column 'label' is empty"),
        ({}, {"class_names": ("a", "b", "c")}, r"class_names has 3 names \(a, b, c\) for the words cat, dog"),
    ],
)
def test_a_label_that_is_no_class_is_refused_by_name(
    tmp_path: Path, changed: dict[int, str], fields: dict[str, Any], message: str
) -> None:
    rows = lines(("cat", "dog"))
    for row, value in changed.items():
        rows[row][1] = value
    with pytest.raises(DataError, match=message):
        open_dataset(TableConfig(path=make(tmp_path / "data", rows), **fields)).check()


def test_a_column_of_measurements_is_no_label(tmp_path: Path) -> None:
    rows = [[f"img/{i}.png", f"bird number {i}", 0, SPLITS[i % 3]] for i in range(60)]
    with pytest.raises(DataError, match="'label' has 60 different words in 60 rows"):
        listed(make(tmp_path / "data", rows, num=60))
    rows = [[f"img/{i}.png", i / 7 + 0.1, 0, SPLITS[i % 3]] for i in range(12)]
    with pytest.raises(DataError, match="expected a whole number from 0"):
        open_dataset(TableConfig(path=make(tmp_path / "other", rows))).check()


def test_columns_are_named_in_the_config(tmp_path: Path) -> None:
    header = ("Image Path", "species", "background", "fold")
    table = make(tmp_path / "data", lines(), header)
    columns = {"path": "image path", "label": "species", "attribute": "background", "split": "fold"}
    assert listed(table, columns=columns) == EXPECTED
    plain = make(tmp_path / "plain", lines(), ("path", "label", "Background ", "split"))
    assert listed(plain, columns={"attribute": "background"}) == EXPECTED
    swapped = make(tmp_path / "other", lines(), ("path", "attribute", "label", "split"))
    assert listed(swapped, columns={"label": "attribute", "attribute": "label"}) == EXPECTED


@pytest.mark.parametrize(
    ("header", "fields", "message"),
    [
        (("pth", "lable", "attribute", "split"), {}, r"no column for the file .*'pth'\); no column for the label .*the "
         r"nearest is 'lable'\); found \['pth', 'lable', .*dataset.columns.path=NAME, dataset.columns.label=NAME"),
        (("image path", "label", "attribute", "split"), {}, "the nearest is 'image path'"),
        (("path", "label", "attribute", "fold"), {}, r"no column for the split .*dataset\.split=\[0\.8,0\.1,0\.1\]"),
        (HEADER, {"columns": {"label": "lebal"}}, "columns.label is 'lebal', which is no column, the nearest is "
         "'label'; found"),
        (HEADER, {"split": (0.5, 0.5, 0)}, "has a split, in column 'split'; leave dataset.split out"),
        (("path", "label", "label", "split"), {}, "column 'label' occurs 2 times"),
    ],
)  # fmt: skip
def test_missing_columns_are_listed_with_the_nearest(
    tmp_path: Path, header: Any, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        listed(make(tmp_path / "data", lines(), header), **fields)


@pytest.mark.parametrize(
    "prefix", ["/home/other/birds/", "C:\\Users\\other\\birds\\", "\\\\server\\share\\birds\\", "file:///srv/birds/"]
)
def test_pictures_that_moved_are_found_below_the_root(tmp_path: Path, prefix: str) -> None:
    separator = "\\" if "\\" in prefix else "/"
    rows = [[prefix + file.replace("/", separator), *rest] for file, *rest in lines()]
    table = make(tmp_path / "data", rows)
    other = tmp_path / "tables" / "birds.csv"
    other.parent.mkdir()
    table.rename(other)
    assert listed(other, root=tmp_path / "data") == EXPECTED
    with pytest.raises(DataError, match=r"line 2: .*does not exist; .*dataset\.root=FOLDER"):
        open_dataset(TableConfig(path=other)).check()
    (tmp_path / "data" / "img" / "3.png").unlink()
    with pytest.raises(
        DataError, match=r"line 5: .*3\.png does not exist; nor is any end of that path in dataset.root"
    ):
        open_dataset(TableConfig(path=other, root=tmp_path / "data")).check()


def test_paths_that_are_absolute_and_there_are_taken(tmp_path: Path) -> None:
    table = make(tmp_path / "data", [])
    rows = [[str(tmp_path / "data" / file), *rest] for file, *rest in lines()]
    table.write_text("\n".join(",".join(map(str, row)) for row in (HEADER, *rows)))
    assert [row[1:] for row in listed(table)] == [row[1:] for row in EXPECTED]


@pytest.mark.parametrize("name", ["a b.png", "Vögel/鳥.PNG", "two\nlines.png", "a,b;c.JPG", "img.0.x.png"])
def test_names_of_any_kind_are_read(tmp_path: Path, name: str) -> None:
    rows = lines()
    table = make(tmp_path / "data", [[name, *rows[0][1:]], *rows[1:]])
    (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "data" / name).symlink_to(tmp_path / "data" / "img" / "0.png")
    assert len(listed(table)) == 12
    config = TableConfig(path=table)
    (tmp_path / "out").mkdir()
    assert sum(open_dataset(config).write(tmp_path / "out", run_seed=0).values()) == 12


def test_a_drawn_split_is_stratified_and_no_matter_of_order(tmp_path: Path) -> None:
    rows = [[f"img/{i}.png", i % 2, int(i % 10 == 0)] for i in range(200)]
    table = make(tmp_path / "data", rows, HEADER[:3], num=200)
    drawn = listed(table, split=(0.8, 0.1, 0.1))
    counts = Counter((label, attribute, split) for _, label, attribute, split in drawn)
    # 100 of label 1, 80 and 20 of label 0: each divided 8 : 1 : 1.
    assert counts == {
        **{(1, 0, split): n for split, n in zip(SPLITS, (80, 10, 10), strict=True)},
        **{(0, 0, split): n for split, n in zip(SPLITS, (64, 8, 8), strict=True)},
        **{(0, 1, split): n for split, n in zip(SPLITS, (16, 2, 2), strict=True)},
    }
    table.write_text("\n".join([",".join(HEADER[:3]), *(",".join(map(str, row)) for row in reversed(rows))]))
    assert listed(table, split=(0.8, 0.1, 0.1)) == drawn
    assert listed(table, split=(0.8, 0.1, 0.1), split_seed=1) != drawn


@pytest.mark.parametrize("split", [[0.8, 0.1], [0.8, 0.1, 0.2], [1, 0, 0], [1.2, -0.1, -0.1]])
def test_fractions_that_make_no_split_are_refused(tmp_path: Path, split: list[float]) -> None:
    from raygen.datasets import make_dataset

    table = make(tmp_path / "data", lines())
    with pytest.raises(ConfigError, match="split"):
        make_dataset({**named_config(str(table)), "split": split}, [], tmp_path / "out", seed=0)


def test_a_table_is_told_by_its_suffix(tmp_path: Path) -> None:
    assert named_config("x/birds.PARQUET") == {"name": "table", "path": "x/birds.PARQUET"}
    assert named_config(str(tmp_path)) == {"name": "folder", "path": str(tmp_path)}
    assert named_config("scenes") == {"name": "scenes"}
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["data", "make", str(make(tmp_path / "data", lines(("cat", "dog")))), "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "numbered 0 = cat, 1 = dog" in result.output
    assert check_dataset(out).problems == []


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("gone.csv", None, "does not exist; give a .csv"),
        ("x.parquet", b"PAR1xx", "cannot be read as Parquet"),
        ("x.csv", b"", "is empty"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str, write: bytes | None, message: str) -> None:
    if write is not None:
        (tmp_path / name).write_bytes(write)
    with pytest.raises(DataError, match=message):
        listed(tmp_path / name)


def test_parquet_that_holds_something_else_is_told_apart(tmp_path: Path, scenes_folder: Path) -> None:
    with pytest.raises(DataError, match="is a shard of a dataset that raygen wrote; give the folder"):
        listed(next(scenes_folder.glob("part-*.parquet")))
    pictures = pd.DataFrame({"image": [{"bytes": PICTURE, "path": None}], "label": [0]})
    pictures.to_parquet(tmp_path / "hf.parquet")
    with pytest.raises(DataError, match=r"dataset\.name=hf"):
        listed(tmp_path / "hf.parquet")
    pd.DataFrame({"path": [["a"]], "label": [0], "split": [0]}).to_parquet(tmp_path / "list.parquet")
    with pytest.raises(DataError, match="column 'path' is list"):
        listed(tmp_path / "list.parquet")


def test_a_table_in_the_working_directory_has_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make(tmp_path / "data", lines())
    state = open_dataset(TableConfig(path=table)).state(run_seed=0)
    monkeypatch.chdir(table.parent)
    assert listed(Path("birds.csv")) == EXPECTED
    (tmp_path / "out").mkdir()
    open_dataset(TableConfig(path=Path("birds.csv"))).write(tmp_path / "out", run_seed=0)
    assert check_dataset(tmp_path / "out").problems == []
    assert open_dataset(TableConfig(path=table)).state(run_seed=0) == state
    os.utime(table.parent / "img" / "0.png", ns=(1, 1))
    assert open_dataset(TableConfig(path=table)).state(run_seed=0) != state
