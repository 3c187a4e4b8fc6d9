"""Reading every picture and label of a dataset, to find what a run would stumble over."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from raygen.config import Strict, apply_overrides, validate
from raygen.datasets import DatasetConfig, folder_config, open_dataset
from raygen.datasets.addresses import place_of
from raygen.datasets.check_rows import NUM_EXAMPLES, RowFindings, check_row, picture_warnings
from raygen.datasets.entries import READ_BYTES, Listing
from raygen.datasets.files import printable
from raygen.datasets.folder import OpenFolder
from raygen.datasets.known import KNOWN, differences, known_name
from raygen.datasets.references import NUM_REQUESTS, read_references, why_unread
from raygen.datasets.table import DatasetInfo, picture_bytes
from raygen.errors import ConfigError, DataError
from raygen.schema import SPLITS, by_bytes

MAX_LINES = 20
MAX_WARNINGS = 100
# Empty groups of a split that are named one by one.
MAX_GAPS = 8
# Pictures in memory at a time, and their bytes.
CHUNK = 256
CHUNK_BYTES = 512 << 20


@dataclass
class Findings:
    """What a check found.

    Attributes:
        counts: Images per (split, label, attribute).
        problems: One line per image that a run could not use, or not wholly.
        warnings: What is legal and probably not meant.
        notes: What labels mean, where names come from, what was left out as ever.
    """

    counts: Counter[tuple[str, int, int | None]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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


def check_dataset(
    path: Path | str,
    *,
    expect: str | None = None,
    overrides: Sequence[str] = (),
    progress: Callable[[int, int], Any] = lambda done, total: None,
    chunk_bytes: int = CHUNK_BYTES,
) -> Findings:
    """Reads a dataset in a folder, in any layout, and decodes every picture and mask.

    Args:
        path: The folder: a path, or a URL.
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
    name, listing = _listed(path, overrides)
    findings = Findings(problems=list(listing.problems), warnings=list(listing.warnings))
    findings.notes = [*_labels(listing), *listing.notes]
    if listing.info.has_numbered_classes:
        line = f"the classes have numbers only; recipes that paint would ask for '{listing.info.prompts[0]}', which no "
        line += "model knows. Set dataset.class_names in the order of the labels"
        # A table has numbers as a rule; a folder may have words, and they are other words than its own.
        (findings.warnings if listing.class_folders else findings.notes).append(line)
    findings.counts.update(listing.counts())
    done, odd = 0, list[RowFindings]()
    # Pillow decodes outside Python's lock, so threads are enough.
    with ThreadPoolExecutor() as pool:
        whole = _with_files(listing.rows(read_bytes=min(chunk_bytes, READ_BYTES)), listing)
        for rows in by_bytes(whole, picture_bytes, most=CHUNK, most_bytes=chunk_bytes):
            readable = [row for row in rows if row["image_id"] not in listing.unread]
            for found in pool.map(check_row, readable):
                findings.problems += found.problems
                odd += [found] if found.mask is not None or found.one_colour is not None else []
            done += len(rows)
            progress(done, len(listing.entries))
    findings.warnings += picture_warnings(odd, num_images=done)
    findings.problems += listing.missing_splits()
    findings.problems += [f"{image_id}: {reason}" for image_id, reason in listing.unread.items()]
    _warn_of_gaps(findings, listing.info)
    # A published layout is compared by its loader.
    _compare(findings, place_of(path).name if name == "folder" else "", expect)
    return findings


def _listed(path: Path | str, overrides: Sequence[str]) -> tuple[str, Listing]:
    """Name of the dataset's layout, and what the folder holds."""

    class Wrapped(Strict):
        dataset: DatasetConfig

    data = apply_overrides(folder_config(str(path)), overrides) | {"path": path}
    config = validate(Wrapped, {"dataset": data}, where="dataset").dataset
    opened = open_dataset(config)
    if not isinstance(opened, OpenFolder):
        raise DataError(f"dataset.name={config.name} is no folder of pictures; there is nothing to check")
    return config.name, opened.listing


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


def _with_files(rows: Iterable[dict[str, Any]], listing: Listing) -> Iterator[dict[str, Any]]:
    """The rows with their pictures' bytes where these are in files that they name; remote files several at a time."""
    waiting = iter(rows)
    while some := list(islice(waiting, NUM_REQUESTS)):
        named = [row for row in some if row["image_png"] is None and row.get("path")]
        for row, found in zip(named, read_references([row["path"] for row in named]), strict=True):
            if isinstance(found, OSError):
                listing.unread[row["image_id"]] = why_unread(row["path"], found)
            else:
                row["image_png"] = found
        yield from some


def _warn_of_gaps(findings: Findings, info: DatasetInfo) -> None:
    if not findings.problems and len({label for split, label, _ in findings.counts if split == "train"}) == 1:
        findings.problems.append("train has images of one class only; a classifier tells at least two apart")
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
        findings.problems += differences(KNOWN[expect], findings.counts)
        return
    name = known_name(folder_name)
    if name is not None:
        found = differences(KNOWN[name], findings.counts)
        findings.warnings += [f"{line} (compared because of the folder's name: {name})" for line in found]
