"""Reading every picture and label of a dataset, to find what a run would stumble over."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from raygen.datasets.folder import FolderConfig, write_folder
from raygen.datasets.table import DatasetInfo, read_info
from raygen.errors import RowError
from raygen.images import decode_image, decode_mask

MAX_LINES = 20


@dataclass
class Findings:
    """What a check found.

    Attributes:
        counts: Images per (split, label, attribute).
        problems: One line per wrong picture or mask.
        warnings: What is legal and probably not meant.
    """

    counts: Counter[tuple[str, int, int | None]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def num_errors(self) -> int:
        """How many pictures or masks are wrong."""
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


def check_dataset(path: Path) -> Findings:
    """Reads a dataset in any layout of `raygen.datasets.folder` and decodes every picture and mask.

    Raises:
        DataError: The folder as a whole cannot be used: absent, empty, unknown layout, wrong columns or labels.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_folder(FolderConfig(path=path), folder)
        findings = Findings()
        # Pillow decodes outside Python's lock, so threads are enough.
        with ThreadPoolExecutor() as pool:
            for shard in sorted(folder.glob("part-*.parquet")):
                for batch in pq.ParquetFile(shard).iter_batches(256):
                    rows = batch.to_pylist()
                    findings.counts.update((row["split"], row["label"], row["attribute"]) for row in rows)
                    for problem in pool.map(_check_row, rows):
                        findings.problems += problem
        _warn_of_gaps(findings, read_info(folder))
    return findings


def _check_row(row: dict[str, object]) -> Sequence[str]:
    problems = []
    shape = None
    try:
        data = row["image_png"]
        assert isinstance(data, bytes)
        shape = decode_image(data).shape[:2]
    except RowError as error:
        problems.append(f"{row['image_id']}: {error}")
    if isinstance(row["object_png"], bytes):
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
    for split in ("train", "val", "test"):
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
