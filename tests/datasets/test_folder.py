"""Users' folders: three layouts, and what is wrong with them said by name."""

import csv
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygen.datasets import open_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.folder import FolderConfig
from raygen.datasets.known import KNOWN, differences, recognised
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError, DataError
from raygen.images import encode_image, encode_mask

HEADER = ("img_filename", "y", "split", "place", "mask_filename")
# group_DRO's metadata.csv of Waterbirds: only its own generator writes the file of the background.
WATERBIRDS_HEADER = (*HEADER, "place_filename")
# CelebA's own annotation, 1 or -1, beside the label and the attribute that were made from it.
CELEBA_HEADER = (*HEADER, "Blond_Hair", "Male")


def picture(seed: int) -> bytes:
    return encode_image(np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8))


def make_csv(folder: Path, lines: list[tuple[Any, ...]], header: tuple[str, ...] = HEADER) -> Path:
    (folder / "img").mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
    for i, line in enumerate(lines):
        (folder / str(line[0])).write_bytes(picture(i))
    return folder


LINES = [(f"img/{i}.png", i % 2, i % 3, (i // 2) % 2, "") for i in range(12)]
CELEBA_LINES = [(*line, 2 * line[1] - 1, 2 * line[3] - 1) for line in LINES]
# Of another target, such as a smile: the label is not the hair's.
OTHER_TARGET_LINES = [(*line, 1, 2 * line[3] - 1) for line in LINES]
COPIES: dict[str, tuple[list[tuple[Any, ...]], tuple[str, ...]]] = {
    "waterbird_complete95_forest2water2": ([(*line, "/o/ocean/1.jpg") for line in LINES], WATERBIRDS_HEADER),
    "CelebA": (CELEBA_LINES, CELEBA_HEADER),
    "celeba_smiling": (OTHER_TARGET_LINES, CELEBA_HEADER),
}


def write(path: Path, out: Path, **fields: Any) -> RowIndex:
    out.mkdir()
    open_dataset(FolderConfig(path=path, **fields)).write(out, run_seed=0)
    return RowIndex(out)


def test_metadata_csv(tmp_path: Path) -> None:
    folder = make_csv(tmp_path / "data", LINES)
    (folder / "mask.png").write_bytes(encode_mask(np.eye(9, 7, dtype=bool)))
    index = write(folder, tmp_path / "out", class_names=("dog", "cat"))
    assert index.table.num_rows == 12
    assert index.dataset.prompts == ("a photo of a dog", "a photo of a cat")
    row = index.fetch(["img/3"], ["image_png", "label", "attribute", "split", "object_png"]).to_pylist()[0]
    assert row == {"image_png": picture(3), "label": 1, "attribute": 1, "split": "train", "object_png": None}


@pytest.mark.parametrize(
    ("name", "class_names", "words"),
    [
        ("waterbird_complete95_forest2water2", ("dog", "cat"), ("bird", "bird")),
        ("CelebA", ("dark", "fair"), ("hair", "hair")),
        ("celeba_smiling", ("sad", "happy"), ("sad", "happy")),
        ("my_waterbirds", ("landbird", "waterbird"), ("bird", "bird")),
        ("my_waterbirds", ("gull", "duck"), ("gull", "duck")),
        ("meta_shift", ("cat", "dog"), ("animal", "animal")),
        ("meta_shift", ("cow", "horse"), ("cow", "horse")),
        ("pets", ("dog", "cat"), ("dog", "cat")),
    ],
)
def test_a_copy_of_a_published_dataset_brings_the_papers_word_for_its_objects(
    tmp_path: Path, name: str, class_names: tuple[str, str], words: tuple[str, str]
) -> None:
    folder = make_csv(tmp_path / name, *COPIES.get(name, (LINES, HEADER)))
    index = write(folder, tmp_path / "out", class_names=class_names)
    assert index.dataset.object_words == words
    # Kept where the rows are written again, unless the classes get other names.
    assert write(tmp_path / "out", tmp_path / "again").dataset.object_words == words
    renamed = write(tmp_path / "out", tmp_path / "renamed", class_names=("hound", "kitten"))
    assert renamed.dataset.object_words == ("hound", "kitten")


BIRDS, HAIR = ("landbird", "waterbird"), ("non-blond", "blond")
NUMBERED = (("class 0", "class 1"), ("attribute 0", "attribute 1"))
HAIR_PROMPTS = ("a photo of a person with dark hair", "a photo of a person with blond hair")


@pytest.mark.parametrize(
    ("name", "fields", "names", "prompts"),
    [
        ("waterbird_complete95_forest2water2", {}, (BIRDS, ("land", "water")), None),
        ("CelebA", {}, (HAIR, ("female", "male")), HAIR_PROMPTS),
        ("CelebA", {"prompts": ("a", "b")}, (HAIR, ("female", "male")), ("a", "b")),
        ("CelebA", {"class_names": ("dark", "fair")}, (("dark", "fair"), NUMBERED[1]), None),
        ("celeba_smiling", {}, NUMBERED, None),
        ("my_waterbirds", {}, NUMBERED, None),
        ("pets", {}, NUMBERED, None),
    ],
)
def test_a_table_of_numbers_takes_the_names_of_the_published_dataset_that_it_is_a_copy_of(
    tmp_path: Path,
    name: str,
    fields: dict[str, Any],
    names: tuple[tuple[str, ...], ...],
    prompts: tuple[str, ...] | None,
) -> None:
    folder = make_csv(tmp_path / name, *COPIES.get(name, (LINES, HEADER)))
    info = write(folder, tmp_path / "out", **fields).dataset
    assert (info.class_names, info.attribute_names) == names
    assert info.prompts == (prompts or tuple(f"a photo of a {word}" for word in names[0]))
    assert info.has_numbered_classes == (names == NUMBERED)
    if not fields:
        # Said, whether they are taken or not; of a folder that is called otherwise there is nothing to say.
        said: dict[tuple[Any, ...], str] = {
            BIRDS: "classes are called as in waterbirds",
            HAIR: "classes are called as in celeba",
        }
        expected = "" if name == "pets" else said.get(names[0], "its classes are not called as there")
        lines = open_dataset(FolderConfig(path=folder)).lines
        assert [expected in line for line in lines] == [True] * (name != "pets")


@pytest.mark.parametrize(("change", "is_copy"), [(0, True), (30, True), (60, False)])
def test_a_table_with_the_published_numbers_of_images_is_a_copy(change: int, is_copy: bool) -> None:
    """A copy that lost some files is one still: 30 of 3498 are less than 1%, 60 are more."""
    found = {(split, *group): n for split, groups in KNOWN["waterbirds"].items() for group, n in groups.items()}
    found["train", 0, 0] -= change
    assert (recognised("waterbirds", found) is not None) == is_copy
    assert recognised("birds", found) is None
    by_class = Counter[tuple[str, int, int | None]]()
    for (split, label, _), n in found.items():
        by_class[split, label, None] += n
    assert (recognised("waterbirds", by_class) is not None) == is_copy
    assert recognised("waterbirds", {**found, ("train", 2, 0): 1}) is None


def test_a_table_with_another_number_of_classes_is_not_the_published_dataset(tmp_path: Path) -> None:
    lines, header = COPIES["waterbird_complete95_forest2water2"]
    folder = make_csv(tmp_path / "waterbirds", [*lines, ("img/12.png", 2, 0, 0, "", "")], header)
    assert write(folder, tmp_path / "out").dataset.class_names == ("class 0", "class 1", "class 2")


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
    assert index.table.equals(RowIndex(scenes_folder).table)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES, ("img/99.png", "duck", 0, 0, "")], "line 14: column 'y' is 'duck'"),
        ([*LINES, ("img/99.png", 0, 7, 0, "")], "split is '7'"),
        ([*LINES, ("img/99.png", "", 0, 0, "")], "every picture needs a label"),
        ([*LINES, ("img/5.png", 0, 0, 0, "")], "occurs twice"),
        ([*LINES, ("img/99.png", -1, 0, 0, "")], "line 14: column 'y' is '-1'; expected a whole number from 0"),
        ([*LINES, ("img/99.png", 0, 0, 0, "no.png")], r"line 14: .*no\.png does not exist"),
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
    with pytest.raises(DataError, match=r"metadata\.csv, line 6: .*4\.png does not exist"):
        write(folder, tmp_path / "out")


def test_check_finds_damaged_pictures_and_empty_groups(tmp_path: Path) -> None:
    folder = make_csv(tmp_path / "data", LINES)
    (folder / "img" / "4.png").write_bytes(picture(4)[:60])
    (folder / "img" / "5.png").write_text("not a picture")
    findings = check_dataset(folder)
    assert len(findings.problems) == 2
    assert [line.split(":")[0] for line in findings.problems] == ["img/4", "img/5"]
    assert sum(findings.counts.values()) == 12


def test_all_that_is_wrong_is_found_at_once(tmp_path: Path) -> None:
    wrong = [("img/20.png", "duck", 0, 0, ""), ("img/21.png", 0, 7, 0, ""), ("img/5.png", 0, 0, 0, "")]
    folder = make_csv(tmp_path / "data", [*LINES, *wrong])
    (folder / "img" / "4.png").write_bytes(b"")
    expected = ["line 14: column 'y' is 'duck'", "line 15: split is '7'", "'img/5' occurs twice; first in", "img/4: "]
    findings = check_dataset(folder)
    assert len(findings.problems) == len(expected)
    for problem, text in zip(findings.problems, expected, strict=True):
        assert text in problem
    with pytest.raises(DataError, match="3 picture\\(s\\) cannot be used"):
        write(folder, tmp_path / "out")


def test_pictures_of_every_kind_that_can_be_used_are_no_errors(tmp_path: Path) -> None:
    folder = make_csv(tmp_path / "data", LINES[:4])
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    rgb.convert("CMYK").save(folder / "img" / "0.png", "JPEG")
    Image.fromarray(np.full((9, 7), 40_000, dtype=np.uint16)).save(folder / "img" / "1.png")
    rgb.convert("RGBA").save(folder / "img" / "2.png")
    rgb.save(folder / "img" / "3.png", "JPEG", exif=exif)
    assert check_dataset(folder).problems == []


def test_an_absurd_size_is_found_before_it_is_decoded(tmp_path: Path) -> None:
    folder = make_csv(tmp_path / "data", LINES[:4])
    Image.new("1", (20_000, 20_000)).save(folder / "img" / "2.png")
    (problem,) = check_dataset(folder).problems
    assert "more than the 64,000,000 pixels" in problem


@pytest.mark.parametrize("expect", ["waterbirds", None])
def test_other_numbers_than_the_published_ones_are_named(tmp_path: Path, expect: str | None) -> None:
    folder = make_csv(tmp_path / "waterbird_complete95", LINES)
    findings = check_dataset(folder, expect=expect)
    lines = findings.problems if expect else findings.warnings
    # Twelve images: one in each group and split, where the train groups of Waterbirds have thousands.
    assert any("train: label 0, attribute 0 has 1 images, the published dataset 3498" in line for line in lines)
    assert len(lines) == 12
    with pytest.raises(ConfigError, match="known: waterbirds"):
        check_dataset(folder, expect="waterbird")


def test_the_published_numbers_are_no_difference() -> None:
    found = {(split, *group): n for split, groups in KNOWN["waterbirds"].items() for group, n in groups.items()}
    assert differences(KNOWN["waterbirds"], found) == []
    assert sum(found.values()) == 11_788
    assert sum(n for groups in KNOWN["celeba"].values() for n in groups.values()) == 202_599
    by_class: dict[tuple[str, int, int | None], int] = {
        ("train", 0, 0): 231,
        ("train", 0, 1): 380,
        ("train", 1, 2): 145,
        ("train", 1, 3): 367,
    }
    assert not [line for line in differences(KNOWN["metashift"], by_class) if line.startswith("train")]


def test_a_damaged_shard_is_named(tmp_path: Path, scenes_folder: Path) -> None:
    folder = Path(shutil.copytree(scenes_folder, tmp_path / "scenes"))
    (folder / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"part-00000\.parquet cannot be read"):
        check_dataset(folder)


def test_progress_is_told_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    check_dataset(make_csv(tmp_path / "data", LINES), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (12, 12)


def test_what_a_folder_holds_decides_its_rows(tmp_path: Path) -> None:
    """A label or a picture that is mended makes another dataset; the seed, which decides nothing here, does not."""
    folder = make_csv(tmp_path / "data", LINES)
    config = FolderConfig(path=folder)
    first = open_dataset(config).state(run_seed=0)
    assert open_dataset(config).state(run_seed=1) == first
    (folder / "img" / "3.png").write_bytes(picture(99))
    second = open_dataset(config).state(run_seed=0)
    table = folder / "metadata.csv"
    table.write_text(table.read_text().replace("img/4.png,0", "img/4.png,1"))
    third = open_dataset(config).state(run_seed=0)
    assert len({str(state) for state in (first, second, third)}) == 3


def test_colours_for_the_flat_control_leave_out_what_cannot_be_read(tmp_path: Path) -> None:
    from raygen.fits import training_objects

    lines = [(f"img/{i}.png", i % 2, 0, 0, "wide.png" if i == 2 else "") for i in range(8)]
    folder = make_csv(tmp_path / "data", lines)
    (folder / "wide.png").write_bytes(encode_mask(np.ones((3, 30), dtype=bool)))
    (folder / "img" / "1.png").write_bytes(picture(1)[:-40])
    colours = training_objects.flat_colours(write(folder, tmp_path / "out"), seed=0)
    assert {label: colours_MC.shape for label, colours_MC in colours.items()} == {0: (3, 3), 1: (3, 3)}
