"""ImageNet-9, the backgrounds challenge: nine coarse classes of ImageNet, with foregrounds before other backgrounds.

Publication: Xiao et al. 2020, "Noise or Signal: The Role of Image Backgrounds in Object Recognition" (arXiv
2006.09994), https://github.com/MadryLab/backgrounds_challenge, which distributes `bg_challenge`.
Split: `train/original/train` is training (45,405 pictures), `train/original/val` validation, and the sets below
`test/` are test (4,050 each, 450 of a class).
Input: 224 x 224 pixels. Label: dog, bird, wheeled vehicle, reptile, carnivore, insect, musical instrument, primate,
fish.
Attribute: the set that a picture is of: original 0, mixed_same 1 (a background of the same class), mixed_rand 2 (of
any class), mixed_next 3 (of the next class). All of training and validation is original. The background gap of the
paper is the accuracy on mixed_same less that on mixed_rand.
Object masks: in training the pixels that are black in `no_fg` and not in the picture, in every channel; in test the
arrays of `fg_mask`. Pictures without such a file have no mask.
Pairs: a test picture and its foreground before a background of the next class.
Licence: the terms of ImageNet, research that is not commercial.
"""

import re
from pathlib import PurePosixPath
from typing import Literal

from raygen.datasets.entries import Entry, Listing, MaskSource
from raygen.datasets.folder import OpenFolder
from raygen.datasets.pairs import PairFile
from raygen.datasets.published.layout import Files, PublishedConfig, compare_totals, files_of, listing_of, named
from raygen.datasets.published.masks import Array, CutOut
from raygen.errors import DataError

FOLDERS = (
    "00_dog",
    "01_bird",
    "02_wheeled vehicle",
    "03_reptile",
    "04_carnivore",
    "05_insect",
    "06_musical instrument",
    "07_primate",
    "08_fish",
)
CLASS_NAMES = tuple(folder[3:] for folder in FOLDERS)
TestSet = Literal["original", "mixed_same", "mixed_rand", "mixed_next"]
TEST_SETS: tuple[TestSet, ...] = ("original", "mixed_same", "mixed_rand", "mixed_next")
ABOVE = ("", "bg_challenge/")
COUNTS = {"train/original/train": 45_405, **{f"test/{name}/val": 4_050 for name in TEST_SETS}}
# What mixed pictures are called: the foreground's picture and the background's.
_MIXED = re.compile(r"fg_(.+?)_bg_.*")
# As the authors cut the foreground's name out of it.
_NAME = slice(3, 18)


class ImageNet9Config(PublishedConfig):
    """ImageNet-9.

    Attributes:
        test_sets: Which of the sets below `test/` are the test split.
    """

    name: Literal["imagenet9"] = "imagenet9"
    test_sets: tuple[TestSet, ...] = TEST_SETS


def told_by(files: Files) -> str | None:
    """The first folder of the layout that other datasets have not; None where it is not there."""
    return next(
        (
            f"{above}{name}"
            for above in ABOVE
            for name in ("train/no_fg", "train/original", "test/mixed_rand")
            if files.has(f"{above}{name}") and any(files.has(f"{above}{name}/{split}") for split in ("train", "val"))
        ),
        None,
    )


def list_imagenet9(config: ImageNet9Config) -> Listing:
    """Lists the pictures.

    Raises:
        DataError: A folder of the layout is not there.
    """
    files = files_of(config)
    above = next((above for above in ABOVE if files.has(f"{above}train") or files.has(f"{above}test")), "")
    sources = [("train", "train/original/train", 0), ("val", "train/original/val", 0)]
    sources += [("test", f"test/{name}/val", TEST_SETS.index(name)) for name in config.test_sets]
    if gone := [folder for _, folder, _ in sources if not files.has(above + folder)]:
        raise DataError(
            f"{config.path} has no {', '.join(gone)}; unpack the archives of the challenge into one folder, or choose "
            "among the test sets with dataset.test_sets"
        )
    entries, found, empty = list[Entry](), dict[str, int](), list[str]()
    for split, folder, attribute in sources:
        for label, name in enumerate(FOLDERS):
            paths = files.pictures(f"{above}{folder}/{name}")
            found[folder] = found.get(folder, 0) + len(paths)
            empty += [] if paths else [f"{folder}/{name}"]
            entries += [_entry(files, above, path, split, label, attribute) for path in paths]
    listing = listing_of(
        named(config, CLASS_NAMES, TEST_SETS), entries, told_by(files) or f"{above}train", place=files.place
    )
    compare_totals(listing, {k: n for k, n in COUNTS.items() if k in found}, found, what="pictures")
    listing.pairs = _pairs(listing, files, above)
    if empty:
        listing.warnings.append(f"{len(empty)} class folders hold no picture: {', '.join(empty[:5])}")
    without = sum(entry.mask is None for entry in listing.entries if entry.split == "train")
    if without:
        listing.notes.append(f"{without} training pictures have no file in train/no_fg/train, so no object mask")
    return listing


def _entry(files: Files, above: str, path: str, split: str, label: int, attribute: int) -> Entry:
    mask: MaskSource | None = None
    if split == "test":
        array = f"{above}test/fg_mask/val/{FOLDERS[label]}/{foreground(PurePosixPath(path).stem)}.npy"
        mask = Array(files.path(array)) if files.has(array) else None
    else:
        cut_out = path.replace("train/original/", "train/no_fg/", 1)
        mask = CutOut(files.path(cut_out)) if files.has(cut_out) else None
    picture = files.path(path)
    image_id = path.removeprefix(above).rsplit(".", 1)[0]
    return Entry(image_id, label, attribute, split, picture, None, picture, mask)


def foreground(stem: str) -> str:
    """The picture that a file's foreground is of, by the file's name without suffix."""
    mixed = _MIXED.fullmatch(stem)
    if mixed is not None:
        return mixed[1]
    return stem[_NAME] if stem.startswith("fg_") else stem


def _pairs(listing: Listing, files: Files, above: str) -> dict[str, PairFile]:
    """Each original test picture's foreground before the next class's background, by the original's image_id."""
    others = {
        (label, foreground(PurePosixPath(path).stem)): path
        for label, name in enumerate(FOLDERS)
        for path in files.pictures(f"{above}test/mixed_next/val/{name}")
    }
    return {
        entry.image_id: PairFile(files.path(others[key]), is_next_class=True)
        for entry in listing.entries
        if entry.split == "test"
        and entry.attribute == 0
        and (key := (entry.label, foreground(entry.image_id.rpartition("/")[2]))) in others
    }


def open_imagenet9(config: ImageNet9Config) -> OpenFolder:
    """The dataset, opened once."""
    return OpenFolder(config, list_imagenet9(config))


Config, Open = ImageNet9Config, open_imagenet9
