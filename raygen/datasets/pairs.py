"""Pairs of pictures that differ in their background only: what a classifier should not see the difference of.

The scenes render theirs. A folder of pictures lists its own in `pairs.csv`, beside its `metadata.csv` or its folders of
splits:

    img_filename,pair_filename,next_class
    test/0001.jpg,flipped/0001.jpg,0
    test/0002.jpg,mixed_next/0002.jpg,1

`img_filename` is a picture of the dataset, `pair_filename` a file below the folder with the same object before another
background, and `next_class`, which may be left out, is 1 where that background is one of the next class (ImageNet-9's
"Mixed-Next"). Pairs decide no row and no fit: they are looked at when fits are measured.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raygen.datasets.files import printable
from raygen.datasets.places import Place
from raygen.datasets.references import read_reference
from raygen.errors import DataError

PAIRS_FILE = "pairs.csv"
_COLUMNS = ("img_filename", "pair_filename")
_NEXT_CLASS = {"": False, "0": False, "1": True}


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture's other.

    Attributes:
        image_png: The encoded picture of the same object before another background; None where its file is gone.
        is_next_class: Whether that background is one of the next class, and the picture's own is not.
    """

    image_png: bytes | None
    is_next_class: bool


@dataclass(frozen=True, slots=True)
class PairFile:
    """A pair of a folder, not read yet; see `Pair`."""

    path: str
    is_next_class: bool

    def read(self) -> Pair:
        """The pair with its bytes."""
        try:
            return Pair(read_reference(self.path), self.is_next_class)
        except OSError:
            return Pair(None, self.is_next_class)

    def state(self, place: Place) -> tuple[str, tuple[Any, ...] | None, bool]:
        """Changes with the file, which is of this place."""
        return self.path, place.state(self.path), self.is_next_class


def list_pairs(place: Place, pictures: Iterable[tuple[str, str]]) -> dict[str, PairFile]:
    """Pairs of a folder by image_id; none where it has no `pairs.csv`.

    Args:
        place: The folder.
        pictures: Files of the dataset's pictures, as `Place.shown` gives them, each with its image_id.

    Raises:
        DataError: A column is missing, a picture is not in the dataset or has two pairs, or a pair is no file.
    """
    if not place.has(PAIRS_FILE):
        return {}
    path, ids = place.shown(PAIRS_FILE), dict(pictures)
    pairs: dict[str, PairFile] = {}
    for number, line in _lines(place, path):
        where = f"{path}, line {number}"
        image, other, next_class = (line.get(name, "") for name in (*_COLUMNS, "next_class"))
        image_id = ids.get(place.shown(image))
        if image_id is None:
            raise DataError(f"{where}: img_filename '{printable(image)}' is no picture of the dataset")
        if image_id in pairs:
            raise DataError(f"{where}: img_filename '{printable(image)}' has a pair already; give each picture one")
        if next_class not in _NEXT_CLASS:
            raise DataError(f"{where}: next_class is '{printable(next_class)}'; expected 0 or 1")
        if not other or (reason := place.why_no_file(other)) is not None:
            raise DataError(f"{where}: pair_filename '{printable(other)}' {reason if other else 'is empty'}")
        pairs[image_id] = PairFile(place.shown(other), _NEXT_CLASS[next_class])
    return pairs


def _lines(place: Place, path: str) -> list[tuple[int, dict[str, str]]]:
    """Cells by column, with the number of the line that they end in."""
    try:
        reader = csv.DictReader(place.read(PAIRS_FILE).decode("utf-8-sig").splitlines(), restval="")
        header = [name.strip() for name in reader.fieldnames or ()]
        if missing := [name for name in _COLUMNS if name not in header]:
            raise DataError(f"{path}: column '{missing[0]}' is missing; found {', '.join(header) or 'nothing'}")
        lines = []
        for cells in reader:
            if None in cells:
                raise DataError(f"{path}, line {reader.line_num}: it has more cells than the header")
            lines.append((reader.line_num, {name.strip(): value.strip() for name, value in cells.items()}))
        return lines
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
