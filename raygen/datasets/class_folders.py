"""ImageFolder: `train/<class>/`, `val/<class>/`, `test/<class>/`, and folders in these, as torchvision reads them."""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raygen.datasets.entries import Entry, Listing, take_usable
from raygen.datasets.files import (
    IMAGE_SUFFIXES,
    is_left_behind,
    is_text,
    not_text,
    printable,
    why_no_file,
    why_no_folder,
)
from raygen.datasets.known import OBJECT_WORDS, Names, recognised
from raygen.datasets.names import SPLIT_WORDS, check_names, check_not_swapped, in_order, shown
from raygen.datasets.table import INFO_FILE, DatasetInfo, check_prompts
from raygen.errors import DataError
from raygen.schema import SPLITS

SHOWN_SUFFIXES = 8


@dataclass
class _Found:
    """What the folders hold.

    Attributes:
        pictures: Files by split and class folder, problems included.
        others: Files that are no pictures, likewise.
        hidden: Folders and files of systems and tools.
        left_out: Files and folders that are nowhere in the layout.
        problems: One line for what stands in the place of a picture and is none.
    """

    pictures: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    others: dict[tuple[str, str], list[Path]] = field(default_factory=dict)
    hidden: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def num_files(self, class_folder: str) -> int:
        """Files of a class, pictures or not, over all splits."""
        both = (self.pictures, self.others)
        return sum(len(paths) for kind in both for (_, name), paths in kind.items() if name == class_folder)

    def has_pictures(self, class_folder: str) -> bool:
        """Whether any split has a picture of a class."""
        return any(paths for (_, name), paths in self.pictures.items() if name == class_folder)


def list_class_folders(root: Path, given: Names) -> Listing:
    """Lists the pictures of an ImageFolder; a class is a folder that holds a picture in some split.

    Raises:
        DataError: A split is absent, has classes that train has not, no picture at all, or names that do not fit.
    """
    found = _Found()
    splits = _split_folders(root, found)
    for split in SPLITS:
        _read_split(split, splits[split], found)
    classes = _classes(root, splits, found)
    if given.attribute_names:
        raise DataError(
            f"dataset.attribute_names is {shown(given.attribute_names)}, but {root} holds folders of classes, which "
            "have no attributes; leave it out, or write a metadata.csv with the column `place`"
        )
    if not found.problems:  # with them, a class may be missing whose folder cannot be read
        of = f"the classes {shown(classes)}" + _leftovers(found, classes)
        check_names(given.class_names, what="dataset.class_names", expected=len(classes), of=of)
        check_not_swapped(given.class_names, classes, of=f"the folders of {root}")
    class_names, name = given.class_names or tuple(classes), root.resolve().name
    label_of = {folder: label for label, folder in enumerate(classes)}
    entries = [
        Entry(path.relative_to(root).with_suffix("").as_posix(), label_of[folder], None, split, path, None, str(path))
        for (split, folder), paths in found.pictures.items()
        for path in paths
        if folder in label_of
    ]
    entries.sort(key=lambda entry: (entry.picture, entry.split))
    counts = Counter((entry.split, entry.label, entry.attribute) for entry in entries)
    same = recognised(name, counts, class_names=class_names)
    words = class_names if same is None else (OBJECT_WORDS[same[0]],) * len(class_names)
    info = DatasetInfo(name, class_names, (), check_prompts(given.prompts, class_names), words)
    listing = Listing(info, problems=found.problems, class_folders=tuple(classes))
    listing.warnings, listing.notes = _warnings(root, found, classes, entries), _notes(root, found)
    take_usable(listing, entries)
    return listing


def _split_folders(root: Path, found: _Found) -> dict[str, Path]:
    splits: dict[str, Path] = {}
    others, children = [], _children(root)
    for entry in children:
        path, split = Path(entry), SPLIT_WORDS.get(entry.name.casefold())
        if split is None:
            if is_left_behind(entry.name):
                found.hidden.append(path)
            elif _is_folder(entry) or path.suffix.lower() in IMAGE_SUFFIXES:
                others.append(path)
        elif split in splits:
            raise DataError(
                f"{root} has both {splits[split].name}/ and {path.name}/, and both are the split {split}; keep one, "
                "or bring them together"
            )
        elif (reason := why_no_folder(path)) is not None:
            raise DataError(f"{printable(path)} {reason}; expected a folder of class folders")
        else:
            splits[split] = path
    if "train" not in splits:
        there = shown([entry.name for entry in children])
        raise DataError(
            f"{root} has neither {INFO_FILE}, metadata.csv nor train/<class>/ folders: unknown layout; found {there}"
        )
    there = f"; found {shown([path.name for path in others])}" if others else ""
    for split in SPLITS:
        if split not in splits:
            raise DataError(
                f"{root} has no folder {split}/; expected train/, val/ and test/, each with a folder per class{there}"
            )
    found.left_out += others
    return splits


def _read_split(split: str, folder: Path, found: _Found) -> None:
    for entry in _children(folder):
        path = Path(entry)
        if is_left_behind(entry.name):
            found.hidden.append(path)
        elif _is_folder(entry):
            if not is_text(entry.name):
                found.problems.append(not_text(path))
                continue
            found.pictures[split, entry.name], found.others[split, entry.name] = [], []
            _walk(path, found, found.pictures[split, entry.name], found.others[split, entry.name])
        elif (reason := why_no_file(path)) is not None:
            # A link to a class that is elsewhere, and not there now, would be a class less.
            found.problems.append(f"{printable(path)} {reason}; expected a folder with pictures of a class")
        else:
            found.left_out.append(path)


def _walk(top: Path, found: _Found, pictures: list[Path], others: list[Path]) -> None:
    """Collects the files below a class folder, links followed; a folder inside itself is a problem, not a circle."""
    waiting = [(top, frozenset[tuple[int, int]]())]
    while waiting:
        folder, above = waiting.pop()
        try:
            here, children = os.stat(folder), _children(folder)
        except OSError as error:
            found.problems.append(f"{printable(folder)} cannot be listed: {error.strerror}")
            continue
        except DataError as error:
            found.problems.append(str(error))
            continue
        if (here.st_dev, here.st_ino) in above:
            found.problems.append(f"{printable(folder)} is a link to a folder that it is in; remove it")
            continue
        inside = above | {(here.st_dev, here.st_ino)}
        for entry in children:
            if _is_folder(entry) and is_text(entry.name) and not is_left_behind(entry.name):
                waiting.append((Path(entry), inside))
            else:
                _sort_in(entry, found, pictures, others)


def _sort_in(entry: os.DirEntry[str], found: _Found, pictures: list[Path], others: list[Path]) -> None:
    path = Path(entry)
    if is_left_behind(entry.name):
        found.hidden.append(path)
    elif not is_text(entry.name):
        found.problems.append(not_text(path))
    elif path.suffix.lower() not in IMAGE_SUFFIXES:
        others.append(path)
    elif not entry.is_file(follow_symlinks=False) and (reason := why_no_file(path)) is not None:
        found.problems.append(f"{printable(path)} {reason}; remove it, or put the picture there")
    else:
        pictures.append(path)


def _children(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{printable(folder)} cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, or to where nobody may look
        return False


def _classes(root: Path, splits: Mapping[str, Path], found: _Found) -> list[str]:
    """Class folders in order of label: those of train/ that have a picture in some split.

    A folder that is empty in every split is left over, not a class. One that holds files but no picture would be a
    class lost.
    """
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
                f"{splits[split]} has classes {unknown} that train/ has not ({shown(in_order(in_train))}){also}"
            )
    if not any(found.pictures.values()):
        if found.problems:
            raise DataError(f"{root} holds no picture that can be used; the first of them: {found.problems[0]}")
        others = _suffixes([path for paths in found.others.values() for path in paths])
        there = f"; it has {others}, and read are {', '.join(sorted(IMAGE_SUFFIXES))}" if others else ""
        raise DataError(
            f"{root} holds no picture; expected train/<class>/*.png or .jpg, and so on for val and test{there}"
        )
    for name in in_train:
        if found.num_files(name) and not found.has_pictures(name):
            others = _suffixes(
                [path for (_, folder), paths in found.others.items() if folder == name for path in paths]
            )
            found.problems.append(
                f"{root}: class folder {printable(name)}/ holds no picture that can be read, only {others}; convert "
                "them, or remove the folder"
            )
    return in_order([name for name in in_train if found.has_pictures(name)])


def _leftovers(found: _Found, classes: Sequence[str]) -> str:
    empty = sorted({name for _, name in found.pictures} - set(classes))
    return f" ({shown(empty)} has no picture in any split)" if empty else ""


def _warnings(root: Path, found: _Found, classes: Sequence[str], entries: Sequence[Entry]) -> list[str]:
    lines = []
    if empty := sorted(name for name in {name for _, name in found.pictures} if not found.num_files(name)):
        lines.append(f"empty in every split, so not taken for classes: {shown(empty)}")
    if found.left_out:
        paths = [str(path.relative_to(root)) for path in found.left_out]
        lines.append(f"left out, since in no class folder of train/, val/ or test/: {shown(paths)}")
    if others := _suffixes([path for paths in found.others.values() for path in paths]):
        lines.append(f"left out, since no pictures by their names: {others}")
    times = Counter(entry.image_id for entry in entries)
    if same := [entry for entry in entries if times[entry.image_id] > 1]:
        lines.append(
            f"{len(same)} pictures have a name that another has with another suffix, and all are taken, such as "
            f"{printable(same[0].where)} and {printable(same[1].where)}"
        )
    hidden = [printable(path) for path in found.hidden if path.parent.parent == root and os.path.isdir(path)]
    return [*lines, *(f"hidden, or of a system or tool, so not taken for a class: {path}" for path in hidden)]


def _notes(root: Path, found: _Found) -> list[str]:
    if not found.hidden:
        return []
    paths = [str(path.relative_to(root)) for path in found.hidden]
    return [f"{len(paths)} hidden files and folders, or of systems and tools, left out: {shown(paths[:3])}, ..."]


def _suffixes(paths: Iterable[Path]) -> str:
    """How many files of which suffix, commonest first, each with an example."""
    by_suffix: dict[str, list[Path]] = {}
    for path in paths:
        by_suffix.setdefault(path.suffix.lower() or "without suffix", []).append(path)
    ordered = sorted(by_suffix.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{len(files)} {suffix} ({printable(files[0])})" for suffix, files in ordered[:SHOWN_SUFFIXES]]
    return ", ".join([*parts, "..."] if len(ordered) > SHOWN_SUFFIXES else parts)
