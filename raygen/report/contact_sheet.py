"""A dataset's pictures by group, on one self-contained page or in one PNG: what the labels and the cue look like.

In a PNG titles are in ASCII, without accents, for the font that Pillow brings has no more; a page has them whole.
"""

# H height, W width

import base64
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from raygen.datasets.entries import Entry, Listing
from raygen.datasets.files import printable
from raygen.datasets.references import with_files
from raygen.errors import ConfigError, DataError, RowError
from raygen.images import decode_image
from raygen.report.html import render
from raygen.schema import SPLITS
from raygen.storage.writing import write_bytes, write_text

# Longer side of a picture, and what is around it, px.
TILE_PX, GAP_PX, TITLE_PX = 96, 6, 22
# Pictures of a group on one sheet, and groups.
PER_GROUP, MAX_GROUPS = 12, 100
_WHITE, _BLACK, _RED = (255, 255, 255), (0, 0, 0), (178, 24, 43)


@dataclass(frozen=True)
class GroupSheet:
    """Some pictures of one group.

    Attributes:
        title: The group's class, attribute and number of images.
        tiles: Name and picture of each, or what is wrong with it.
    """

    title: str
    tiles: list[tuple[str, Image.Image | str]]


def write_contact_sheet(listing: Listing, out: Path, *, split: str = "train", per_group: int = PER_GROUP) -> int:
    """Writes `out`, an .html page or a .png; gives back the number of groups on it.

    Args:
        listing: The dataset.
        out: The file.
        split: Which of its splits.
        per_group: Most pictures of a group: evenly spaced in the order of their ids.

    Raises:
        ConfigError: Another suffix.
        DataError: No image in that split.
    """
    if out.suffix.casefold() not in (".html", ".png"):
        raise ConfigError(f"--out {out}: a contact sheet is an .html page or a .png picture")
    if split not in SPLITS:
        raise ConfigError(f"--split {split}: expected {', '.join(SPLITS)}")
    sheets = group_sheets(listing, split=split, per_group=per_group)
    title = f"{listing.info.name}: {split}"
    if out.suffix.casefold() == ".png":
        write_bytes(out, _png(_drawn(title, sheets)))
    else:
        write_text(out, render("contact_sheet.html.j2", {"title": title, "groups": [_of_page(s) for s in sheets]}))
    return len(sheets)


def group_sheets(listing: Listing, *, split: str, per_group: int) -> list[GroupSheet]:
    """Some pictures of each group of a split, in order of label and attribute.

    Raises:
        DataError: No image in that split.
    """
    groups: dict[tuple[int, int], list[Entry]] = defaultdict(list)
    for entry in listing.entries:
        if entry.split == split:
            groups[entry.label, -1 if entry.attribute is None else entry.attribute].append(entry)
    if not groups:
        there = ", ".join(sorted({entry.split for entry in listing.entries})) or "none"
        raise DataError(f"no image in split {split}; splits with images: {there}")
    chosen = {group: _spread(groups[group], per_group) for group in sorted(groups)[:MAX_GROUPS]}
    ids = sorted((entry for entries in chosen.values() for entry in entries), key=lambda entry: entry.image_id)
    shown = replace(listing, entries=ids)
    tiles = {row["image_id"]: _tile(row["image_png"] or b"") for row in with_files(shown.rows(), listing.unread)}
    return [
        GroupSheet(_title(listing, group, len(groups[group])), [(e.image_id, tiles[e.image_id]) for e in entries])
        for group, entries in chosen.items()
    ]


def _spread(entries: list[Entry], most: int) -> list[Entry]:
    if len(entries) <= most:
        return entries
    return [entries[i * len(entries) // most] for i in range(most)]


def _title(listing: Listing, group: tuple[int, int], count: int) -> str:
    label, attribute = group
    words = [listing.info.class_names[label]] + ([] if attribute < 0 else [listing.info.attribute_names[attribute]])
    return f"{', '.join(words)}: {count:,} images"


def _tile(data: bytes) -> Image.Image | str:
    try:
        image = Image.fromarray(decode_image(data))
    except RowError as error:
        return str(error)
    image.thumbnail((TILE_PX, TILE_PX))
    return image


def _of_page(sheet: GroupSheet) -> dict[str, Any]:
    def source(tile: Image.Image | str) -> str | None:
        return None if isinstance(tile, str) else "data:image/png;base64," + base64.b64encode(_png(tile)).decode()

    return {
        "title": sheet.title,
        "tiles": [
            {"name": printable(name), "source": source(tile), "problem": tile if isinstance(tile, str) else None}
            for name, tile in sheet.tiles
        ],
    }


def _drawn(title: str, sheets: list[GroupSheet]) -> Image.Image:
    """One picture: a title, and a row of tiles with its title for each group."""
    columns, row_px = max(len(sheet.tiles) for sheet in sheets), TITLE_PX + TILE_PX + GAP_PX
    width = max(GAP_PX + columns * (TILE_PX + GAP_PX), 400)
    page = Image.new("RGB", (width, TITLE_PX + GAP_PX + row_px * len(sheets)), _WHITE)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    draw.text((GAP_PX, GAP_PX // 2), _letters(title), fill=_BLACK, font=font)
    for number, sheet in enumerate(sheets):
        top = TITLE_PX + GAP_PX + number * row_px
        draw.text((GAP_PX, top), _letters(sheet.title), fill=_BLACK, font=font)
        for place, (_, tile) in enumerate(sheet.tiles):
            left = GAP_PX + place * (TILE_PX + GAP_PX)
            if isinstance(tile, str):
                box = (left, top + TITLE_PX, left + TILE_PX - 1, top + TITLE_PX + TILE_PX - 1)
                draw.rectangle(box, outline=_RED)
                draw.line(box, fill=_RED)
            else:
                page.paste(tile, (left, top + TITLE_PX))
    return page


def _letters(text: str) -> str:
    """Text in what the font that comes with Pillow has: letters without accents, a question mark for others."""
    parts = (letter for letter in unicodedata.normalize("NFKD", printable(text)) if not unicodedata.combining(letter))
    return "".join(letter if letter.isascii() else "?" for letter in parts)


def _png(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
