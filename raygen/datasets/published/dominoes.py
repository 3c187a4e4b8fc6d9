"""Dominoes and the like: folders of splits, in them folders of classes, in these folders of attributes.

Publication: Shah et al. 2020, "The Pitfalls of Simplicity Bias in Neural Networks" (arXiv 2006.07710): a picture of
one dataset above one of another, such as a car or truck of CIFAR-10 above a digit of MNIST. There is no distribution
of it; each paper (DaC, HSFM) makes its own, and the numbers of pictures differ.
Split: `train/`, `val/`, `test/`, or what the folders of other datasets call them (validation, testing, ...).
Input: pictures of any size. Label: the folders in a split, in order of their names, by number where all are numbers.
Attribute: the folders in those, over all classes, likewise.
Licence: that of the datasets it is made of (MNIST: CC BY-SA 3.0; CIFAR-10: none is stated).

A folder of one's own in the same layout (`train/<class>/<attribute>/*.png`) is read in the same way. Without `name:
dominoes` it is read as folders of classes without attributes.
"""

from collections import defaultdict
from typing import Literal

from raygen.datasets.entries import Entry, Listing
from raygen.datasets.folder import OpenFolder
from raygen.datasets.names import SPLIT_WORDS, in_order, shown
from raygen.datasets.published.layout import PublishedConfig, files_of, listing_of, named
from raygen.errors import DataError


class DominoesConfig(PublishedConfig):
    """Folders `<split>/<class>/<attribute>/`."""

    name: Literal["dominoes"] = "dominoes"


def list_dominoes(config: DominoesConfig) -> Listing:
    """Lists the pictures.

    Raises:
        DataError: No split train, a class folder without attribute folders, or a class that training has not.
    """
    files = files_of(config)
    folders: dict[str, list[str]] = defaultdict(list)
    for name in files.folders():
        if (split := SPLIT_WORDS.get(name.casefold())) is not None:
            folders[split].append(name)
    if double := [names for names in folders.values() if len(names) > 1]:
        raise DataError(f"{config.path} has both {double[0][0]}/ and {double[0][1]}/ for one split; keep one")
    if "train" not in folders:
        raise DataError(f"{config.path} has no train/<class>/<attribute>/ folders; found {shown(files.folders())}")
    found: list[tuple[str, str, str, str]] = []
    for split, (top,) in folders.items():
        for label in files.folders(top):
            if loose := files.pictures(f"{top}/{label}"):
                raise DataError(
                    f"{config.path}/{loose[0]} is in no folder of an attribute; expected {top}/{label}/<attribute>/"
                )
            for attribute in files.folders(f"{top}/{label}"):
                found += [(split, label, attribute, path) for path in files.pictures(f"{top}/{label}/{attribute}")]
    classes = in_order(sorted({label for split, label, _, _ in found if split == "train"}))
    if unknown := sorted({label for _, label, _, _ in found} - set(classes)):
        raise DataError(f"{config.path} has the classes {shown(unknown)}, which train/ has not ({shown(classes)})")
    attributes = in_order(sorted({attribute for _, _, attribute, _ in found}))
    entries = [
        Entry(
            path.rsplit(".", 1)[0],
            classes.index(label),
            attributes.index(attribute),
            split,
            files.path(path),
            None,
            files.path(path),
        )
        for split, label, attribute, path in found
    ]
    return listing_of(named(config, classes, attributes), entries, "<split>/<class>/<attribute>/", place=files.place)


def open_dominoes(config: DominoesConfig) -> OpenFolder:
    """The dataset, opened once."""
    return OpenFolder(config, list_dominoes(config))


Config, Open = DominoesConfig, open_dominoes
