"""Reading every picture and label of a dataset, to find what a run would stumble over."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from raygen.datasets.folder import FolderConfig, open_folder
from raygen.datasets.known import KNOWN, differences, known_name
from raygen.datasets.table import DatasetInfo
from raygen.errors import ConfigError, RowError, UnclearMaskError
from raygen.images import decode_image, decode_mask
from raygen.schema import SPLITS

MAX_LINES = 20
# Pictures in memory at a time.
CHUNK = 256
# Images that a warning of many names.
NUM_EXAMPLES = 5
# Who reads object masks: `raygen.maskers`, `raygen.token_fits`. `language` and `cam` only compare with them.
_NEEDED = (
    "these images cannot be repainted with synthesis.mask=truth or box, nor be learned from with "
    "textual_inversion.region=object; other settings do without their masks"
)


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


@dataclass
class RowFindings:
    """What a check found in one image.

    Attributes:
        image_id: Its id.
        problems: As in `Findings`.
        one_colour: The picture's only colour, RGB; None where it has more.
        mask: "nothing" or "everything" where its object mask selects that, "unclear" where it does not say what it
            selects; else None.
        unclear: Why it does not.
    """

    image_id: str
    problems: list[str] = field(default_factory=list)
    one_colour: tuple[int, ...] | None = None
    mask: str | None = None
    unclear: str = ""


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
    done, odd = 0, list[RowFindings]()
    # Pillow decodes outside Python's lock, so threads are enough.
    with ThreadPoolExecutor() as pool:
        for rows in _chunks(listing.rows()):
            for found in pool.map(_check_row, rows):
                findings.problems += found.problems
                odd += [found] if found.mask is not None or found.one_colour is not None else []
            done += len(rows)
            progress(done, len(listing.entries))
    _warn_of_pictures(findings, odd, done)
    _warn_of_gaps(findings, listing.info)
    _compare(findings, path, expect)
    return findings


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _check_row(row: Mapping[str, Any]) -> RowFindings:
    image_id, found = row["image_id"], RowFindings(row["image_id"])
    image_HWC = None
    try:
        image_HWC = decode_image(row["image_png"] or b"")
        found.one_colour = colour_of(image_HWC)
    except RowError as error:
        found.problems.append(f"{image_id}: {error}")
    if row["object_png"] is not None:
        try:
            mask_HW = decode_mask(row["object_png"])
            if image_HWC is not None and mask_HW.shape != image_HWC.shape[:2]:
                found.problems.append(
                    f"{image_id}: the object mask is {mask_HW.shape}, the picture {image_HWC.shape[:2]}"
                )
            found.mask = "nothing" if not mask_HW.any() else "everything" if mask_HW.all() else None
        except UnclearMaskError as error:
            found.mask, found.unclear = "unclear", str(error)
        except RowError as error:
            found.problems.append(f"{image_id}: object mask: {error}")
    return found


def colour_of(image_HWC: np.ndarray) -> tuple[int, ...] | None:
    """The colour of a picture that has only one."""
    first = image_HWC[0, 0]
    return tuple(first.tolist()) if (image_HWC == first).all() else None


def _warn_of_pictures(findings: Findings, rows: Sequence[RowFindings], num_images: int) -> None:
    """What is legal in a picture or mask, and probably not meant: counts and examples, one line of each kind."""
    flat = [row for row in rows if row.one_colour is not None]
    if flat:
        shown = [f"{row.image_id} {row.one_colour}" for row in flat]
        findings.warnings.append(
            f"{len(flat)} of {num_images} pictures have one colour only: {_examples(shown)}; there is nothing to learn "
            "from them"
        )
    masks = {kind: [row for row in rows if row.mask == kind] for kind in ("nothing", "everything", "unclear")}
    if empty := masks["nothing"]:
        findings.warnings.append(
            f"{len(empty)} object masks select nothing, their brightest value is 0: "
            f"{_examples([row.image_id for row in empty])}; {_NEEDED}"
        )
    if unclear := masks["unclear"]:
        findings.warnings.append(
            f"{len(unclear)} object masks do not say what they select: "
            f"{_examples([row.image_id for row in unclear])} ({unclear[0].unclear}); {_NEEDED}"
        )
    if full := masks["everything"]:
        findings.warnings.append(
            f"{len(full)} object masks select everything: {_examples([row.image_id for row in full])}; with "
            "synthesis.mask=truth or box these images are repainted whole"
        )


def _examples(names: Sequence[str]) -> str:
    return ", ".join([*names[:NUM_EXAMPLES], *(["…"] if len(names) > NUM_EXAMPLES else [])])


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
