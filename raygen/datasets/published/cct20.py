"""Caltech Camera Traps 20: animals of twenty camera traps, of which half are never seen in training.

Publication: Beery et al. 2018, "Recognition in Terra Incognita" (arXiv 1807.04975),
https://lila.science/datasets/caltech-camera-traps.
Split: `eccv_18_annotation_files/`: `train` is training, `cis_val` and `trans_val` validation, `cis_test` and
`trans_test` test; cis: cameras of training, trans: others (`dataset.val`, `dataset.test` choose).
Input: `eccv_18_all_images_sm/`, copies of 1,024 pixels' width; the annotation speaks of the originals, and boxes are
scaled to the copies. Label: the 15 kinds of animals (and "car") in order of their number; pictures without an animal
(category 30, "empty") are left out. A picture of two kinds is two rows. Attribute: the camera, in order of its number.
Object masks: all boxes of the row's kind, filled; where the annotation has none (boxes are not given for every
picture), the row has no mask.
Licence: Community Data License Agreement, permissive variant.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raygen.datasets.entries import Entry, Listing
from raygen.datasets.files import printable
from raygen.datasets.folder import OpenFolder
from raygen.datasets.names import in_order
from raygen.datasets.published.layout import (
    Files,
    PublishedConfig,
    compare_totals,
    files_of,
    listing_of,
    missing,
    named,
    with_words,
)
from raygen.datasets.published.masks import Boxes
from raygen.errors import DataError

ANNOTATIONS = "eccv_18_annotation_files"
PICTURES = ("eccv_18_all_images_sm", "eccv_18_all_images_sm/eccv_18_all_images_sm", "eccv_18_all_images")
EMPTY = 30
Part = Literal["cis", "trans", "both"]
# Pictures of each file, those without an animal included.
COUNTS = {"train": 13_553, "cis_val": 3_484, "cis_test": 15_827, "trans_val": 1_725, "trans_test": 23_275}


class CCT20Config(PublishedConfig):
    """CCT-20.

    Attributes:
        val: Cameras of validation: those of training, others, or both.
        test: Cameras of test, likewise.
    """

    name: Literal["cct20"] = "cct20"
    val: Part = "both"
    test: Part = "both"


def told_by(files: Files) -> str | None:
    """The folder of annotations, if it is there."""
    return ANNOTATIONS if files.has(f"{ANNOTATIONS}/train_annotations.json") else None


@dataclass(frozen=True, slots=True)
class _Annotations:
    """One annotation file: its pictures by id, and each picture's boxes by category."""

    where: str
    images: Mapping[Any, Mapping[str, Any]]
    boxes: Mapping[Any, Mapping[int, list[tuple[float, float, float, float]]]]
    categories: Mapping[int, str]


def list_cct20(config: CCT20Config) -> Listing:
    """Lists the pictures.

    Raises:
        DataError: A file or folder of the layout is not there or damaged.
    """
    files = files_of(config)
    splits = {"train": "train", **{name: "val" for name in _parts("val", config.val)}}
    splits |= {name: "test" for name in _parts("test", config.test)}
    pictures = files.first(*PICTURES[1:2], PICTURES[0], PICTURES[2])
    if pictures is None:
        raise DataError(
            f"{config.path} has no folder {PICTURES[0]}/ with the pictures; unpack eccv_18_all_images_sm.tar.gz"
        )
    read = {name: _read(files, f"{ANNOTATIONS}/{name}_annotations.json") for name in splits}
    categories = {number: word for found in read.values() for number, word in found.categories.items()}
    cameras = in_order(sorted({str(image["location"]) for found in read.values() for image in found.images.values()}))
    used = {number for found in read.values() for by_kind in found.boxes.values() for number in by_kind} - {EMPTY}
    if unknown := sorted(used - set(categories)):
        raise DataError(f"{config.path}/{ANNOTATIONS}: annotations of the categories {unknown}, which have no name")
    kinds = sorted(set(categories) - {EMPTY})
    entries, problems, num_empty = list[Entry](), list[str](), 0
    for name, found in read.items():
        for image_id, image in found.images.items():
            by_kind = {number: boxes for number, boxes in found.boxes.get(image_id, {}).items() if number != EMPTY}
            path = f"{pictures}/{image_id}.jpg"
            if not files.has(path):
                path = f"{pictures}/{image['file_name']}"
            num_empty += not by_kind
            if by_kind and not files.has(path):
                problems.append(missing(found.where, path))
                continue
            for number, boxes in sorted(by_kind.items()):
                entries.append(
                    Entry(
                        image_id=str(image_id) if len(by_kind) == 1 else f"{image_id}@{number}",
                        label=kinds.index(number),
                        attribute=cameras.index(str(image["location"])),
                        split=splits[name],
                        picture=files.path(path),
                        object=None,
                        where=f"{found.where}: image {printable(str(image_id))}",
                        mask=Boxes(tuple(boxes), image["width"], image["height"]) if boxes else None,
                    )
                )
    info = named(config, [categories[number] for number in kinds], [f"camera {camera}" for camera in cameras])
    info = with_words(info, "animal") if not config.class_names else info
    listing = listing_of(info, entries, ANNOTATIONS, problems=problems, place=files.place)
    listing.notes.append(f"{num_empty} pictures without an animal are left out")
    counts = {name: len(found.images) for name, found in read.items()}
    compare_totals(listing, {name: COUNTS[name] for name in read}, counts, what="pictures")
    return listing


def _parts(split: str, part: Part) -> list[str]:
    return [f"{one}_{split}" for one in ("cis", "trans") if part in (one, "both")]


def _read(files: Files, path: str) -> _Annotations:
    where = files.path(path)
    try:
        data = json.loads(files.text(path))
        images = {image["id"]: _image(image) for image in data["images"]}
        categories = {int(category["id"]): str(category["name"]) for category in data["categories"]}
        boxes: dict[Any, dict[int, list[tuple[float, float, float, float]]]] = defaultdict(dict)
        for annotation in data["annotations"]:
            kind = boxes[annotation["image_id"]].setdefault(int(annotation["category_id"]), [])
            if (box := _box(annotation.get("bbox"))) is not None:
                kind.append(box)
    except ValueError as error:
        raise DataError(f"{where} is damaged: {error}; take the authors' file") from error
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{where} is no COCO annotation with images (id, file_name, width, height, location), annotations "
            f"(image_id, category_id) and categories (id, name): {error!r}"
        ) from error
    if stray := [image_id for image_id in boxes if image_id not in images]:
        raise DataError(f"{where}: {len(stray)} pictures are annotated and not listed, such as {stray[:5]}")
    return _Annotations(where, images, boxes, categories)


def _image(image: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: image[name] for name in ("file_name", "width", "height", "location")}
    if not all(isinstance(found[name], int) and found[name] > 0 for name in ("width", "height")):
        raise ValueError(f"image {image['id']} is {found['width']} x {found['height']} pixels")
    return found


def _box(box: Sequence[float] | None) -> tuple[float, float, float, float] | None:
    """A box; None where there is none, or it is no area (NaN is written for boxes that were not drawn)."""
    if box is None or len(box) != 4 or not all(math.isfinite(number) for number in box) or min(box[2:]) <= 0:
        return None
    left, top, width, height = map(float, box)
    return left, top, width, height


def open_cct20(config: CCT20Config) -> OpenFolder:
    """The dataset, opened once."""
    return OpenFolder(config, list_cct20(config))


Config, Open = CCT20Config, open_cct20
