"""MetaShift, cats and dogs: photographs of Visual Genome by what is beside the animal, in DISC's selection.

Publication: Liang and Zou 2022, "MetaShift" (arXiv 2202.06523); this selection: Wu et al. 2023, "Discover and Cure"
(DISC), https://github.com/Wuyxin/DISC, which distributes `MetaDatasetCatDog`. It is what SCGS and DBB report on.
LISA's and SubpopBench's "MetaShift" are other pictures or other splits, and their figures are not comparable.
Split: training in `train/` (1,123 pictures). Validation (81) and test (460) are drawn from `test/`: DISC draws 85% of
its 541 pictures for test, but lists the folder in the order of the file system, so that its members differ from
machine to machine. Here files are sorted by name, cats first, and `metashift_validation.txt` beside this file says
which of them are validation: the positions that DISC's draw gives (scikit-learn's `train_test_split`, `test_size=.85`,
`random_state=0`).
Input: photographs of any size. Label: cat 0, dog 1. Attribute: what is beside it: sofa 0, bed 1, bench 2, bike 3,
shelf 4. In training cats are with sofas and beds, dogs with benches and bikes; in validation and test all are on
shelves, so that the worst group there is the worse class.
Licence: MetaShift's code MIT; the photographs are Visual Genome's, CC BY 4.0.
"""

from collections.abc import Sequence
from importlib import resources
from typing import Literal

import numpy as np

from raygen.datasets.entries import Entry, Listing
from raygen.datasets.folder import OpenFolder
from raygen.datasets.known import CLASS_NAMES, OBJECT_WORDS, GroupCounts
from raygen.datasets.published.layout import Files, PublishedConfig, compare, files_of, listing_of, named, with_words
from raygen.errors import DataError

ATTRIBUTE_NAMES = ("sofa", "bed", "bench", "bike", "shelf")
CLASSES = CLASS_NAMES["metashift"]
TRAIN = (("cat", "sofa"), ("cat", "bed"), ("dog", "bench"), ("dog", "bike"))
TEST = (("cat", "shelf"), ("dog", "shelf"))
ABOVE = ("", "MetaDatasetCatDog/")
# DISC's log, and the sizes of its folders.
COUNTS: GroupCounts = {
    "train": {(0, 0): 231, (0, 1): 380, (1, 2): 145, (1, 3): 367},
    "val": {(0, 4): 34, (1, 4): 47},
    "test": {(0, 4): 201, (1, 4): 259},
}
MANIFEST = "metashift_validation.txt"
NUM_TEST_POOL = (235, 306)
TEST_FRACTION = 0.85


class MetaShiftConfig(PublishedConfig):
    """MetaShift's cats and dogs, as DISC distributes them."""

    name: Literal["metashift"] = "metashift"


def told_by(files: Files) -> str | None:
    """The first class folder that other datasets have not; None where it is not there."""
    return files.first(*(f"{above}{_folder('train', *pair)}" for above in ABOVE for pair in TRAIN))


def list_metashift(config: MetaShiftConfig) -> Listing:
    """Lists the pictures.

    Raises:
        DataError: A class folder is not there.
    """
    files = files_of(config)
    above = next((above for above in ABOVE if files.has(f"{above}train")), "")
    folders = [("train", *pair) for pair in TRAIN] + [("test", *pair) for pair in TEST]
    gone = [_folder(*found) for found in folders if not files.has(above + _folder(*found))]
    if gone:
        raise DataError(
            f"{config.path} has no {', '.join(gone)}; expected MetaDatasetCatDog as DISC distributes it, with "
            f"{', '.join(_folder(*found) for found in folders)}"
        )
    train = [(pair, path) for pair in TRAIN for path in files.pictures(above + _folder("train", *pair))]
    pool = [(pair, path) for pair in TEST for path in files.pictures(above + _folder("test", *pair))]
    num_pool = [sum(pair == wanted for pair, _ in pool) for wanted in TEST]
    validation = set(_positions(num_pool))
    splits = ["train"] * len(train) + ["val" if position in validation else "test" for position in range(len(pool))]
    entries = [
        Entry(
            path.removeprefix(above).rsplit(".", 1)[0],
            CLASSES.index(pair[0]),
            ATTRIBUTE_NAMES.index(pair[1]),
            split,
            files.path(path),
            None,
            files.path(path),
        )
        for (pair, path), split in zip([*train, *pool], splits, strict=True)
    ]
    info = with_words(named(config, CLASSES, ATTRIBUTE_NAMES), OBJECT_WORDS["metashift"])
    listing = listing_of(info, entries, f"{above}{_folder(*folders[0])} and so on", place=files.place)
    compare(listing, COUNTS)
    if tuple(num_pool) != NUM_TEST_POOL:
        listing.warnings.append(
            f"test/ has {num_pool[0]} cats and {num_pool[1]} dogs, published are {NUM_TEST_POOL[0]} and "
            f"{NUM_TEST_POOL[1]}: the shipped split does not fit, and the same draw was made from what is there"
        )
    return listing


def _folder(split: str, animal: str, beside: str) -> str:
    return f"{split}/{animal}/{animal}({beside})"


def _positions(num_pool: Sequence[int]) -> list[int]:
    """Positions in the sorted test folder that are validation: the manifest's, or a draw of the same kind."""
    if tuple(num_pool) == NUM_TEST_POOL:
        text = resources.files("raygen.datasets.published").joinpath(MANIFEST).read_text(encoding="utf-8")
        return [int(line) for line in text.split()]
    total = sum(num_pool)
    order = np.random.RandomState(0).permutation(total)  # the generator that scikit-learn makes of random_state=0
    return sorted(order[int(np.ceil(TEST_FRACTION * total)) :].tolist())


def open_metashift(config: MetaShiftConfig) -> OpenFolder:
    """The dataset, opened once."""
    return OpenFolder(config, list_metashift(config))


Config, Open = MetaShiftConfig, open_metashift
