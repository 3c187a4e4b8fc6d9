"""ImageFolder: `train/<class>/`, `val/<class>/`, `test/<class>/`, and folders in these, as torchvision reads them."""

import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import splitext

from raygen.datasets.entries import Entry, Listing, take_usable
from raygen.datasets.files import (
    IMAGE_SUFFIXES,
    is_left_behind,
    is_text,
    not_text,
    printable,
)
from raygen.datasets.known import OBJECT_WORDS, Names, recognised
from raygen.datasets.names import SPLIT_WORDS, check_names, check_not_swapped, in_order, shown
from raygen.datasets.places import Child, Place
from raygen.datasets.table import INFO_FILE, DatasetInfo, check_prompts
from raygen.errors import DataError
from raygen.schema import SPLITS

SHOWN_SUFFIXES = 8


@dataclass
class _Found:
    """What the folders hold; paths are relative to the place.

    Attributes:
        place: Where they are.
        pictures: Files by split and class folder, problems included.
        others: Files that are no pictures, likewise.
        hidden: Folders and files of systems and tools, with whether they are folders.
        left_out: Files and folders that are nowhere in the layout.
        problems: One line for what stands in the place of a picture and is none.
    """

    place: Place
    pictures: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    others: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    hidden: dict[str, bool] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def num_files(self, class_folder: str) -> int:
        """Files of a class, pictures or not, over all splits."""
        both = (self.pictures, self.others)
        return sum(len(paths) for kind in both for (_, name), paths in kind.items() if name == class_folder)

    def has_pictures(self, class_folder: str) -> bool:
        """Whether any split has a picture of a class."""
        return any(paths for (_, name), paths in self.pictures.items() if name == class_folder)


def list_class_folders(place: Place, given: Names) -> Listing:
    """Lists the pictures of an ImageFolder; a class is a folder that holds a picture in some split.

    Raises:
        DataError: A split is absent, has classes that train has not, no picture at all, or names that do not fit.
    """
    found, root = _Found(place), place.address
    splits = _split_folders(found)
    for split in SPLITS:
        _read_split(split, splits[split], found)
    classes = _classes(splits, found)
    if given.attribute_names:
        raise DataError(
            f"dataset.attribute_names is {shown(given.attribute_names)}, but {root} holds folders of classes, which "
            "have no attributes; leave it out, or write a metadata.csv with the column `place`"
        )
    if not found.problems:  # with them, a class may be missing whose folder cannot be read
        of = f"the classes {shown(classes)}" + _leftovers(found, classes)
        check_names(given.class_names, what="dataset.class_names", expected=len(classes), of=of)
        check_not_swapped(given.class_names, classes, of=f"the folders of {root}")
    class_names, name = given.class_names or tuple(classes), place.name
    label_of = {folder: label for label, folder in enumerate(classes)}
    folders = sorted((key for key in found.pictures if key[1] in label_of), key=lambda key: (splits[key[0]], key[1]))
    counts = Counter[tuple[str, int, int | None]]()
    for split, folder in folders:
        # In order of the parts of their paths, so that a folder's files are together: "/" sorts behind " " and "-".
        found.pictures[split, folder].sort(key=lambda path: path.replace("/", "\0"))
        counts[split, label_of[folder], None] += len(found.pictures[split, folder])
    entries = (
        _entry(path, split, label_of[folder], place)
        for split, folder in folders
        for path in found.pictures[split, folder]
    )
    same = recognised(name, counts, class_names=class_names)
    words = class_names if same is None else (OBJECT_WORDS[same[0]],) * len(class_names)
    info = DatasetInfo(name, class_names, (), check_prompts(given.prompts, class_names), words)
    listing = Listing(info, problems=found.problems, class_folders=tuple(classes), place=place)
    listing.warnings, listing.notes = _warnings(found, folders), _notes(found)
    take_usable(listing, entries)
    return listing


def _entry(path: str, split: str, label: int, place: Place) -> Entry:
    shown = place.shown(path)
    return Entry(splitext(path)[0], label, None, split, shown, None, where=shown)


def _split_folders(found: _Found) -> dict[str, str]:
    splits: dict[str, str] = {}
    place, root = found.place, found.place.address
    others, children = [], _children(place, "")
    for child in children:
        path, split = child.name, SPLIT_WORDS.get(child.name.casefold())
        if split is None:
            if is_left_behind(path):
                found.hidden[path] = child.is_folder
            elif child.is_folder or _suffix(path) in IMAGE_SUFFIXES:
                others.append(path)
        elif split in splits:
            raise DataError(
                f"{root} has both {splits[split]}/ and {path}/, and both are the split {split}; keep one, "
                "or bring them together"
            )
        elif (reason := place.why_no_folder(path)) is not None:
            raise DataError(f"{printable(place.shown(path))} {reason}; expected a folder of class folders")
        else:
            splits[split] = path
    if "train" not in splits:
        there = shown([child.name for child in children])
        raise DataError(
            f"{root} has neither {INFO_FILE}, metadata.csv nor train/<class>/ folders: unknown layout; found {there}"
        )
    there = f"; found {shown(others)}" if others else ""
    for split in SPLITS:
        if split not in splits:
            raise DataError(
                f"{root} has no folder {split}/; expected train/, val/ and test/, each with a folder per class{there}"
            )
    found.left_out += others
    return splits


def _read_split(split: str, folder: str, found: _Found) -> None:
    place = found.place
    for child in _children(place, folder):
        path = f"{folder}/{child.name}"
        if is_left_behind(child.name):
            found.hidden[path] = child.is_folder
        elif child.is_folder:
            if not is_text(child.name):
                found.problems.append(not_text(place.shown(path)))
                continue
            found.pictures[split, child.name], found.others[split, child.name] = [], []
            _walk(path, found, found.pictures[split, child.name], found.others[split, child.name])
        elif (reason := place.why_no_file(path)) is not None:
            # A link to a class that is elsewhere, and not there now, would be a class less.
            found.problems.append(
                f"{printable(place.shown(path))} {reason}; expected a folder with pictures of a class"
            )
        else:
            found.left_out.append(path)


def _walk(top: str, found: _Found, pictures: list[str], others: list[str]) -> None:
    """Collects the files below a class folder, links followed; a folder inside itself is a problem, not a circle."""
    place, waiting = found.place, [(top, frozenset[Hashable]())]
    while waiting:
        folder, above = waiting.pop()
        try:
            here, children = place.folder_key(folder), _children(place, folder)
        except OSError as error:
            found.problems.append(f"{printable(place.shown(folder))} cannot be listed: {error.strerror}")
            continue
        except DataError as error:
            found.problems.append(str(error))
            continue
        if here in above:
            found.problems.append(f"{printable(place.shown(folder))} is a link to a folder that it is in; remove it")
            continue
        for child in children:
            path = f"{folder}/{child.name}"
            if child.is_folder and is_text(child.name) and not is_left_behind(child.name):
                waiting.append((path, above | {here}))
            else:
                _sort_in(child, path, found, pictures, others)


def _sort_in(child: Child, path: str, found: _Found, pictures: list[str], others: list[str]) -> None:
    place = found.place
    if is_left_behind(child.name):
        found.hidden[path] = child.is_folder
    elif not is_text(child.name):
        found.problems.append(not_text(place.shown(path)))
    elif _suffix(child.name) not in IMAGE_SUFFIXES:
        others.append(path)
    elif not child.is_file and (reason := place.why_no_file(path)) is not None:
        found.problems.append(f"{printable(place.shown(path))} {reason}; remove it, or put the picture there")
    else:
        pictures.append(path)


def _children(place: Place, folder: str) -> Sequence[Child]:
    try:
        return place.children(folder)
    except OSError as error:
        raise DataError(f"{printable(place.shown(folder))} cannot be listed: {error.strerror}") from error


def _suffix(name: str) -> str:
    return splitext(name)[1].lower()


def _classes(splits: Mapping[str, str], found: _Found) -> list[str]:
    """Class folders in order of label: those of train/ that have a picture in some split.

    A folder that is empty in every split is left over, not a class. One that holds files but no picture would be a
    class lost.
    """
    place, root = found.place, found.place.address
    in_train = [folder for split, folder in found.pictures if split == "train"]
    for split in SPLITS:
        names = [name for s, name in found.pictures if s == split]
        if unknown := sorted(name for name in set(names) - set(in_train) if found.num_files(name)):
            also = f"; {found.problems[0]}" if found.problems else ""
            composed = {unicodedata.normalize("NFC", name) for name in in_train}
            if composed & {unicodedata.normalize("NFC", name) for name in unknown}:
                also = (
                    "; the names look alike, but their accents are spelled otherwise (macOS does so): make them equal"
                )
            raise DataError(
                f"{place.shown(splits[split])} has classes {unknown} that train/ has not "
                f"({shown(in_order(in_train))}){also}"
            )
    if not any(found.pictures.values()):
        if found.problems:
            raise DataError(f"{root} holds no picture that can be used; the first of them: {found.problems[0]}")
        others = _suffixes(place, [path for paths in found.others.values() for path in paths])
        there = f"; it has {others}, and read are {', '.join(sorted(IMAGE_SUFFIXES))}" if others else ""
        raise DataError(
            f"{root} holds no picture; expected train/<class>/*.png or .jpg, and so on for val and test{there}"
        )
    for name in in_train:
        if found.num_files(name) and not found.has_pictures(name):
            others = _suffixes(
                place, [path for (_, folder), paths in found.others.items() if folder == name for path in paths]
            )
            found.problems.append(
                f"{root}: class folder {printable(name)}/ holds no picture that can be read, only {others}; convert "
                "them, or remove the folder"
            )
    return in_order([name for name in in_train if found.has_pictures(name)])


def _leftovers(found: _Found, classes: Sequence[str]) -> str:
    empty = sorted({name for _, name in found.pictures} - set(classes))
    return f" ({shown(empty)} has no picture in any split)" if empty else ""


def _warnings(found: _Found, folders: Sequence[tuple[str, str]]) -> list[str]:
    lines, place = [], found.place
    if empty := sorted(name for name in {name for _, name in found.pictures} if not found.num_files(name)):
        lines.append(f"empty in every split, so not taken for classes: {shown(empty)}")
    if found.left_out:
        lines.append(f"left out, since in no class folder of train/, val/ or test/: {shown(found.left_out)}")
    if others := _suffixes(place, [path for paths in found.others.values() for path in paths]):
        lines.append(f"left out, since no pictures by their names: {others}")
    if same := [path for folder in folders for path in _with_same_name(found.pictures[folder])]:
        lines.append(
            f"{len(same)} pictures have a name that another has with another suffix, and all are taken, such as "
            f"{printable(place.shown(same[0]))} and {printable(place.shown(same[1]))}"
        )
    hidden = [path for path, is_folder in found.hidden.items() if is_folder and path.count("/") == 1]
    return [
        *lines,
        *(
            f"hidden, or of a system or tool, so not taken for a class: {printable(place.shown(path))}"
            for path in hidden
        ),
    ]


def _with_same_name(paths: Sequence[str]) -> list[str]:
    """Those that differ from another in their suffix only."""
    times = Counter(splitext(path)[0] for path in paths)
    return [path for path in paths if times[splitext(path)[0]] > 1] if len(times) < len(paths) else []


def _notes(found: _Found) -> list[str]:
    if not found.hidden:
        return []
    paths = [*found.hidden]
    return [f"{len(paths)} hidden files and folders, or of systems and tools, left out: {shown(paths[:3])}, ..."]


def _suffixes(place: Place, paths: Iterable[str]) -> str:
    """How many files of which suffix, commonest first, each with an example."""
    by_suffix: dict[str, list[str]] = {}
    for path in paths:
        by_suffix.setdefault(_suffix(path) or "without suffix", []).append(path)
    ordered = sorted(by_suffix.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [
        f"{len(files)} {suffix} ({printable(place.shown(files[0]))})" for suffix, files in ordered[:SHOWN_SUFFIXES]
    ]
    return ", ".join([*parts, "..."] if len(ordered) > SHOWN_SUFFIXES else parts)
