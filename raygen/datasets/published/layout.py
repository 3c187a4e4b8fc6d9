"""What the loaders of published layouts share: their config, what their folders hold, and the comparison of counts."""

import csv
import difflib
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Annotated

from raygen.config import Identity
from raygen.datasets.addresses import Address, place_of
from raygen.datasets.entries import Entry, Listing, take_usable
from raygen.datasets.files import IMAGE_SUFFIXES, is_left_behind, is_text, not_text, printable
from raygen.datasets.known import GroupCounts, differences
from raygen.datasets.names import check_names, shown
from raygen.datasets.opened import DatasetBase
from raygen.datasets.places import LocalPlace, Place
from raygen.datasets.table import DatasetInfo, check_prompts
from raygen.errors import DataError
from raygen.schema import SPLITS

NUM_EXAMPLES = 5


class PublishedConfig(DatasetBase):
    """Base of the configs of published layouts.

    Attributes:
        path: The folder that the authors' archive unpacks to: a path, or a URL.
        class_names: Other names for the labels 0, 1, ...; by default those of the publication.
        attribute_names: Other names for the attribute values; by default likewise.
        prompts: What to ask the inpainter for, per class; by default "a photo of a <class name>", or the papers' words.
        inline: As of a folder: whether a run keeps copies of the pictures, or their addresses.
    """

    path: Address
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    inline: Annotated[bool, Identity.ABSENT_BY_DEFAULT] = True


class Files:
    """What the folders of a place hold; each is listed once, so that a question costs no look at the disk.

    Args:
        place: The place.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._names: dict[str, frozenset[str]] = {}

    def names(self, folder: str = "") -> frozenset[str]:
        """What is directly in a folder; nothing where there is no such folder."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(self.place.names(folder))
            except (FileNotFoundError, NotADirectoryError):
                self._names[folder] = frozenset()
            except OSError as error:
                where = f"{self.place.address}/{folder}".rstrip("/")
                raise DataError(f"{printable(where)} cannot be listed: {error.strerror}") from error
        return self._names[folder]

    def has(self, path: str) -> bool:
        """Whether a file or folder of that name is there."""
        folder, _, name = path.rpartition("/")
        return name in self.names(folder)

    def first(self, *paths: str) -> str | None:
        """The first of these that is there."""
        return next((path for path in paths if self.has(path)), None)

    def pictures(self, folder: str) -> list[str]:
        """Paths of the pictures directly in a folder, told by their suffix, sorted; hidden ones and systems' left out.

        Raises:
            DataError: A name is not UTF-8.
        """
        found = [
            f"{folder}/{name}"
            for name in self.names(folder)
            if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES and not is_left_behind(name)
        ]
        if bad := [path for path in found if not is_text(path)]:
            raise DataError(not_text(bad[0]))
        return sorted(found)

    def folders(self, folder: str = "") -> list[str]:
        """Names in a folder that have no suffix of a picture and are not left behind by a system, sorted."""
        return sorted(
            name
            for name in self.names(folder)
            if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES and not is_left_behind(name)
        )

    def path(self, path: str) -> str:
        """Where a file is, as entries keep it."""
        return self.place.shown(path)

    def text(self, path: str) -> str:
        """The text of a file in UTF-8, with or without a byte order mark.

        Raises:
            DataError: It cannot be read, or is no such text.
        """
        where = self.place.shown(path)
        if (reason := self.place.why_no_file(path)) is not None:
            raise DataError(f"{printable(where)} {reason}")
        try:
            return self.place.read(path).decode("utf-8-sig")
        except OSError as error:
            raise DataError(f"{printable(where)} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{printable(where)} is not text in UTF-8: {error}; take the authors' file") from error


def files_of(config: PublishedConfig) -> Files:
    """The folder of a config.

    Raises:
        DataError: There is none.
    """
    return folder_of(config.path, what="dataset folder", give=f"the folder that holds the {config.name} files")


def folder_of(address: Path | str, *, what: str, give: str) -> Files:
    """What the folder of an address holds.

    Args:
        address: A path, or a URL.
        what: What it is, for the message.
        give: What to give instead.

    Raises:
        DataError: There is none.
    """
    place = place_of(address)
    # A folder behind a URL says so itself when it is listed.
    if isinstance(place, LocalPlace) and (reason := place.why_no_folder("")) is not None:
        raise DataError(f"{what} {printable(place.address)} {reason}; give {give}")
    return Files(place)


def read_csv(files: Files, path: str, needed: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Header of a CSV file, and number and cells of each line, without spaces around them; commas only.

    Raises:
        DataError: It cannot be read, is empty, or a needed column is absent.
    """
    where = files.path(path)
    reader = csv.reader(io.StringIO(files.text(path), newline=""), skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        check_columns(header, needed, where)
        lines = []
        for cells in reader:
            if any(cells):
                if len(cells) != len(header):
                    raise DataError(f"{where}, line {reader.line_num}: {len(cells)} cells, the header {len(header)}")
                lines.append((reader.line_num, {k: v.strip() for k, v in zip(header, cells, strict=True)}))
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: not CSV: {error}") from error
    if not lines:
        raise DataError(f"{where} has no line with a picture; take the authors' file")
    return header, lines


def check_columns(header: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Checks that a table has some columns.

    Raises:
        DataError: One is absent; the nearest that is there is named.
    """
    for name in needed:
        if name not in header:
            raise DataError(f"{where}: no column '{name}'{nearest(name, header)}; found {shown(header)}")


def nearest(word: str, words: Sequence[str]) -> str:
    """What to say of a word that is none of some: the nearest of them, if any is near."""
    lower = {other.casefold(): other for other in words}
    found = difflib.get_close_matches(word.casefold(), list(lower), n=1, cutoff=0.5)
    return f" (the nearest is '{lower[found[0]]}')" if found else ""


def named(config: PublishedConfig, class_names: Sequence[str], attribute_names: Sequence[str]) -> DatasetInfo:
    """Names of a dataset: those of the config, else the publication's.

    Raises:
        DataError: Another number of names than of classes, attributes or prompts.
    """
    of = f"the {config.name} classes {shown(class_names)}"
    check_names(config.class_names, what="dataset.class_names", expected=len(class_names), of=of)
    of = f"the {config.name} attributes {shown(attribute_names) or 'of which it has none'}"
    check_names(config.attribute_names, what="dataset.attribute_names", expected=len(attribute_names), of=of)
    classes = config.class_names or tuple(class_names)
    attributes = config.attribute_names or tuple(attribute_names)
    return DatasetInfo(config.name, classes, attributes, check_prompts(config.prompts, classes))


def with_words(info: DatasetInfo, word: str, prompts: Sequence[str] = ()) -> DatasetInfo:
    """The names, with one word for the object of every class, and the papers' prompts where there are some."""
    return replace(info, object_words=(word,) * len(info.class_names), prompts=tuple(prompts) or info.prompts)


def listing_of(
    info: DatasetInfo,
    entries: Sequence[Entry],
    told: str,
    *,
    place: Place,
    problems: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Listing:
    """The usable entries, sorted, and what is wrong.

    Args:
        info: Names.
        entries: Pictures.
        told: By what the layout is known, such as "list_attr_celeba.txt".
        place: The folder.
        problems: Pictures that cannot be used.
        notes: What to say.
    """
    told_notes = [f"read in the layout of {info.name} ({told})", *notes]
    listing = Listing(info, problems=list(problems), notes=told_notes, place=place)
    take_usable(listing, entries)
    return listing


def compare(listing: Listing, expected: GroupCounts) -> None:
    """Warns, in one line, of groups with another number of images than published, and of the usual cause."""
    found = listing.counts()
    lines = differences(expected, found)
    if lines:
        num_groups = sum(len(groups) for groups in expected.values())
        more = "; ..." if len(lines) > NUM_EXAMPLES else ""
        listing.warnings.append(
            f"{len(lines)} of {num_groups} groups of {listing.info.name} are not of the published size: "
            f"{'; '.join(lines[:NUM_EXAMPLES])}{more}. The usual cause is {_cause(expected, found)}; "
            "numbers are not to be compared with the papers'"
        )


def compare_totals(listing: Listing, expected: Mapping[str, int], found: Mapping[str, int], *, what: str) -> None:
    """Warns likewise of totals, by the name of the file or folder that has them.

    Args:
        listing: Gets the warning.
        expected: The published numbers.
        found: Those that are here.
        what: What is counted, such as "pictures".
    """
    other = [
        f"{name}: {found.get(name, 0)} {what}, {num} published"
        for name, num in expected.items()
        if found.get(name, 0) != num
    ]
    if other:
        gone = [name for name in expected if not found.get(name, 0)]
        fewer = all(found.get(name, 0) <= num for name, num in expected.items())
        cause = f"a missing file or folder ({shown(gone)})" if gone else _COPY if fewer else _RELEASE
        listing.warnings.append(
            f"numbers of {listing.info.name} that are not the published ones: {'; '.join(other[:NUM_EXAMPLES])}. The "
            f"usual cause is {cause}; numbers are not to be compared with the papers'"
        )


_COPY = "a filtered, sampled or unfinished copy"
_RELEASE = "another release, or other labels under the same names"


def _cause(expected: GroupCounts, found: Mapping[tuple[str, int, int | None], int]) -> str:
    gone = [split for split in SPLITS if split in expected and not any(s == split for s, _, _ in found)]
    if gone:
        return f"a missing file or folder (no image in {shown(gone)})"
    total = sum(num for groups in expected.values() for num in groups.values())
    return _COPY if sum(found.values()) < total else _RELEASE


def missing(where: str, path: str) -> str:
    """What to say of a picture that a table names and the folder has not."""
    return f"{where}: {printable(path)} does not exist; was the archive unpacked wholly?"
