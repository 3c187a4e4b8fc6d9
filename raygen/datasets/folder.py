"""A user's own folder of pictures, in one of three layouts, tried in this order.

1. SOURCE shards: `dataset.json` and `part-*.parquet`, as `raygen data make` writes them.
2. `metadata.csv`, with the columns of group_DRO (img_filename, y, split, place) or plainer names (path, label, split,
   attribute), and optionally a column with object masks (mask_filename). Files are relative to the folder.
3. ImageFolder: `train/<class>/`, `val/<class>/`, `test/<class>/` and folders in these (also training, valid,
   validation, dev, testing, in any capitals); no attributes. Classes are in order of their names, by number where all
   are numbers. Hidden folders and those of systems and tools are no classes.

Files are listed in sorted order and their bytes are kept in the rows, so that a run does not depend on the folder.
What is no file where a picture should be (a link that leads nowhere, a pipe), or has a name that is not UTF-8, is
refused by name; a file that is there and cannot be read becomes a failed row. `raygen data check` reports both.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from raygen.config import Identity
from raygen.datasets.addresses import Address, place_of
from raygen.datasets.class_folders import list_class_folders
from raygen.datasets.csv_table import list_table
from raygen.datasets.entries import Listing
from raygen.datasets.files import is_text, not_text, printable, why_no_folder
from raygen.datasets.known import Names
from raygen.datasets.opened import DatasetBase, OpenDataset
from raygen.datasets.pairs import Pair, list_pairs
from raygen.datasets.places import LocalPlace, Place
from raygen.datasets.shards import list_shards
from raygen.datasets.table import INFO_FILE, write_source
from raygen.errors import DataError

logger = logging.getLogger(__name__)

LAYOUTS = {INFO_FILE: list_shards, "metadata.csv": list_table}
SHOWN_PROBLEMS = 5
SHOWN_CLASSES = 20


class FolderConfig(DatasetBase):
    """A folder of pictures.

    Attributes:
        path: The folder: a path, or a URL such as "s3://bucket/folder".
        class_names: Names of labels 0, 1, ...; by default those of the folder, those of the published dataset that
            the folder is a copy of (Waterbirds, CelebA), or "class 0", ...
        attribute_names: Names of attribute values; by default likewise, or "attribute 0", ...
        prompts: What to ask the inpainter for, per class; by default "a photo of a <class name>".
        inline: Whether a run keeps copies of the pictures. If not, as ever where they are behind URLs, it keeps their
            addresses, and workers read them: for folders that are too large to be copied, on a file system that all
            nodes have mounted.
    """

    name: Literal["folder"] = "folder"
    path: Address
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    inline: Annotated[bool, Identity.ABSENT_BY_DEFAULT] = True


def open_folder(config: FolderConfig) -> Listing:
    """What the folder holds and what is wrong with it, before any picture is read.

    Everything wrong is collected, not just the first: a run stops with all of it, and `raygen data check` reports it.

    Raises:
        DataError: The folder as a whole cannot be used: absent, empty, of an unknown layout, without a column, or
            names that do not fit it.
    """
    place, given = place_of(config.path), Names(config.class_names, config.attribute_names, config.prompts)
    names = _names(place)
    if not names:
        raise DataError(
            f"dataset folder {place.address} is empty; expected metadata.csv, or train/<class>/ with pictures"
        )
    for text in (*given.class_names, *given.attribute_names, *given.prompts):
        if not is_text(text):  # YAML can hold half a letter, which no file that is written from it can
            raise DataError(f"'{printable(text)}' among the dataset's names or prompts is no text; write it anew")
    for name, list_layout in LAYOUTS.items():
        if name in names:
            if (reason := place.why_no_file(name)) is not None:
                file = printable(place.shown(name))
                raise DataError(f"{file} {reason}; expected the file that says what the folder holds")
            return list_layout(place, given)
    return list_class_folders(place, given)


def _names(place: Place) -> set[str]:
    """What is in the folder, which can be used by its name and kind."""
    if isinstance(place, LocalPlace):
        if (reason := why_no_folder(place.root)) is not None:
            raise DataError(
                f"dataset folder {printable(place.address)} {reason}; give a folder of pictures, or 'scenes'"
            )
        if not is_text(place.root) or not is_text(place.name):
            raise DataError(f"dataset folder {not_text(place.root.resolve())}")
    try:
        return set(place.names())
    except OSError as error:
        raise DataError(f"dataset folder {printable(place.address)} cannot be listed: {error.strerror}") from error


class FolderOf(Protocol):
    """What the config of a dataset in a folder says, whatever the folder's layout."""

    @property
    def path(self) -> Path | str:
        """The folder: a path, or a URL."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of labels that were given."""
        ...

    @property
    def inline(self) -> bool:
        """Whether a run keeps copies of the pictures."""
        ...


class OpenFolder(OpenDataset):
    """A folder, listed by `open_folder` or by the loader of a published layout.

    Args:
        config: Which, and what its classes are called.
        listing: What it holds.
    """

    def __init__(self, config: FolderOf, listing: Listing) -> None:
        self._config, self._listing = config, listing
        entries = [] if self._listing.shards else self._listing.entries
        self._listing.inline = config.inline
        self._place = self._listing.place or place_of(config.path)
        listed = list_pairs(self._place, ((entry.picture, entry.image_id) for entry in entries))
        self._pairs = {**listing.pairs, **listed}
        super().__init__(self._listing.info, self._listing.counts())

    @property
    def listing(self) -> Listing:
        """What the folder holds and what is wrong with it."""
        return self._listing

    @property
    def lines(self) -> list[str]:
        """What a class is called that its folder is not, what was left out, what classes have no training image."""
        listing, given = self._listing, self._config.class_names
        names, folders = self.info.class_names, listing.class_folders or tuple(map(str, range(len(given))))
        pairs = [f"{folder} -> {name}" for folder, name in zip(folders, names, strict=False) if folder != name]
        more = f", ... {len(pairs) - SHOWN_CLASSES} more" if len(pairs) > SHOWN_CLASSES else ""
        called = [f"classes: {', '.join(pairs[:SHOWN_CLASSES])}{more}"] if pairs else []
        gaps = [name for name, count in self.class_counts("train").items() if not count]
        warnings = [*listing.warnings, *(f"no training image of class '{name}'" for name in gaps[:SHOWN_CLASSES])]
        lines = [*called, *listing.notes, *(f"warning: {line}" for line in warnings)]
        return [printable(line) for line in lines]

    def check(self) -> None:
        """Checks that nothing of the folder is wrong, and that no split is missing.

        Raises:
            DataError: Something is; the message has the first of it.
        """
        self.check_entries()
        if missing := self._listing.missing_splits():
            raise DataError(f"{self._config.path}: {missing[0]}")

    def num_masks(self, split: str) -> int | None:
        """Those whose file is named; of shards it is not known."""
        if self._listing.shards:
            return None
        entries = (entry for entry in self._listing.entries if entry.split == split)
        return sum(entry.object is not None or entry.mask is not None for entry in entries)

    def state(self, *, run_seed: int) -> dict[str, Any]:
        """What the folder holds now."""
        return {"listing": self._listing.digest()}

    def write(self, folder: Path, *, run_seed: int) -> dict[str, int]:
        """Writes the rows, pictures as they are.

        Those that cannot be decoded become failed rows with a reason. What the folder says of a picture (its label, its
        split, its file) must be right.

        Raises:
            DataError: Labels, attributes, splits, ids or files are wrong: the message has the first of them.
        """
        self.check_entries()
        counts = write_source(self._listing.rows(), self.info, folder)
        if unread := list(self._listing.unread.values()):
            logger.warning(
                "files of %d rows cannot be read; where they are needed, the rows fail: %s",
                len(unread),
                "; ".join(unread[:SHOWN_PROBLEMS]),
            )
        return counts

    def pairs(
        self, image_ids: Sequence[str], groups: Sequence[tuple[int, int | None]], *, run_seed: int
    ) -> list[Pair | None]:
        """Those of the folder's `pairs.csv`."""
        found = [self._pairs.get(image_id) for image_id in image_ids]
        return [None if pair is None else pair.read() for pair in found]

    def pairs_state(self) -> Any:
        """Which they are, and their files now."""
        return [[image_id, *pair.state(self._place)] for image_id, pair in self._pairs.items()] or None

    def check_entries(self) -> None:
        """Checks that every picture that is listed can be used.

        Raises:
            DataError: One cannot; the message has the first ones.
        """
        problems, path = self._listing.problems, self._config.path
        if problems:
            shown = "\n".join(f"  {printable(problem)}" for problem in problems[:SHOWN_PROBLEMS])
            raise DataError(
                f"{path}: {len(problems)} picture(s) cannot be used:\n{shown}\n"
                f"`raygen data check {path}` lists all that is wrong."
            )


def open_as_folder(config: FolderConfig) -> OpenFolder:
    """The folder of a config, opened once."""
    return OpenFolder(config, open_folder(config))


Config, Open = FolderConfig, open_as_folder
