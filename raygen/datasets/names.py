"""Names of classes and attributes that the user gives, against what the folder has: never taken one for another."""

import re
from collections import Counter
from collections.abc import Sequence

from raygen.datasets.files import is_text, printable
from raygen.errors import DataError
from raygen.schema import SPLITS

SHOWN_NAMES = 20
# What folders and cells call the splits, in any capitals.
SPLIT_WORDS = {
    **{name: name for name in SPLITS},
    "training": "train",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "testing": "test",
}
_WHOLE_NUMBER = re.compile(r"-?[0-9]+")


def in_order(folders: Sequence[str]) -> list[str]:
    """Class folders in the order of their labels: by number where all are whole numbers (2 before 10), else as text."""
    if all(_WHOLE_NUMBER.fullmatch(name) for name in folders):
        return sorted(folders, key=lambda name: (int(name), name))
    return sorted(folders)


def check_names(names: Sequence[str], *, what: str, expected: int, of: str) -> None:
    """Checks names that were given.

    Args:
        names: One per value; none: nothing was given.
        what: Their field, such as "dataset.class_names".
        expected: How many values there are.
        of: What has the values, for the message.

    Raises:
        DataError: Another number, one that is empty, is no text or comes twice.
    """
    if not names:
        return
    if len(names) != expected:
        raise DataError(f"{what} has {len(names)} names ({shown(names)}) for {of}; give one each, in that order")
    for name, times in Counter(map(_plain, names)).items():
        if times > 1:
            raise DataError(f"{what} has '{name}' {times} times ({shown(names)}); every value needs a name of its own")
        if not name or not is_text(name):
            raise DataError(f"{what} is {shown(names)}; '{printable(name)}' is no name")


def check_not_swapped(names: Sequence[str], folders: Sequence[str]) -> None:
    """Checks that no class gets the name of another class's folder.

    Raises:
        DataError: One does, as where the folders' own names are given in another order.
    """
    of_folder = {_plain(folder): folder for folder in folders}
    for name, folder in zip(names, folders, strict=True):
        other = of_folder.get(_plain(name), folder)
        if other != folder:
            raise DataError(
                f"dataset.class_names is {shown(names)}, but the folders are {shown(folders)}: folder {folder}/ would "
                f"be called '{name}', like folder {other}/. Give the names in the order of the folders, or none"
            )


def shown(names: Sequence[str]) -> str:
    """Names in a row, the first ones where there are many."""
    more = f", ... {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(map(printable, names[:SHOWN_NAMES])) + more


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", " ").replace("-", " ")
