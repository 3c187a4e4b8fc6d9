"""Reading every picture and label of a dataset, to find what a run would stumble over."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raygen.datasets import listed_config, open_listed
from raygen.datasets.addresses import place_of
from raygen.datasets.check_rows import NUM_EXAMPLES, RowFindings, check_row, picture_warnings, unusable_masks
from raygen.datasets.copies import copy_warnings
from raygen.datasets.entries import READ_BYTES, Listing
from raygen.datasets.files import printable
from raygen.datasets.known import KNOWN, differences, known_name
from raygen.datasets.opened import OpenDataset
from raygen.datasets.references import with_files
from raygen.datasets.table import DatasetInfo, picture_bytes
from raygen.errors import ConfigError
from raygen.schema import SPLITS, by_bytes

MAX_LINES = 20
MAX_WARNINGS = 100
# Empty groups of a split that are named one by one.
MAX_GAPS = 8
# Pictures in memory at a time, and their bytes.
CHUNK = 256
CHUNK_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Needs:
    """What a recipe needs of a dataset.

    Attributes:
        masks: Whether it reads object masks.
        problems: What of the dataset as a whole it cannot do with.
    """

    masks: bool
    problems: Sequence[str] = ()


@dataclass
class Findings:
    """What a check found.

    Attributes:
        info: Names of the dataset.
        counts: Images per (split, label, attribute).
        problems: One line per image that a run could not use, or not wholly: its place, ": ", and what is wrong.
        warnings: What is legal and probably not meant.
        of_dataset: Those of the problems that are of the dataset as a whole, and have no place in front.
        notes: What labels mean, where names come from, what was left out as ever.
    """

    info: DatasetInfo
    counts: Counter[tuple[str, int, int | None]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    of_dataset: set[str] = field(default_factory=set)

    def lines(self) -> list[str]:
        """The findings as text, at most MAX_LINES problems and MAX_WARNINGS warnings."""
        lines = [f"note: {text}" for text in self.notes]
        lines += [
            f"{split}: label {label}, attribute {'-' if attribute is None else attribute}: {n} images"
            for (split, label, attribute), n in sorted(
                self.counts.items(), key=lambda item: (*item[0][:2], -1 if item[0][2] is None else item[0][2])
            )
        ]
        for kind, texts, most in (("warning", self.warnings, MAX_WARNINGS), ("error", self.problems, MAX_LINES)):
            lines += [f"{kind}: {text}" for text in texts[:most]]
            if len(texts) > most:
                lines.append(f"... and {len(texts) - most} more {kind}s")
        return [
            *map(printable, lines),
            f"{sum(self.counts.values())} images, {len(self.problems)} errors, {len(self.warnings)} warnings",
        ]

    def data(self) -> dict[str, Any]:
        """The findings as plain data: rows, splits, errors, warnings.

        Groups are numbers of images in the order of `label * num_attributes + attribute`; without attributes, of the
        classes. An error's row is an image_id, or the place in a file; null where it is of the dataset as a whole.
        """
        num_attributes = max(1, len(self.info.attribute_names))
        splits: dict[str, Any] = {}
        for (split, label, attribute), count in self.counts.items():
            zeros = [0] * (len(self.info.class_names) * num_attributes)
            found = splits.setdefault(split, {"rows": 0, "groups": zeros})
            found["rows"] += count
            if attribute is not None or not self.info.attribute_names:
                found["groups"][label * num_attributes + (attribute or 0)] += count
        return {
            "rows": sum(self.counts.values()),
            "splits": {split: splits[split] for split in SPLITS if split in splits},
            "errors": [self._error(problem) for problem in self.problems],
            "warnings": [printable(text) for text in self.warnings],
        }

    def add(self, problems: Iterable[str]) -> None:
        """Adds problems of the dataset as a whole."""
        for problem in problems:
            self.problems.append(problem)
            self.of_dataset.add(problem)

    def _error(self, problem: str) -> dict[str, str | None]:
        row, found, text = printable(problem).partition(": ")
        if not found or problem in self.of_dataset:
            return {"row": None, "problem": printable(problem)}
        return {"row": row, "problem": text}


def check_dataset(
    path: Path | str,
    *,
    needs_of: Callable[[OpenDataset], Needs] | None = None,
    expect: str | None = None,
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], Any] = lambda done, total: None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Findings:
    """Reads a dataset that `raygen.datasets.named_config` knows and decodes every picture and mask.

    Args:
        path: The folder or table: a path, or a URL.
        needs_of: What a recipe needs of the dataset; by default nothing is said for or against any recipe, and what is
            odd in object masks is warned of.
        expect: A published dataset whose numbers of images it must have (`KNOWN`); by default, a folder whose name
            holds the name of one is compared with it, and differences are warnings.
        overrides: What a run would set of the dataset's config, such as "class_names=[cat, dog]".
        progress: Called now and then with the number of images read and of all of them.
        chunk_bytes: Of pictures in memory at a time.

    Raises:
        ConfigError: `expect` is not known, or a wrong field.
        DataError: The folder as a whole cannot be used: absent, empty, of an unknown layout, without a column.
    """
    if expect is not None and expect not in KNOWN:
        raise ConfigError(f"--expect {expect}: not a known dataset; known: {', '.join(KNOWN)}")
    config = listed_config(str(path), overrides)
    opened = open_listed(config)
    listing, needs = opened.listing, None if needs_of is None else needs_of(opened)
    findings = Findings(listing.info, problems=list(listing.problems), warnings=list(listing.warnings))
    findings.add([] if needs is None else needs.problems)
    findings.notes = [*_labels(listing), *listing.notes]
    if listing.info.has_numbered_classes:
        line = f"the classes have numbers only; recipes that paint would ask for '{listing.info.prompts[0]}', which no "
        line += "model knows. Set dataset.class_names in the order of the labels"
        # A table has numbers as a rule; a folder may have words, and they are other words than its own.
        (findings.warnings if listing.class_folders else findings.notes).append(line)
    findings.counts.update(listing.counts())
    reads_masks = needs is None or needs.masks
    done, odd, digests = 0, list[RowFindings](), dict[str, bytes]()
    # Pillow decodes outside Python's lock, so threads are enough.
    with ThreadPoolExecutor() as pool:
        whole = with_files(listing.rows(read_bytes=min(chunk_bytes, READ_BYTES)), listing.unread)
        for rows in by_bytes(whole, picture_bytes, most=CHUNK, most_bytes=chunk_bytes):
            readable = [row for row in rows if row["image_id"] not in listing.unread]
            for found in pool.map(check_row, readable):
                findings.problems += [*found.problems, *(found.mask_problems if reads_masks else ())]
                digests[found.image_id] = found.digest
                odd += [found] if found.mask is not None or found.one_colour is not None else []
            done += len(rows)
            progress(done, len(listing.entries))
    if needs is not None and needs.masks:
        findings.problems += unusable_masks(odd)
        odd = [replace(found, mask=None) if found.mask != "everything" else found for found in odd]
    findings.warnings += picture_warnings(odd, num_images=done, has_masks=reads_masks)
    findings.warnings += copy_warnings(listing.entries, digests)
    findings.add(listing.missing_splits())
    findings.problems += [f"{image_id}: {reason}" for image_id, reason in listing.unread.items()]
    _warn_of_gaps(findings, listing.info)
    # A published layout is compared by its loader.
    _compare(findings, place_of(path).name if config.name == "folder" else "", expect)
    return findings


def _labels(listing: Listing) -> list[str]:
    """What each label is."""
    names = listing.info.class_names
    folders = listing.class_folders or names
    lines = [
        f"label {label} is {name}" + (f", of folder {folder}/" if listing.class_folders else "")
        for label, (name, folder) in enumerate(zip(names, folders, strict=True))
    ]
    more = [f"... and {len(lines) - MAX_WARNINGS} more labels"] if len(lines) > MAX_WARNINGS else []
    return lines[:MAX_WARNINGS] + more


def _warn_of_gaps(findings: Findings, info: DatasetInfo) -> None:
    if not findings.problems and len({label for split, label, _ in findings.counts if split == "train"}) == 1:
        findings.add(["train has images of one class only; a classifier tells at least two apart"])
    for split in SPLITS:
        here = {(label, attribute) for s, label, attribute in findings.counts if s == split}
        if not here:
            findings.warnings += ["no image in split test"] if split == "test" else []  # the others are problems
            continue
        labels, empty = {label for label, _ in here}, list[str]()
        for label, name in enumerate(info.class_names):
            if label not in labels:
                findings.warnings.append(f"{split}: no image of class {label} ({name})")
            words = enumerate(info.attribute_names)
            empty += [f"({name}, {word})" for attribute, word in words if (label, attribute) not in here]
        if len(empty) <= MAX_GAPS:
            findings.warnings += [f"{split}: the group {group} is empty" for group in empty]
        else:
            num_groups = len(info.class_names) * len(info.attribute_names)
            some = ", ".join(empty[:NUM_EXAMPLES])
            findings.warnings.append(f"{split}: {len(empty)} of {num_groups} groups are empty, such as {some}")


def _compare(findings: Findings, folder_name: str, expect: str | None) -> None:
    if expect is not None:
        findings.add(differences(KNOWN[expect], findings.counts))
        return
    name = known_name(folder_name)
    if name is not None:
        found = differences(KNOWN[name], findings.counts)
        findings.warnings += [f"{line} (compared because of the folder's name: {name})" for line in found]
