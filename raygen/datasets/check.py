"""Reading every picture and label of a dataset, to find what a run would stumble over."""

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raygen.datasets.folder import FolderConfig, open_folder
from raygen.datasets.known import KNOWN, differences, known_name
from raygen.datasets.table import DatasetInfo, picture_bytes
from raygen.errors import ConfigError, RowError
from raygen.images import decode_image, decode_mask
from raygen.schema import SPLITS, by_bytes

MAX_LINES = 20
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
    """

    counts: Counter[tuple[str, int, int | None]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """How many problems there are."""
        return len(self.problems)

    def lines(self) -> list[str]:
        """The findings as text, at most MAX_LINES problems."""
        lines = [
            f"{split}: label {label}, attribute {'-' if attribute is None else attribute}: {n} images"
            for (split, label, attribute), n in sorted(self.counts.items(), key=str)
        ]
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"error: {text}" for text in self.problems[:MAX_LINES]]
        if self.num_errors > MAX_LINES:
            lines.append(f"... and {self.num_errors - MAX_LINES} more")
        return [
            *lines,
            f"{sum(self.counts.values())} images, {self.num_errors} errors, {len(self.warnings)} warnings",
        ]


def check_dataset(
    path: Path, *, expect: str | None = None, progress: Callable[[int, int], Any] = lambda done, total: None
) -> Findings:
    """Reads a dataset in any layout of `raygen.datasets.folder` and decodes every picture and mask.

    Args:
        path: The folder.
        expect: A published dataset whose numbers of images it must have (`KNOWN`); by default, a folder whose name
            holds the name of one is compared with it, and differences are warnings.
        progress: Called now and then with the number of images read and of all of them.

    Raises:
        ConfigError: `expect` is not known.
        DataError: The folder as a whole cannot be used: absent, empty, of an unknown layout, without a column.
    """
    if expect is not None and expect not in KNOWN:
        raise ConfigError(f"--expect {expect}: not a known dataset; known: {', '.join(KNOWN)}")
    listing = open_folder(FolderConfig(path=path))
    findings = Findings(problems=list(listing.problems))
    findings.counts.update((entry.split, entry.label, entry.attribute) for entry in listing.entries)
    done = 0
    # Pillow decodes outside Python's lock, so threads are enough.
    with ThreadPoolExecutor() as pool:
        for rows in by_bytes(listing.rows(), picture_bytes, most=CHUNK, most_bytes=CHUNK_BYTES):
            for problems in pool.map(_check_row, rows):
                findings.problems += problems
            done += len(rows)
            progress(done, len(listing.entries))
    _warn_of_gaps(findings, listing.info)
    _compare(findings, path, expect)
    return findings


def _check_row(row: Mapping[str, Any]) -> list[str]:
    problems = []
    shape = None
    try:
        shape = decode_image(row["image_png"] or b"").shape[:2]
    except RowError as error:
        problems.append(f"{row['image_id']}: {error}")
    if row["object_png"] is not None:
        try:
            mask_HW = decode_mask(row["object_png"])
            if shape is not None and mask_HW.shape != shape:
                problems.append(f"{row['image_id']}: the object mask is {mask_HW.shape}, the picture {shape}")
            elif not mask_HW.any():
                problems.append(f"{row['image_id']}: the object mask selects no pixel")
        except RowError as error:
            problems.append(f"{row['image_id']}: object mask: {error}")
    return problems


def _warn_of_gaps(findings: Findings, info: DatasetInfo) -> None:
    for split in SPLITS:
        here = {(label, attribute) for s, label, attribute in findings.counts if s == split}
        if not here:
            findings.warnings.append(f"no image in split {split}")
            continue
        for label, name in enumerate(info.class_names):
            if label not in {found for found, _ in here}:
                findings.warnings.append(f"{split}: no image of class {label} ({name})")
            for attribute, word in enumerate(info.attribute_names):
                if (label, attribute) not in here:
                    findings.warnings.append(f"{split}: the group ({name}, {word}) is empty")


def _compare(findings: Findings, path: Path, expect: str | None) -> None:
    if expect is not None:
        findings.problems += differences(KNOWN[expect], findings.counts)
        return
    name = known_name(path.resolve().name)
    if name is not None:
        found = differences(KNOWN[name], findings.counts)
        findings.warnings += [f"{line} (compared because of the folder's name: {name})" for line in found]
