"""Published datasets that are tables, by hand: which rows they give, and what is said of what does not fit."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_trees import CELEBA_HEADER, celeba_tree, listed, masks, picture, put, table

from raygen.datasets import DATASETS, folder_config, open_dataset
from raygen.errors import ConfigError, DataError
from raygen.images import encode_image

# --- Waterbirds


def waterbirds_tree(root: Path, num: int = 6) -> Path:
    lines = [(i + 1, f"001.Auk/{i}.jpg", i % 2, i % 3, i // 3 % 2, f"/o/ocean/{i}.jpg") for i in range(num)]
    table(root, "metadata.csv", ("img_id", "img_filename", "y", "split", "place", "place_filename"), lines)
    put(root, *(line[1] for line in lines), data=picture())
    return root


def test_half_of_the_annotators_make_a_bird_of_a_pixel(tmp_path: Path) -> None:
    root = waterbirds_tree(tmp_path)
    votes_HW = np.zeros((9, 7), dtype=np.uint8)
    votes_HW[2, :6] = (0, 51, 102, 153, 204, 255)
    put(root, "segmentations/001.Auk/0.png", data=encode_image(np.repeat(votes_HW[..., None], 3, axis=-1)))
    listing = listed("waterbirds", root)
    found = masks(listing)
    assert found["001.Auk/1"] is None
    expected = np.zeros((9, 7), dtype=bool)
    expected[2, 3:6] = True
    np.testing.assert_array_equal(found["001.Auk/0"], expected)
    assert [(e.label, e.attribute, e.split) for e in listing.entries[:3]] == [
        (0, 0, "train"),
        (1, 0, "val"),
        (0, 0, "test"),
    ]
    assert listing.info.class_names == ("landbird", "waterbird")
    assert listing.info.attribute_names == ("land", "water")
    assert any("5 pictures have no segmentation" in line for line in listing.warnings)


def test_segmentations_may_lie_elsewhere(tmp_path: Path) -> None:
    root = waterbirds_tree(tmp_path / "birds")
    put(tmp_path, "CUB/segmentations/001.Auk/4.png", data=picture(9, 7))
    segmentations = tmp_path / "CUB" / "segmentations"
    assert masks(listed("waterbirds", root, segmentations=segmentations))["001.Auk/4"] is not None
    with pytest.raises(DataError, match=r"dataset\.segmentations: .*does not exist"):
        listed("waterbirds", root, segmentations=tmp_path / "nowhere")


def test_rows_of_waterbirds_are_those_of_its_table(tmp_path: Path) -> None:
    root = waterbirds_tree(tmp_path, 12)
    with (root / "metadata.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    splits = {"0": "train", "1": "val", "2": "test"}
    expected = sorted(
        (line["img_filename"][:-4], int(line["y"]), int(line["place"]), splits[line["split"]]) for line in lines
    )
    assert [(e.image_id, e.label, e.attribute, e.split) for e in listed("waterbirds", root).entries] == expected


# --- CelebA

FACES = [(-1, -1, 1), (-1, 1, -1), (1, -1, 1), (1, 1, -1), (-1, -1, -1), (1, -1, 1), (-1, 1, 1), (-1, -1, 1)]
FACE_SPLITS = [0, 0, 0, 0, 0, 1, 2, 1]


def test_any_attribute_of_celeba_is_label_and_any_other_the_attribute(tmp_path: Path) -> None:
    root = celeba_tree(tmp_path, FACES, FACE_SPLITS)
    for label, attribute in (("Blond_Hair", "Male"), ("Smiling", "Blond_Hair"), ("Male", None)):
        listing = listed("celeba", root, label=label, attribute=attribute)
        here = [(e.image_id, e.label, e.attribute, e.split) for e in listing.entries]
        y, a = CELEBA_HEADER.index(label), None if attribute is None else CELEBA_HEADER.index(attribute)
        assert here == [
            (f"{i + 1:06d}", int(row[y] == 1), None if a is None else int(row[a] == 1), ("train", "val", "test")[split])
            for i, (row, split) in enumerate(zip(FACES, FACE_SPLITS, strict=True))
        ]
    assert listed("celeba", root, label="Smiling").info.class_names == ("not smiling", "smiling")
    assert listed("celeba", root).info.class_names == ("non-blond", "blond")


def test_celebas_csv_files_and_folders_of_the_archive_give_the_same_rows(tmp_path: Path) -> None:
    root, other = celeba_tree(tmp_path / "txt", FACES, FACE_SPLITS), tmp_path / "other"
    names = [f"{i:06d}.jpg" for i in range(1, len(FACES) + 1)]
    put(other, *(f"Img/img_align_celeba/{name}" for name in names))
    table(
        other,
        "Anno/list_attr_celeba.csv",
        ("image_id", *CELEBA_HEADER),
        [(n, *r) for n, r in zip(names, FACES, strict=True)],
    )
    table(other, "Eval/list_eval_partition.csv", ("image_id", "partition"), list(zip(names, FACE_SPLITS, strict=True)))
    rows = [[(e.image_id, e.label, e.attribute, e.split) for e in listed("celeba", r).entries] for r in (root, other)]
    assert rows[0] == rows[1]
    assert len(rows[0]) == len(FACES)
    assert folder_config(str(other)) == {"name": "celeba", "path": str(other)}


def test_the_balanced_subset_has_as_many_of_each_class_in_training_only(tmp_path: Path) -> None:
    values, splits = [(1 if i % 10 == 0 else -1, -1, 1) for i in range(100)], [0] * 60 + [1] * 20 + [2] * 20
    root = celeba_tree(tmp_path, values, splits)
    drawn = []
    for seed in (10, 10, 11):
        listing = listed("celeba", root, subset="class_balanced", subset_seed=seed)
        counts = Counter((entry.split, entry.label) for entry in listing.entries)
        assert counts == {
            ("train", 0): 6,
            ("train", 1): 6,
            ("val", 0): 18,
            ("val", 1): 2,
            ("test", 0): 18,
            ("test", 1): 2,
        }
        drawn.append([entry.image_id for entry in listing.entries])
    assert drawn[0] == drawn[1] != drawn[2]


def _without(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def _changed(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (_without("list_eval_partition.txt"), {}, "none of list_eval_partition.txt, .* which say which picture"),
        (_without("list_attr_celeba.txt"), {}, "none of list_attr_celeba.txt"),
        (lambda root: (root / "img_align_celeba").rename(root / "img"), {}, "no folder img_align_celeba/"),
        (
            lambda root: None,
            {"label": "blond"},
            r"no attribute 'blond' \(the nearest is 'Blond_Hair'\); it has Blond_Hair",
        ),
        (lambda root: None, {"attribute": "Smilling"}, r"no attribute 'Smilling' \(the nearest is 'Smiling'\)"),
        (
            _changed("list_attr_celeba.txt", "000003.jpg  1", "000003.jpg  2"),
            {},
            "line 5: Blond_Hair is '2'; expected 1",
        ),
        (_changed("list_attr_celeba.txt", "000003.jpg  1", "000003.jpg"), {}, "line 5: 2 values for 3 attributes"),
        (_changed("list_eval_partition.txt", "000002.jpg 0", "000002.jpg 3"), {}, "line 2: '000002.jpg 3'; expected"),
        (lambda root: None, {"class_names": ("a", "b", "c")}, "dataset.class_names has 3 names"),
    ],
)
def test_what_is_wrong_with_celebas_files_is_named(
    tmp_path: Path, change: Callable[[Path], None], fields: dict[str, Any], message: str
) -> None:
    root = celeba_tree(tmp_path, FACES, FACE_SPLITS)
    change(root)
    with pytest.raises(DataError, match=message):
        listed("celeba", root, **fields)


def test_one_attribute_is_not_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both 'Male'"):
        listed("celeba", celeba_tree(tmp_path, FACES, FACE_SPLITS), label="Male")


def test_missing_pictures_are_counted_and_five_are_named(tmp_path: Path) -> None:
    root = celeba_tree(tmp_path, FACES, FACE_SPLITS)
    for i in range(1, 8):
        (root / "img_align_celeba" / f"{i:06d}.jpg").unlink()
    opened = open_dataset(DATASETS["celeba"].Config.model_validate({"path": root}))
    with pytest.raises(DataError, match=r"7 picture\(s\) cannot be used") as error:
        opened.check()
    assert [f"{i:06d}.jpg does not exist" in str(error.value) for i in range(1, 8)] == [True] * 5 + [False] * 2


def test_tables_of_different_releases_are_told(tmp_path: Path) -> None:
    root = celeba_tree(tmp_path, FACES, FACE_SPLITS)
    partition = root / "list_eval_partition.txt"
    partition.write_text(partition.read_text().replace("000002.jpg", "000020.jpg"))
    problems = listed("celeba", root).problems
    assert len(problems) == 2
    assert "line 4: 000002.jpg is not in list_eval_partition.txt" in problems[0]
    assert "names 1 pictures that list_attr_celeba.txt has not: 000020.jpg" in problems[1]


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    opened = open_dataset(
        DATASETS["celeba"].Config.model_validate({"path": celeba_tree(tmp_path, FACES, [0] * 6 + [2, 2])})
    )
    with pytest.raises(DataError, match="no image in split val"):
        opened.check()


# --- CheXpert

XRAYS = [("", "1.0"), ("1.0", "0.0"), ("-1.0", "1.0"), ("0.0", "-1.0"), ("1.0", "1.0"), ("0.0", "")]


def chexpert_tree(root: Path, num: int = 300) -> Path:
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", "Pneumothorax", "Support Devices")
    for name, count in (("train", num), ("valid", 6)):
        lines = [
            (
                f"CheXpert-v1.0-small/{name}/patient{i // 2:05d}/study1/view{i % 2}.jpg",
                ("Male", "Female")[i % 2],
                50,
                "Lateral" if i % 6 == 4 else "Frontal",
                "AP",
                "",
                *XRAYS[i % 6],
            )
            for i in range(count)
        ]
        table(root, f"CheXpert-v1.0-small/{name}.csv", header, lines)
        put(root, *(line[0] for line in lines))
    return root


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        ("leave_out", [(0, 1), (1, 0), (0, 0)]),
        ("zeros", [(0, 1), (1, 0), (0, 1), (0, 0), (0, 0)]),
        ("ones", [(0, 1), (1, 0), (1, 1), (0, 1), (0, 0)]),
    ],
)
@pytest.mark.parametrize("below", ["", "CheXpert-v1.0-small"])
def test_uncertain_labels_follow_the_rule_that_is_named(
    tmp_path: Path, uncertain: str, expected: list[tuple[int, int]], below: str
) -> None:
    listing = listed("chexpert", chexpert_tree(tmp_path) / below, uncertain=uncertain)
    test = sorted((e for e in listing.entries if e.split == "test"), key=lambda e: e.image_id)
    assert [(e.label, e.attribute) for e in test] == expected
    patients = {s: {e.image_id.split("/")[-3] for e in listing.entries if e.split == s} for s in ("train", "val")}
    assert patients["val"]
    assert not patients["train"] & patients["val"]
    assert len(listed("chexpert", tmp_path, uncertain=uncertain, views="all").entries) > len(listing.entries)


def test_columns_that_are_no_observations_can_be_the_attribute(tmp_path: Path) -> None:
    listing = listed("chexpert", chexpert_tree(tmp_path), attribute="Sex", uncertain="zeros")
    assert listing.info.attribute_names == ("female", "male")
    assert all(entry.attribute == int(entry.image_id.endswith("view0")) for entry in listing.entries)
    with pytest.raises(DataError, match=r"no observation 'Pneumotorax' \(the nearest is 'Pneumothorax'\)"):
        listed("chexpert", tmp_path, label="Pneumotorax")
    with pytest.raises(DataError, match=r"train\.csv: no column 'Edema'.*; found Path"):
        listed("chexpert", tmp_path, label="Edema")
