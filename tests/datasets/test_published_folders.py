"""Published datasets that are folders, by hand: which rows they give, and what is said of what does not fit."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from published_trees import listed, masks, metashift_tree, picture, put
from sklearn.model_selection import train_test_split

from raygen.datasets import DATASETS, folder_config, open_dataset
from raygen.datasets.check import check_dataset
from raygen.errors import DataError
from raygen.images import encode_image

# --- MetaShift


def test_metashifts_split_is_that_of_the_sorted_files(tmp_path: Path) -> None:
    root = metashift_tree(tmp_path)
    listing = listed("metashift", root)
    counts = Counter((e.split, listing.info.attribute_names[e.attribute or 0], e.label) for e in listing.entries)
    assert counts == {
        ("train", "sofa", 0): 231, ("train", "bed", 0): 380, ("train", "bench", 1): 145, ("train", "bike", 1): 367,
        ("val", "shelf", 0): 34, ("val", "shelf", 1): 47, ("test", "shelf", 0): 201, ("test", "shelf", 1): 259,
    }  # fmt: skip
    assert listing.warnings == []
    pool = [
        path for animal in ("cat", "dog") for path in sorted((root / "test" / animal / f"{animal}(shelf)").iterdir())
    ]
    validation, _ = train_test_split(np.arange(541), test_size=0.85, random_state=0)
    assert {e.picture for e in listing.entries if e.split == "val"} == {str(pool[i]) for i in validation}


def test_another_number_of_pictures_is_explained(tmp_path: Path) -> None:
    root = metashift_tree(tmp_path / "MetaDatasetCatDog", (5, 5, 5, 5, 20, 20))
    listing = listed("metashift", tmp_path)
    assert len(listing.warnings) == 2
    assert "8 of 8 groups of metashift are not of the published size" in listing.warnings[0]
    assert "filtered, sampled or unfinished copy" in listing.warnings[0]
    assert "20 cats and 20 dogs, published are 235 and 306" in listing.warnings[1]
    assert sum(entry.split == "val" for entry in listing.entries) == 6  # 40 less 85% of it
    (root / "train" / "cat" / "cat(bed)").rename(root / "bed")
    with pytest.raises(DataError, match=r"has no train/cat/cat\(bed\); expected MetaDatasetCatDog"):
        listed("metashift", tmp_path)


# --- ImageNet-9


def in9_tree(root: Path) -> tuple[Path, np.ndarray]:
    """One training, one validation picture and a test picture in four sets; gives back the training picture's mask."""
    image_HWC = np.random.default_rng(0).integers(1, 256, (6, 5, 3), dtype=np.uint8)
    mask_HW = np.zeros((6, 5), dtype=bool)
    mask_HW[1:4, 2:] = True
    without_HWC = np.where(mask_HW[..., None], 0, image_HWC).astype(np.uint8)
    without_HWC[0, 0] = (0, 0, 1)  # not black
    image_HWC[5, 4] = without_HWC[5, 4] = 0  # black in both: no foreground
    put(root, "train/original/train/00_dog/n1_1.JPEG", data=encode_image(image_HWC))
    put(root, "train/no_fg/train/00_dog/n1_1.JPEG", data=encode_image(without_HWC))
    put(root, "train/original/train/08_fish/n9_1.JPEG", "train/original/val/08_fish/n9_2.JPEG", data=picture(6, 5))
    name = "n01440764_10029"
    put(root, f"test/original/val/08_fish/{name}.JPEG", data=picture(6, 5))
    for kind in ("same", "rand", "next"):
        put(root, f"test/mixed_{kind}/val/08_fish/fg_{name}_bg_n02_7.JPEG", data=picture(6, 5))
    (root / "test/fg_mask/val/08_fish").mkdir(parents=True)
    np.save(root / f"test/fg_mask/val/08_fish/{name}.npy", mask_HW.astype(np.float64))
    return root, mask_HW


def test_imagenet9s_masks_are_what_its_pictures_without_foreground_lack(tmp_path: Path) -> None:
    root, mask_HW = in9_tree(tmp_path)
    listing = listed("imagenet9", root)
    found = masks(listing)
    np.testing.assert_array_equal(found["train/original/train/00_dog/n1_1"], mask_HW)
    assert found["train/original/train/08_fish/n9_1"] is None
    assert found["train/original/val/08_fish/n9_2"] is None
    test = [entry for entry in listing.entries if entry.split == "test"]
    assert [(e.label, listing.info.attribute_names[e.attribute or 0]) for e in test] == [
        (8, "mixed_next"), (8, "mixed_rand"), (8, "mixed_same"), (8, "original")
    ]  # fmt: skip
    for entry in test:
        np.testing.assert_array_equal(found[entry.image_id], mask_HW)
    assert any("1 training pictures have no file in train/no_fg" in line for line in listing.notes)


def test_imagenet9s_pairs_are_the_next_classs_backgrounds(tmp_path: Path) -> None:
    root, _ = in9_tree(tmp_path)
    name = "test/original/val/08_fish/n01440764_10029"
    opened = open_dataset(DATASETS["imagenet9"].Config.model_validate({"path": root}))
    pair, none = opened.pairs([name, "train/original/train/08_fish/n9_1"], [(8, 0), (8, 0)], run_seed=0)
    assert pair is not None
    assert pair.is_next_class
    assert pair.image_png == picture(6, 5)
    assert none is None
    assert {e.attribute for e in listed("imagenet9", root, test_sets=["mixed_rand"]).entries if e.split == "test"} == {
        2
    }


def test_a_cut_out_of_another_size_is_a_failed_row_with_a_reason(tmp_path: Path) -> None:
    root, _ = in9_tree(tmp_path)
    put(root, "train/no_fg/train/00_dog/n1_1.JPEG", data=picture(3, 3))
    findings = check_dataset(root)
    assert any("the object mask cannot be made: " in line and "(3, 3)" in line for line in findings.problems)


# --- CCT-20


def cct_tree(root: Path, *, with_car: bool = True) -> Path:
    """A picture of two raccoons and a cat (400 x 300 pixels, the file a tenth), one of nothing, one of a car."""
    categories = [{"id": i, "name": name} for i, name in ((30, "empty"), (16, "cat"), (3, "raccoon"), (33, "car"))]
    size = {"width": 400, "height": 300}
    for part in ("train", "cis_val", "cis_test", "trans_val", "trans_test"):
        images = [
            {"id": f"{part}-{i}", "file_name": f"{part}-{i}.jpg", "location": location, **size}
            for i, location in enumerate((46, 100, 7))
        ]
        boxes = ((0, 3, [100, 60, 100, 90]), (0, 3, [0, 0, 5, 5]), (0, 16, [390, 290, 99, 99]), (1, 30, None))
        annotations: list[dict[str, Any]] = [
            {"image_id": f"{part}-{i}", "category_id": kind, **({} if box is None else {"bbox": box})}
            for i, kind, box in boxes
        ]
        if with_car:
            annotations.append({"image_id": f"{part}-2", "category_id": 33, "bbox": [math.nan] * 4})
        put(root, *(f"eccv_18_all_images_sm/{image['id']}.jpg" for image in images), data=picture(30, 40))
        put(
            root,
            f"eccv_18_annotation_files/{part}_annotations.json",
            data=json.dumps({"images": images, "annotations": annotations, "categories": categories}).encode(),
        )
    return root


def test_boxes_of_camera_traps_are_scaled_to_the_smaller_pictures(tmp_path: Path) -> None:
    listing = listed("cct20", cct_tree(tmp_path))
    found = masks(listing)
    assert listing.info.class_names == ("raccoon", "cat", "car")
    assert listing.info.attribute_names == ("camera 7", "camera 46", "camera 100")
    train = [(e.image_id, e.label, e.attribute) for e in listing.entries if e.split == "train"]
    assert train == [("train-0@16", 1, 1), ("train-0@3", 0, 1), ("train-2", 2, 0)]
    raccoons_HW, cat_HW = np.zeros((30, 40), dtype=bool), np.zeros((30, 40), dtype=bool)
    raccoons_HW[6:15, 10:20] = raccoons_HW[0, 0] = cat_HW[29, 39] = True
    np.testing.assert_array_equal(found["train-0@3"], raccoons_HW)
    np.testing.assert_array_equal(found["train-0@16"], cat_HW)
    assert found["train-2"] is None  # a box of NaN
    assert Counter(e.split for e in listing.entries) == {"train": 3, "val": 6, "test": 6}
    assert {e.image_id.split("-")[0] for e in listed("cct20", tmp_path, test="trans").entries} == {
        "train", "cis_val", "trans_val", "trans_test"
    }  # fmt: skip


def test_a_damaged_or_absent_annotation_is_named(tmp_path: Path) -> None:
    root = cct_tree(tmp_path)
    path = root / "eccv_18_annotation_files" / "cis_val_annotations.json"
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match=r"cis_val_annotations\.json is no COCO annotation .*'categories'"):
        listed("cct20", root)
    path.write_text('{"images": [')
    with pytest.raises(DataError, match=r"cis_val_annotations.json is damaged"):
        listed("cct20", root)
    path.unlink()
    with pytest.raises(DataError, match=r"cis_val_annotations.json does not exist"):
        listed("cct20", root)


def test_a_change_of_labels_or_boxes_changes_the_state(tmp_path: Path) -> None:
    before = listed("cct20", cct_tree(tmp_path)).digest()
    assert listed("cct20", tmp_path).digest() == before
    path = tmp_path / "eccv_18_annotation_files" / "train_annotations.json"
    path.write_text(path.read_text().replace("[100, 60, 100, 90]", "[100, 60, 100, 80]"))
    assert listed("cct20", tmp_path).digest() != before


# --- Spawrious, Dominoes


def test_spawrious_puts_each_breed_where_the_benchmark_says(tmp_path: Path) -> None:
    breeds = ("bulldog", "dachshund", "labrador", "corgi")
    for environment in "01":
        for place in ("desert", "jungle", "dirt", "snow", "beach", "mountain"):
            put(tmp_path, *(f"{environment}/{place}/{breed}/{i:04d}.png" for breed in breeds for i in range(100)))
    listing = listed("spawrious", tmp_path)
    places = listing.info.attribute_names
    found = Counter((e.split == "test", breeds[e.label], places[e.attribute or 0]) for e in listing.entries)
    expected: dict[tuple[bool, str, str], int] = {}
    homes, away = ("desert", "jungle", "dirt", "snow"), ("dirt", "snow", "desert", "jungle")
    for breed, home, other in zip(breeds, homes, away, strict=True):
        expected |= {(False, breed, home): 97 + 87, (False, breed, "beach"): 3 + 13, (True, breed, other): 200}
    assert found == expected
    assert 40 < sum(entry.split == "val" for entry in listing.entries) < 120  # a tenth of 800
    many = Counter((e.split == "test", e.label, places[e.attribute or 0])
                   for e in listed("spawrious", tmp_path, benchmark="m2m_easy").entries)  # fmt: skip
    assert many[False, 0, "desert"] == many[False, 0, "mountain"] == many[True, 3, "mountain"] == 100


def test_folders_of_attributes_in_folders_of_classes(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        put(
            tmp_path,
            *(f"{split}/{y}/{a}/{i}.png" for y in ("car", "truck") for a in ("0", "10", "2") for i in range(2)),
        )
    listing = listed("dominoes", tmp_path)
    assert listing.info.class_names == ("car", "truck")
    assert listing.info.attribute_names == ("0", "2", "10")
    by_path = {e.image_id: (e.split, e.label, e.attribute) for e in listing.entries}
    assert by_path["validation/truck/10/1"] == ("val", 1, 2)
    assert len(by_path) == 36
    put(tmp_path, "train/car/loose.png")
    with pytest.raises(DataError, match=r"train/car/loose.png is in no folder of an attribute"):
        listed("dominoes", tmp_path)


# --- All


@pytest.mark.parametrize("name", ["waterbirds", "celeba", "metashift", "imagenet9", "cct20", "chexpert", "spawrious"])
def test_a_folder_of_another_layout_is_refused_by_name(tmp_path: Path, name: str) -> None:
    put(tmp_path, "train/a/1.png", "val/a/1.png", "test/a/1.png")
    assert folder_config(str(tmp_path))["name"] == "folder"
    with pytest.raises(DataError, match=r" has no"):
        listed(name, tmp_path)
    with pytest.raises(DataError, match=f"does not exist; give the folder that holds the {name} files"):
        listed(name, tmp_path / "nowhere")
