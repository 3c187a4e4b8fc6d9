"""ImageFolder as it is found: what systems and tools leave in it, links, odd names."""

import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from class_folders import PLAIN, SPLITS, config, labels, make, put, write
from PIL import Image
from torchvision.datasets import ImageFolder

from raygen import cli, recipes
from raygen.datasets import open_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.folder import FolderConfig, open_folder
from raygen.errors import DataError, RowError
from raygen.images import decode_image
from raygen.run.opened import Opened
from raygen.run.preflight import check


@pytest.mark.parametrize(
    "name",
    [".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"],
)
def test_folders_of_systems_and_tools_are_no_classes(tmp_path: Path, name: str) -> None:
    root = make(tmp_path / "data")
    for split in SPLITS:
        put(root / split / name / "0.png")
        put(root / split / "dog" / name / "0.png")
    put(root / "train" / "cat" / "._0.png", b"AppleDouble")
    put(root / "train" / "cat" / "Thumbs.db")
    assert labels(root) == PLAIN
    findings = check_dataset(root)
    assert not findings.problems
    # Named, in case that it was meant for a class; what lies deeper is only counted.
    assert {line.rpartition(": ")[2] for line in findings.warnings} == {f"{root}/{split}/{name}" for split in SPLITS}
    assert any("8 hidden files and folders" in line for line in findings.notes)


def test_empty_folders_are_no_classes_and_do_not_move_labels(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    (root / "train" / "ape").mkdir()
    (root / "val" / "bee").mkdir()
    assert labels(root) == PLAIN
    assert labels(root, class_names=("Felis", "Canis"))["val/dog/0"] == "Canis"
    line = "empty in every split, so not taken for classes: ape, bee"
    assert check_dataset(root).warnings == [line]
    assert f"warning: {line}" in open_dataset(FolderConfig(path=root)).lines
    with pytest.raises(
        DataError, match=r"3 names \(ape, cat, dog\) for the classes cat, dog \(ape, bee has no picture"
    ):
        labels(root, class_names=("ape", "cat", "dog"))


def test_a_class_without_training_pictures_keeps_its_label_and_is_warned_of(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    (root / "train" / "cat" / "0.png").unlink()
    assert labels(root)["val/dog/0"] == "dog"
    assert open_dataset(FolderConfig(path=root)).class_counts("train") == {"cat": 0, "dog": 1}
    assert "train: no image of class 0 (cat)" in check_dataset(root).warnings
    assert open_dataset(FolderConfig(path=root)).lines == ["warning: no training image of class 'cat'"]


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_without_pictures_is_refused_unless_it_is_the_test_split(tmp_path: Path, split: str) -> None:
    root = make(tmp_path / "data")
    for path in (root / split).rglob("*.png"):
        path.unlink()
    findings = check_dataset(root)
    if split == "test":
        assert (findings.problems, findings.warnings) == ([], ["no image in split test"])
        check(Opened(config(root, "erm")))
        return
    assert findings.problems == [f"no image in split {split}; every run needs some"]
    with pytest.raises(DataError, match=f"no image in split {split}; every run needs some"):
        check(Opened(config(root, "erm")))


@pytest.mark.parametrize("name", ["notes.txt", "0.heic"])
def test_a_class_of_files_that_cannot_be_read_is_not_lost_in_silence(tmp_path: Path, name: str) -> None:
    root = make(tmp_path / "data")
    put(root / "train" / "eel" / name)
    refused(root, rf"class folder eel/ holds no picture that can be read, only 1 {Path(name).suffix}")


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    for name in ("a.heic", "b.heic", "c.txt", "d"):
        put(root / "train" / "cat" / name)
    put(root / "train" / "loose.png")
    put(root / "masks" / "0.png")
    assert labels(root) == PLAIN
    loose, others = check_dataset(root).warnings
    assert loose.endswith("left out, since in no class folder of train/, val/ or test/: masks, train/loose.png")
    cat = root / "train" / "cat"
    assert others.endswith(f": 2 .heic ({cat}/a.heic), 1 .txt ({cat}/c.txt), 1 without suffix ({cat}/d)")
    assert open_dataset(FolderConfig(path=root)).lines == [f"warning: {loose}", f"warning: {others}"]


def test_a_folder_without_a_readable_picture_says_what_it_has(tmp_path: Path) -> None:
    root = make(tmp_path / "data", splits=SPLITS)
    for path in root.rglob("*.png"):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"holds no picture; .* it has 6 \.heic .* and read are \.apng, \.avif"):
        labels(root)


def test_subfolders_and_suffixes_are_those_of_torchvision_and_more(tmp_path: Path) -> None:
    """torchvision's ImageFolder is the oracle for the files of each class; the suffixes that it lacks come on top."""
    root, rgb = make(tmp_path / "data"), Image.new("RGB", (16, 16), (200, 30, 60))
    put(root / "train" / "dog" / "husky" / "a" / "0.png")
    put(root / "train" / "dog" / "folder.png" / "0.png")
    (root / "train" / "cat" / "link").symlink_to(root / "val" / "cat")
    for name in ("1.JPG", "2.ppm", "3.pgm", "4.tiff", "5.webp", "6.bmp"):
        rgb.save(root / "train" / "cat" / name)
    found = open_folder(FolderConfig(path=root))
    theirs = ImageFolder(str(root / "train"))
    assert {(str(e.picture), e.label) for e in found.entries if e.split == "train"} == set(theirs.samples)
    for name, file_format in (("7.jfif", "JPEG"), ("8.jpe", "JPEG"), ("9.gif", "GIF"), ("10.avif", "AVIF")):
        rgb.save(root / "train" / "dog" / name, file_format)
    rgb.save(root / "train" / "dog" / "11.jp2")
    rgb.save(root / "train" / "dog" / "12.apng", "PNG")
    assert open_dataset(FolderConfig(path=root)).class_counts("train") == {"cat": 8, "dog": 9}
    assert check_dataset(root).problems == []


def test_names_that_differ_in_the_suffix_only_are_two_pictures(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    Image.new("RGB", (8, 8)).save(root / "train" / "cat" / "0.jpg")
    renamed = {"train/cat/0.png": "cat", "train/cat/0.jpg": "cat"}
    assert labels(root) == {**{key: name for key, name in PLAIN.items() if key != "train/cat/0"}, **renamed}
    assert any("2 pictures have a name that another has with another suffix" in w for w in check_dataset(root).warnings)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("Train", "valid", "TEST"), None),
        (("training", "validation", "testing"), None),
        (("train", "dev", "test"), None),
        (("train", "val", "validation", "test"), r"has both val/ and validation/, and both are the split val"),
        (("train", "holdout", "test"), r"has no folder val/.*; found holdout"),
        (("fold1", "fold2"), r"unknown layout; found fold1, fold2"),
    ],
)
def test_splits_by_the_names_that_they_have_elsewhere(
    tmp_path: Path, splits: tuple[str, ...], message: str | None
) -> None:
    root = make(tmp_path / "data", splits=splits)
    if message is None:
        entries = open_folder(FolderConfig(path=root)).entries
        assert {entry.image_id.split("/")[0]: entry.split for entry in entries} == dict(
            zip(splits, SPLITS, strict=True)
        )
        return
    for read in (write, check_dataset):
        with pytest.raises(DataError, match=message):
            read(root)


def _dangling(root: Path) -> str:
    (root / "train/cat/z.png").symlink_to("/gone.png")
    return r"train/cat/z\.png is a link to /gone\.png, which does not exist"


def _dangling_class(root: Path) -> str:
    (root / "train/eel").symlink_to("/gone")
    return r"train/eel is a link to /gone, which does not exist"


def _circle(root: Path) -> str:
    (root / "train/cat/z.png").symlink_to("z.png")
    return r"train/cat/z\.png is a link that leads in a circle"


def _folder_in_itself(root: Path) -> str:
    (root / "train/cat/up").symlink_to(root / "train")
    return r"train/cat/up/cat is a link to a folder that it is in"


def _pipe(root: Path) -> str:
    os.mkfifo(root / "train/cat/z.png")
    return r"train/cat/z\.png is a named pipe, not a file"


def _socket(root: Path) -> str:
    # By a relative name: those of sockets are short.
    here = os.open(".", os.O_RDONLY)
    os.chdir(root / "train/cat")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("z.png")
    os.fchdir(here)
    os.close(here)
    return r"train/cat/z\.png is a socket, not a file"


def _device(root: Path) -> str:
    (root / "train/cat/z.png").symlink_to("/dev/zero")
    return r"train/cat/z\.png is a device, not a file"


def _latin1(root: Path) -> str:
    put(Path(os.fsdecode(os.fsencode(root / "train/cat") + b"/M\xfcller.png")))
    return r"train/cat/M\\xfcller\.png: the name is not UTF-8.*convmv"


def _latin1_class(root: Path) -> str:
    put(Path(os.fsdecode(os.fsencode(root / "train") + b"/K\xe4tzchen/0.png")))
    return r"train/K\\xe4tzchen: the name is not UTF-8"


@pytest.mark.parametrize(
    "spoil",
    [
        *(_dangling, _dangling_class, _circle, _folder_in_itself),
        *(_pipe, _socket, _device, _latin1, _latin1_class),
    ],
)
def test_what_is_no_file_is_an_error_of_check_and_refused_by_a_run(
    tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    root = make(tmp_path / "data")
    refused(root, spoil(root))


def refused(root: Path, message: str) -> None:
    """By check and run alike, by name, in text that any output takes."""
    with pytest.raises(DataError, match=message) as caught:
        write(root)
    str(caught.value).encode()
    # A run is refused for the same before any work.
    with pytest.raises(DataError) as again:
        recipes.run(config(root, "erm"), root / "run", fresh=False, command="", say=lambda line: None)
    assert str(again.value) == str(caught.value)
    assert not (root / "run").exists()
    findings = check_dataset(root)
    assert findings.problems[0] in str(caught.value)
    assert all(line.isprintable() for line in findings.lines())


def test_a_folder_whose_own_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    root = make(Path(os.fsdecode(os.fsencode(tmp_path) + b"/V\xf6gel")))
    with pytest.raises(DataError, match=r"V\\xf6gel: the name is not UTF-8"):
        labels(root)


def test_a_command_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Wherever the name stands: the config, the log and Parquet's paths could not hold it."""
    monkeypatch.setattr(sys, "argv", ["raygen", "run", "erm", "--out", os.fsdecode(b"/tmp/V\xf6gel")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert r"raygen: '/tmp/V\xf6gel' is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("gone", [True, False])
def test_a_file_that_cannot_be_read_is_a_failed_row(tmp_path: Path, gone: bool) -> None:
    """It was there when it was listed, and is gone, or its disk gives an error, when it is read."""
    root = make(tmp_path / "data")
    spoiled = root / "train/cat/1.png"
    if gone:
        put(spoiled)
        listing = open_folder(FolderConfig(path=root))
        spoiled.unlink()
        assert len(listing.digest()) == 16
        rows = {row["image_id"]: row["image_png"] for row in listing.rows()}
        assert listing.unread == {"train/cat/1": f"{spoiled} cannot be read: No such file or directory"}
    else:
        spoiled.symlink_to("/proc/self/mem")  # a regular file whose first bytes are never there
        assert check_dataset(root).problems == [f"train/cat/1: {spoiled} cannot be read: Input/output error"]
        index = write(root)
        ids = index.table["image_id"].to_pylist()
        rows = dict(zip(ids, index.fetch(ids, ["image_png"])["image_png"].to_pylist(), strict=True))
    assert set(rows) == {*PLAIN, "train/cat/1"}
    with pytest.raises(RowError):
        decode_image(rows["train/cat/1"])


def test_a_name_with_a_line_break_is_a_name(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    put(root / "train/cat/a\nb.png", b"")
    assert "train/cat/a\nb" in write(root).table["image_id"].to_pylist()
    assert [line for line in check_dataset(root).lines() if r"train/cat/a\nb: " in line]


def test_the_state_of_a_folder_is_what_earlier_versions_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run folders that were made before go on: the hash is of the version that had no notes, warnings or subfolders."""
    monkeypatch.chdir(tmp_path)
    root = make(Path("data"))
    for path in root.rglob("*.png"):
        path.write_bytes(b"0123456789")
        os.utime(path, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
    assert open_dataset(FolderConfig(path=root)).state(run_seed=0) == {"listing": "9eed53611809a34b"}


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    assert not check_dataset(root).problems
    for split in ("train", "val", "test"):
        for folder in sorted((root / split).iterdir())[1:]:
            shutil.rmtree(folder)
    assert check_dataset(root).problems == ["train has images of one class only; a classifier tells at least two apart"]
    run = recipes.make_config({"recipe": "erm", "dataset": {"name": "folder", "path": str(root)}}, [], where="test")
    with pytest.raises(DataError, match="at least two classes apart; training images by class are"):
        check(Opened(run))
