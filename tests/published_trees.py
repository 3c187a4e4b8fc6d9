"""Small trees in the layouts of published datasets, written by hand."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raygen.datasets import DATASETS, open_dataset
from raygen.datasets.entries import Listing
from raygen.datasets.folder import OpenFolder
from raygen.images import decode_mask, encode_image


def put(root: Path, *paths: str, data: bytes = b"picture") -> None:
    """Files with some bytes; what is not decoded needs no pictures."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def table(root: Path, path: str, header: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    with (root / path).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])


def picture(height: int = 9, width: int = 7, seed: int = 0) -> bytes:
    """A picture of noise as PNG, no value of which is 0."""
    return encode_image(np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8))


def metashift_tree(root: Path, counts: Sequence[int] = (231, 380, 145, 367, 235, 306)) -> Path:
    """As many files of each folder, by default the published numbers; written in no order of their names."""
    folders = ["train/cat/cat(sofa)", "train/cat/cat(bed)", "train/dog/dog(bench)", "train/dog/dog(bike)"]
    folders += ["test/cat/cat(shelf)", "test/dog/dog(shelf)"]
    for folder, count in zip(folders, counts, strict=True):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{(i * 7919) % 10_007:05d}.jpg").touch()
    return root


CELEBA_HEADER = ("Blond_Hair", "Male", "Smiling")


def celeba_tree(root: Path, values: Sequence[tuple[int, int, int]], splits: Sequence[int]) -> Path:
    """Of three attributes, in the authors' text form, with files that are no pictures."""
    names = [f"{i:06d}.jpg" for i in range(1, len(values) + 1)]
    lines = [f"{name} {' '.join(f'{value:2d}' for value in row)}" for name, row in zip(names, values, strict=True)]
    put(root, *(f"img_align_celeba/{name}" for name in names))
    text = "\n".join([str(len(values)), " ".join(CELEBA_HEADER) + " ", *lines]) + "\n"
    (root / "list_attr_celeba.txt").write_text(text)
    partition = "".join(f"{name} {split}\n" for name, split in zip(names, splits, strict=True))
    (root / "list_eval_partition.txt").write_text(partition)
    return root


def listed(name: str, root: Path, **fields: Any) -> Listing:
    opened = open_dataset(DATASETS[name].Config.model_validate({"path": root, **fields}))
    assert isinstance(opened, OpenFolder)
    return opened.listing


def masks(listing: Listing) -> dict[str, np.ndarray | None]:
    return {
        row["image_id"]: None if row["object_png"] is None else decode_mask(row["object_png"]) for row in listing.rows()
    }
