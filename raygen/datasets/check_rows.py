"""What one image's picture and object mask hold, for `raygen data check`."""

# H height, W width, C colour channels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raygen.datasets.copies import digest
from raygen.errors import RowError, UnclearMaskError
from raygen.images import decode_image, decode_mask

# Images that a warning of many names.
NUM_EXAMPLES = 5
# Who reads object masks: `raygen.maskers`, `raygen.fits.tokens`. `language` and `cam` only compare with them.
_NEEDED = (
    "these images cannot be repainted with synthesis.mask=truth or box, nor be learned from with "
    "textual_inversion.region=object; other settings do without their masks"
)


@dataclass
class RowFindings:
    """What a check found in one image.

    Attributes:
        image_id: Its id.
        digest: Of its file; see `raygen.datasets.copies`.
        problems: What is wrong with the picture, as in `Findings`.
        mask_problems: What is wrong with its object mask, likewise.
        one_colour: The picture's only colour, RGB; None where it has more.
        mask: "nothing" or "everything" where its object mask selects that, "unclear" where it does not say what it
            selects; else None.
        unclear: Why it does not.
    """

    image_id: str
    digest: bytes
    problems: list[str] = field(default_factory=list)
    mask_problems: list[str] = field(default_factory=list)
    one_colour: tuple[int, ...] | None = None
    mask: str | None = None
    unclear: str = ""


def check_row(row: Mapping[str, Any]) -> RowFindings:
    """Decodes the picture and the object mask of a SOURCE row."""
    image_id, found = row["image_id"], RowFindings(row["image_id"], digest(row["image_png"] or b""))
    image_HWC = None
    try:
        image_HWC = decode_image(row["image_png"] or b"")
        found.one_colour = _colour_of(image_HWC)
    except RowError as error:
        found.problems.append(f"{image_id}: {error}")
    if row["object_png"] is not None:
        try:
            mask_HW = decode_mask(row["object_png"])
            if image_HWC is not None and mask_HW.shape != image_HWC.shape[:2]:
                found.mask_problems.append(
                    f"{image_id}: the object mask is {mask_HW.shape}, the picture {image_HWC.shape[:2]}"
                )
            found.mask = "nothing" if not mask_HW.any() else "everything" if mask_HW.all() else None
        except UnclearMaskError as error:
            found.mask, found.unclear = "unclear", str(error)
        except RowError as error:
            found.mask_problems.append(f"{image_id}: object mask: {error}")
    return found


def _colour_of(image_HWC: np.ndarray) -> tuple[int, ...] | None:
    """The colour of a picture that has only one."""
    first = image_HWC[0, 0]
    return tuple(first.tolist()) if (image_HWC == first).all() else None


def picture_warnings(rows: Sequence[RowFindings], *, num_images: int, has_masks: bool = True) -> list[str]:
    """What is legal in pictures and masks, and probably not meant: one line of each kind, with its count and examples.

    Args:
        rows: Those that have such a thing, at least.
        num_images: Images that were looked at.
        has_masks: Whether masks are looked at too.
    """
    warnings = []
    flat = [row for row in rows if row.one_colour is not None]
    if flat:
        shown = [f"{row.image_id} {row.one_colour}" for row in flat]
        warnings.append(
            f"{len(flat)} of {num_images} pictures have one colour only: {_examples(shown)}; there is nothing to learn "
            "from them"
        )
    if not has_masks:
        return warnings
    masks = {kind: [row for row in rows if row.mask == kind] for kind in ("nothing", "everything", "unclear")}
    if empty := masks["nothing"]:
        warnings.append(
            f"{len(empty)} object masks select nothing, their brightest value is 0: "
            f"{_examples([row.image_id for row in empty])}; {_NEEDED}"
        )
    if unclear := masks["unclear"]:
        warnings.append(
            f"{len(unclear)} object masks do not say what they select: "
            f"{_examples([row.image_id for row in unclear])} ({unclear[0].unclear}); {_NEEDED}"
        )
    if full := masks["everything"]:
        warnings.append(
            f"{len(full)} object masks select everything: {_examples([row.image_id for row in full])}; with "
            "synthesis.mask=truth or box these images are repainted whole"
        )
    return warnings


def unusable_masks(rows: Sequence[RowFindings]) -> list[str]:
    """One line for each object mask that says nothing to a recipe that reads it."""
    reasons = {"nothing": "the object mask selects nothing", "unclear": "the object mask does not say what it selects"}
    return [
        f"{row.image_id}: {reasons[row.mask]}{f' ({row.unclear})' if row.unclear else ''}, and this recipe reads it"
        for row in rows
        if row.mask in reasons
    ]


def _examples(names: Sequence[str]) -> str:
    return ", ".join([*names[:NUM_EXAMPLES], *(["…"] if len(names) > NUM_EXAMPLES else [])])
