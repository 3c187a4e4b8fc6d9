"""Small trees in the raw layouts of published datasets, drawn by the scenes' renderer: to try things, and the loaders.

The numbers of pictures are the published ones times `scale`, the files and tables are as their authors' (CelebA's two
text files, CCT-20's COCO json, ...), the pictures are scenes of a few pixels. What they show means nothing: a "blond
man" is a waterbird on water.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field

from raygen.config import Strict, apply_overrides, validate
from raygen.datasets.known import KNOWN
from raygen.datasets.published import like_tables as tables
from raygen.datasets.published import metashift
from raygen.datasets.published.cct20 import PICTURES
from raygen.datasets.published.like_pictures import Picture, draw
from raygen.errors import ConfigError, DataError
from raygen.schema import SPLITS
from raygen.storage.writing import disk_errors

# As for the scenes: starting processes takes longer than drawing fewer.
MIN_FOR_PROCESSES = 400
# Shares of the groups of datasets whose groups are not published: numbers like those of a benchmark.
CHEXPERT_GROUPS = {(0, 0): 0.42, (0, 1): 0.44, (1, 0): 0.05, (1, 1): 0.09}


class LikeConfig(Strict):
    """How much of a tree is made.

    Attributes:
        scale: All published numbers times this, rounded; what is not empty keeps one picture at least.
        size_px: Width of the pictures.
        annotations: Of celeba-like: the authors' text files or Kaggle's csv.
        seed: Of the drawing.
    """

    scale: float = Field(1.0, gt=0)
    size_px: int = Field(64, ge=8, le=1024)
    annotations: Literal["txt", "csv"] = "txt"
    seed: int = 0


Row = TypeVar("Row")
Made = tuple[Iterator[Picture], Callable[[Path], None]]


def make_like(name: str, overrides: Sequence[str], out: Path, *, seed: int) -> int:
    """Writes a tree; gives back how many files are drawn for it: pictures, and masks beside them.

    Args:
        name: One of `LIKES`, such as "waterbirds-like".
        overrides: Fields of `LikeConfig`, such as "scale=0.01".
        out: The folder, new or empty.
        seed: Of the drawing, unless the overrides give one.

    Raises:
        ConfigError: No such tree, or a wrong field.
        DataError: The folder is not empty.
    """
    if name not in LIKES:
        raise ConfigError(f"{name}: no such tree; there are {', '.join(LIKES)}")
    config = validate(LikeConfig, apply_overrides({"seed": seed}, overrides), where="data make")
    with disk_errors(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} is there already and not an empty folder; give another --out")
        pictures, write_tables = LIKES[name](config)
        waiting = list(pictures)
        for folder in {out / Path(path).parent for picture in waiting for path in picture.paths}:
            folder.mkdir(parents=True, exist_ok=True)
        _draw_all(waiting, out)
        write_tables(out)
    return sum(len(picture.paths) for picture in waiting)


def _draw_all(pictures: Sequence[Picture], out: Path) -> None:
    num_workers = min(os.cpu_count() or 1, 16)
    if len(pictures) < MIN_FOR_PROCESSES or num_workers == 1:
        for picture in pictures:
            draw(picture, out)
        return
    # Spawned, not forked: a forked child of a process with threads can hang.
    with ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(draw, pictures, [out] * len(pictures), chunksize=64):
            pass


def _scaled(count: int, config: LikeConfig) -> int:
    return max(1, round(count * config.scale)) if count else 0


def _groups(name: str, config: LikeConfig) -> Iterator[tuple[str, int, int]]:
    """Split, label and attribute of each picture of a dataset whose groups are known."""
    for split in SPLITS:
        for (label, attribute), count in KNOWN[name][split].items():
            assert attribute is not None, f"{name} has no attributes"
            yield from [(split, label, attribute)] * _scaled(count, config)


def _waterbirds(config: LikeConfig) -> Made:
    rows = []
    for number, (split, label, attribute) in enumerate(_groups("waterbirds", config), start=1):
        folder = ("001.Landbird", "002.Waterbird")[label]
        rows.append((number, f"{folder}/bird_{number:06d}", label, attribute, split))
    pictures = (
        Picture((f"{stem}.jpg", f"segmentations/{stem}.png"), "masked", label, attribute, seed, config.size_px)
        for seed, (_, stem, label, attribute, _) in _seeded(rows, config)
    )
    return pictures, lambda out: tables.write_waterbirds(out, rows)


def _celeba(config: LikeConfig) -> Made:
    rows = [(f"{i:06d}.jpg", *row) for i, row in enumerate(_groups("celeba", config), start=1)]
    pictures = (
        Picture((f"img_align_celeba/{name}",), "portrait", label, attribute, seed, config.size_px)
        for seed, (name, _, label, attribute) in _seeded(rows, config)
    )
    return pictures, lambda out: tables.write_celeba(out, rows, seed=config.seed, kind=config.annotations)


def _metashift(config: LikeConfig) -> Made:
    folders = {("train", *pair): n for pair, n in zip(metashift.TRAIN, (231, 380, 145, 367), strict=True)}
    folders |= {("test", *pair): n for pair, n in zip(metashift.TEST, metashift.NUM_TEST_POOL, strict=True)}
    rows = [
        (f"{split}/{animal}/{animal}({beside})/{i:05d}.jpg", animal, beside)
        for (split, animal, beside), count in folders.items()
        for i in range(_scaled(count, config))
    ]
    backgrounds = {"sofa": 0, "bed": 1, "bench": 0, "bike": 1, "shelf": 2}
    pictures = (
        Picture((path,), "plain", metashift.CLASSES.index(animal), backgrounds[beside], seed, config.size_px)
        for seed, (path, animal, beside) in _seeded(rows, config)
    )
    return pictures, lambda out: None


def _in9(config: LikeConfig) -> Made:
    return _seeded_pictures(tables.in9_pictures(lambda n: _scaled(n, config)), config), lambda out: None


def _cct(config: LikeConfig) -> Made:
    rows = tables.cct_rows(lambda n: _scaled(n, config))
    pictures = (
        Picture((f"{PICTURES[0]}/{row.image_id}.jpg",), "plain", row.kind % 3, row.camera % 3, seed, config.size_px)
        for seed, row in _seeded(rows, config)
    )
    seeds = [seed for seed, _ in _seeded(rows, config)]
    return pictures, lambda out: tables.write_cct(out, rows, seeds)


def _chexpert(config: LikeConfig) -> Made:
    rows = []
    for table, total in (("train", 223_414), ("valid", 234)):
        for (label, attribute), share in CHEXPERT_GROUPS.items():
            rows += [(table, label, attribute)] * _scaled(round(total * share), config)
    named = [(table, tables.chexpert_path(table, i), y, a) for i, (table, y, a) in enumerate(rows)]
    pictures = (
        Picture((path,), "grey", label, attribute, seed, config.size_px)
        for seed, (_, path, label, attribute) in _seeded(named, config)
    )
    return pictures, lambda out: tables.write_chexpert(out, named, seed=config.seed)


def _seeded(rows: Iterable[Row], config: LikeConfig) -> Iterator[tuple[int, Row]]:
    """Each row with the seed of its scene."""
    return ((tables.scene_seed(config.seed, number), row) for number, row in enumerate(rows))


def _seeded_pictures(rows: Iterable[tuple[tuple[str, ...], str, int, int]], config: LikeConfig) -> Iterator[Picture]:
    for seed, (paths, kind, label, attribute) in _seeded(rows, config):
        yield Picture(paths, kind, label, attribute, seed, config.size_px)


LIKES: dict[str, Callable[[LikeConfig], Made]] = {
    "waterbirds-like": _waterbirds,
    "celeba-like": _celeba,
    "metashift-like": _metashift,
    "in9-like": _in9,
    "cct-like": _cct,
    "chexpert-like": _chexpert,
}
