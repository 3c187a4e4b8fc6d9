"""Names of classes and attributes that the user gives, against what the folder has: never taken one for another."""

import re
from collections import Counter
from collections.abc import Sequence

from raygen.datasets.files import printable
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
_COUNTED = re.compile(r"((?:class|label)[ _-]?|)(-?[0-9]+)", re.IGNORECASE)


def in_order(folders: Sequence[str]) -> list[str]:
    """Class folders in the order of their labels: by number where all are numbers (2 before 10), else as text.

    With one word before all of them too: class_2 before class_10.
    """
    found = [_COUNTED.fullmatch(name) for name in folders]
    if len({match[1] if match else None for match in found}) == 1 and all(found):
        return sorted(folders, key=lambda name: (int(_COUNTED.fullmatch(name)[2]), name))  # type: ignore[index]
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
    for name, times in Counter(name.strip() for name in names).items():
        if times > 1:
            raise DataError(f"{what} has '{name}' {times} times ({shown(names)}); every value needs a name of its own")
        if not name:
            raise DataError(f"{what} is {shown(names)}; an empty text is no name")


def check_not_swapped(names: Sequence[str], own: Sequence[str], *, of: str, what: str = "dataset.class_names") -> None:
    """Checks that no value is given the name that another has already.

    Args:
        names: One per value.
        own: The names that they have, likewise.
        of: What has them, for the message.
        what: The field of `names`.

    Raises:
        DataError: One is, as where the same names are given in another order.
    """
    taken = {_plain(name) for name in own}
    for number, name in enumerate(names):
        if number < len(own) and _plain(name) != _plain(own[number]) and _plain(name) in taken:
            raise DataError(
                f"{what} is {shown(names)}, but {of} are {shown(own)}: '{own[number]}' would be called '{name}', which "
                "is another's name. Give new names in that order, or none"
            )


def shown(names: Sequence[str]) -> str:
    """Names in a row, the first ones where there are many."""
    more = f", ... {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(map(printable, names[:SHOWN_NAMES])) + more


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", " ").replace("-", " ")
