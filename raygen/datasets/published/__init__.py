"""Datasets in the layouts that their authors distribute: one file each, and by which files each is told."""

from collections.abc import Callable
from pathlib import Path

from raygen.datasets.addresses import place_of
from raygen.datasets.published import cct20, celeba, chexpert, imagenet9, metashift, spawrious, waterbirds
from raygen.datasets.published.layout import Files
from raygen.datasets.table import INFO_FILE
from raygen.errors import DataError

# By which file each layout is told, the surest first: each gives that file, or None.
TOLD_BY: dict[str, Callable[[Files], str | None]] = {
    "celeba": celeba.told_by,
    "cct20": cct20.told_by,
    "imagenet9": imagenet9.told_by,
    "metashift": metashift.told_by,
    "spawrious": spawrious.told_by,
    "chexpert": chexpert.told_by,
    "waterbirds": waterbirds.told_by,
}


def recognise(address: Path | str) -> tuple[str, str] | None:
    """The published layout that a folder has and the file by which it is told; None if it has none of them.

    A folder that `raygen data make` wrote rows into has none, whatever they are rows of.

    Args:
        address: A path, or a URL.
    """
    try:
        files = Files(place_of(address))
        if files.has(INFO_FILE):
            return None
        return next(((name, told) for name, tell in TOLD_BY.items() if (told := tell(files)) is not None), None)
    except DataError:
        return None  # a folder that cannot be listed: whoever opens it says so
