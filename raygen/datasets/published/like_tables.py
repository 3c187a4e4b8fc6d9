"""The tables of trees in published layouts, as their authors write them."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raygen.datasets.known import COLUMNS
from raygen.datasets.published import cct20, chexpert, imagenet9
from raygen.datasets.scene_rendering import render_scene
from raygen.seeding import row_seed

SPLIT_CODES = {"train": 0, "val": 1, "test": 2}
# The 40 attributes in CelebA's order: Blond_Hair is the tenth, Male the twenty-first.
CELEBA_ATTRIBUTES = [
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
]
# CCT-20's categories by number, and what of a picture of 64 pixels its original has.
CCT_CATEGORIES = {
    1: "opossum", 3: "raccoon", 5: "squirrel", 6: "bobcat", 7: "skunk", 8: "dog", 9: "coyote", 10: "rabbit", 11: "bird",
    16: "cat", 21: "badger", 30: "empty", 33: "car", 34: "deer", 51: "fox", 99: "rodent",
}  # fmt: skip
CCT_SIZE_PX = (2048, 1494)
CCT_KINDS = [number for number in CCT_CATEGORIES if number != cct20.EMPTY]
# Shares of pictures of a file that are empty, and that have an annotation without a box.
CCT_EMPTY, CCT_WITHOUT_BOX = 0.1, 0.05
CCT_CIS, CCT_TRANS = tuple(range(10)), tuple(range(10, 20))


def scene_seed(seed: int, number: int) -> int:
    """Seed of a scene of a tree."""
    return row_seed(seed, f"like/{number}")


def write_waterbirds(out: Path, rows: Iterable[tuple[int, str, int, int, str]]) -> None:
    """group_DRO's metadata.csv, of number, file without suffix, label, attribute and split."""
    lines = [
        (i, f"{stem}.jpg", y, SPLIT_CODES[split], place, f"/{('b', 'l')[place]}/{i:08d}.jpg")
        for i, stem, y, place, split in rows
    ]
    _write_csv(out / "metadata.csv", ("img_id", *COLUMNS["waterbirds"]), lines)


def write_celeba(out: Path, rows: Sequence[tuple[str, str, int, int]], *, seed: int, kind: str) -> None:
    """CelebA's two annotation files, of name, split, Blond_Hair and Male; the other attributes are drawn."""
    rng = np.random.default_rng(scene_seed(seed, -1))
    values_N40 = rng.choice([-1, 1], (len(rows), len(CELEBA_ATTRIBUTES)))
    for column, name in ((2, "Blond_Hair"), (3, "Male")):
        values_N40[:, CELEBA_ATTRIBUTES.index(name)] = [2 * int(row[column]) - 1 for row in rows]
    splits = [(name, SPLIT_CODES[split]) for name, split, _, _ in rows]
    lines = [(row[0], *values.tolist()) for row, values in zip(rows, values_N40, strict=True)]
    if kind == "csv":
        _write_csv(out / "list_attr_celeba.csv", ("image_id", *CELEBA_ATTRIBUTES), lines)
        _write_csv(out / "list_eval_partition.csv", ("image_id", "partition"), splits)
        return
    text = [str(len(rows)), " ".join(CELEBA_ATTRIBUTES) + " "]
    text += [name + "".join(f" {value:2d}" for value in values) for name, *values in lines]
    (out / "list_attr_celeba.txt").write_text("\n".join(text) + "\n", encoding="ascii")
    partition = "".join(f"{name} {code}\n" for name, code in splits)
    (out / "list_eval_partition.txt").write_text(partition, encoding="ascii")


def in9_pictures(scaled: Callable[[int], int]) -> Iterator[tuple[tuple[str, ...], str, int, int]]:
    """Paths, kind, label and background of ImageNet-9's pictures; a class is a bird and a background of three each."""
    number = 0
    for label, folder in enumerate(imagenet9.FOLDERS):
        bird, background = label % 3, label // 3
        for split, count in (("train", 45_405 // 9), ("val", 4_050 // 9)):
            for _ in range(scaled(count)):
                number += 1
                name = f"{split}/{folder}/n{number:08d}_{number:05d}.JPEG"
                yield (f"train/original/{name}", f"train/no_fg/{name}"), "cut_out", bird, background
        for _ in range(scaled(450)):
            number += 1
            name = f"n{number:08d}_{number:05d}"
            mixed = [f"test/{kind}/val/{folder}/fg_{name}_bg_{name}.JPEG" for kind in imagenet9.TEST_SETS[1:]]
            original, mask = f"test/original/val/{folder}/{name}.JPEG", f"test/fg_mask/val/{folder}/{name}.npy"
            yield (original, *mixed, mask), "backgrounds", bird, background


@dataclass(frozen=True, slots=True)
class CctRow:
    """A picture of CCT-20: its file of annotations, its id, its camera, its category and whether it has a box."""

    part: str
    image_id: str
    camera: int
    kind: int
    has_box: bool


def cct_rows(scaled: Callable[[int], int]) -> list[CctRow]:
    """Pictures of all files; categories and cameras in turn."""
    rows: list[CctRow] = []
    for part, count in cct20.COUNTS.items():
        cameras, num = CCT_TRANS if part.startswith("trans") else CCT_CIS, scaled(count)
        num_empty, num_without = round(num * CCT_EMPTY), round(num * CCT_WITHOUT_BOX)
        for i in range(num):
            kind = cct20.EMPTY if i < num_empty else CCT_KINDS[i % len(CCT_KINDS)]
            has_box = i >= num_empty + num_without
            rows.append(CctRow(part, f"{part}-{i:06d}", cameras[(i // 3) % len(cameras)], kind, has_box))
    return rows


def write_cct(out: Path, rows: Sequence[CctRow], seeds: Sequence[int]) -> None:
    """CCT-20's five COCO files; a box is that of the scene's bird, in the pixels of an original of CCT_SIZE_PX."""
    folder = out / cct20.ANNOTATIONS
    folder.mkdir()
    width, height = CCT_SIZE_PX
    categories = [{"id": number, "name": name} for number, name in CCT_CATEGORIES.items()]
    for part in cct20.COUNTS:
        images, annotations = [], []
        for row, seed in zip(rows, seeds, strict=True):
            if row.part != part:
                continue
            images.append(
                {"id": row.image_id, "file_name": f"{row.image_id}.jpg", "width": width, "height": height,
                 "location": row.camera, "seq_id": row.image_id, "rights_holder": "raygen"}
            )  # fmt: skip
            found: dict[str, object] = {
                "id": f"a-{row.image_id}", "image_id": row.image_id, "category_id": row.kind
            }  # fmt: skip
            if row.has_box:
                mask_HW = render_scene(seed, label=row.kind % 3, attribute=row.camera % 3).object_HW
                found["bbox"] = bounding_box(mask_HW)
            annotations.append(found)
        data = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        (folder / f"{part}_annotations.json").write_text(json.dumps(data), encoding="utf-8")


def bounding_box(mask_HW: np.ndarray) -> list[float]:
    """Left, top, width and height of a scene's bird in the pixels of CCT_SIZE_PX."""
    rows, columns = np.flatnonzero(mask_HW.any(axis=1)), np.flatnonzero(mask_HW.any(axis=0))
    x, y = CCT_SIZE_PX[0] / mask_HW.shape[1], CCT_SIZE_PX[1] / mask_HW.shape[0]
    left, top, right, bottom = columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y
    return [float(left), float(top), float(right - left), float(bottom - top)]


def chexpert_path(table: str, number: int) -> str:
    """Where a radiograph is; two of a patient."""
    return f"CheXpert-v1.0-small/{table}/patient{number // 2 + 1:05d}/study1/view{number % 2 + 1}_frontal.jpg"


def write_chexpert(out: Path, rows: Sequence[tuple[str, str, int, int]], *, seed: int) -> None:
    """CheXpert's two tables, of table, path, Pneumothorax and Support Devices; the other observations are drawn."""
    rng, there = np.random.default_rng(scene_seed(seed, -1)), ("", "0.0", "1.0", "-1.0")
    for table in ("train", "valid"):
        lines = []
        for _, path, label, attribute in (row for row in rows if row[0] == table):
            cells = dict(zip(chexpert.OBSERVATIONS, rng.choice(there, len(chexpert.OBSERVATIONS)), strict=True))
            # An absent observation is said or, as mostly, not mentioned.
            absent = ("", "0.0")[int(rng.integers(2))]
            cells |= {"Pneumothorax": "1.0" if label else absent, "Support Devices": "1.0" if attribute else absent}
            sex, age = ("Female", "Male")[int(rng.integers(2))], int(rng.integers(18, 91))
            lines.append((path, sex, age, "Frontal", "AP", *(str(cells[name]) for name in chexpert.OBSERVATIONS)))
        _write_csv(out / "CheXpert-v1.0-small" / f"{table}.csv", chexpert.HEADER, lines)


def _write_csv(path: Path, header: Sequence[str], lines: Iterable[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)
