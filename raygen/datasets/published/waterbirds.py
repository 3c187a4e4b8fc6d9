"""Waterbirds: birds of CUB-200-2011, cut out and put before backgrounds of Places.

Publication: Sagawa et al. 2020, "Distributionally Robust Neural Networks" (arXiv 1911.08731); its scripts at
https://github.com/kohpangwei/group_DRO make the folder `waterbird_complete95_forest2water2`.
Split: the column `split` of metadata.csv, 0 train, 1 validation, 2 test (4,795, 1,199 and 5,794 of 11,788 pictures);
in validation and test the background says nothing of the bird.
Input: photographs of any size. Label: landbird 0, waterbird 1. Attribute: the background, land 0 or water 1.
Object masks: the segmentations that come with CUB (`segmentations/<class>/<picture>.png`), if they are below the
folder or `dataset.segmentations` says where. A pixel counts as bird where half of the annotators or more took it for
one.
Licence: none is stated for the composites; CUB's pictures are for research that is not commercial, Places' for
research.

Known: Eastern Towhees, Western Meadowlarks and Western Wood Pewees are marked as waterbirds (group_DRO's README).
Figures that were measured on a corrected copy, such as MaskTune's, are not comparable.
"""

import os
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

from raygen.datasets.addresses import Address
from raygen.datasets.csv_table import list_table
from raygen.datasets.entries import Entry, Listing
from raygen.datasets.files import printable
from raygen.datasets.folder import OpenFolder
from raygen.datasets.known import COLUMNS, KNOWN, NAMES, OBJECT_WORDS, Names
from raygen.datasets.published.layout import Files, PublishedConfig, compare, files_of, folder_of, with_words
from raygen.datasets.published.masks import Votes
from raygen.errors import DataError

TABLE = "metadata.csv"


class WaterbirdsConfig(PublishedConfig):
    """Waterbirds, as group_DRO's scripts make it.

    Attributes:
        segmentations: CUB's folder of segmentations; by default `segmentations` in the folder, if it is there.
    """

    name: Literal["waterbirds"] = "waterbirds"
    segmentations: Address | None = None


def told_by(files: Files) -> str | None:
    """The table, if its header is group_DRO's; None where the folder is none of Waterbirds."""
    if not files.has(TABLE) or files.place.why_no_file(TABLE) is not None:
        return None
    try:
        line = files.place.read(TABLE)[:1000].decode("utf-8-sig", "replace").split("\n", 1)[0]
    except OSError:
        return None
    header = {name.strip() for name in line.split(",")}
    return TABLE if set(COLUMNS["waterbirds"]) <= header else None


def list_waterbirds(config: WaterbirdsConfig) -> Listing:
    """Lists the pictures.

    Raises:
        DataError: The table as a whole cannot be used, or the folder of segmentations is not there.
    """
    files = files_of(config)
    if not files.has(TABLE):
        raise DataError(f"{config.path} has no {TABLE}; give the folder waterbird_complete95_forest2water2 itself")
    known = NAMES["waterbirds"]
    given = Names(config.class_names or known.class_names, config.attribute_names or known.attribute_names)
    listing = list_table(files.place, replace(given, prompts=config.prompts))
    listing.info = with_words(replace(listing.info, name="waterbirds"), OBJECT_WORDS["waterbirds"])
    listing.notes = [f"read in the layout of waterbirds ({TABLE})"]
    _add_masks(listing, config, files)
    compare(listing, KNOWN["waterbirds"])
    return listing


def _add_masks(listing: Listing, config: WaterbirdsConfig, files: Files) -> None:
    if config.segmentations is not None:
        give = "the folder segmentations that comes with CUB"
        masks, below = folder_of(config.segmentations, what="dataset.segmentations:", give=give), ""
    elif files.has("segmentations"):
        masks, below = files, "segmentations/"
    else:
        return
    entries = [_with_mask(entry, masks, below) for entry in listing.entries]
    without = [entry.image_id for entry in entries if entry.object is None and entry.mask is None]
    listing.entries = entries
    listing.notes.append(f"object masks of {len(entries) - len(without)} pictures are CUB's segmentations")
    if without:
        examples = ", ".join(map(printable, without[:5]))
        listing.warnings.append(f"{len(without)} pictures have no segmentation, such as {examples}")


def _with_mask(entry: Entry, masks: Files, below: str) -> Entry:
    image_id = PurePosixPath(entry.image_id.replace(os.sep, "/"))
    path = f"{below}{image_id}.png"
    return entry if entry.object is not None or not masks.has(path) else replace(entry, mask=Votes(masks.path(path)))


def open_waterbirds(config: WaterbirdsConfig) -> OpenFolder:
    """The dataset, opened once."""
    return OpenFolder(config, list_waterbirds(config))


Config, Open = WaterbirdsConfig, open_waterbirds
