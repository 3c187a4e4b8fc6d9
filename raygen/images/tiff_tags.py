"""The first directory of a TIFF file, which EXIF is too: numbers out of it, and the file with fewer tags.

Pillow's own reader raises or warns where a tag is damaged, and takes all of them; here a tag that cannot be read is
none, and no other suffers from it.
"""

import re
import struct
from collections.abc import Collection
from dataclasses import dataclass

# TIFF's types that are numbers, as `struct` names them; rationals are pairs. Bytes are none to Pillow either.
_FORMATS = {3: "H", 4: "L", 5: "LL", 6: "b", 8: "h", 9: "l", 10: "ll", 11: "f", 12: "d", 16: "Q", 17: "q"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
# Of a longer list no number is wanted.
_MAX_COUNT = 64


@dataclass(frozen=True, slots=True)
class Tag:
    """An entry: type, number of values, where it stands, and where its values do."""

    type: int
    count: int
    entry: slice
    values: slice

    def raw(self, data: bytes) -> bytes:
        """The bytes of the values, as far as they are there."""
        return data[self.values]


@dataclass(frozen=True, slots=True)
class Directory:
    """The first directory of a file.

    Attributes:
        order: "<" or ">".
        is_big: BigTIFF.
        start: Where it begins, with the number of its entries.
        tags: The entries by tag.
    """

    order: str
    is_big: bool
    start: int
    tags: dict[int, Tag]

    def keep(self, data: bytes, wanted: Collection[int]) -> bytes:
        """The file with these tags alone, and no directory after the first."""
        kept = [data[tag.entry] for number, tag in self.tags.items() if number in wanted]
        count, end = ("Q", "Q") if self.is_big else ("H", "L")
        directory = struct.pack(self.order + count, len(kept)) + b"".join(kept) + struct.pack(self.order + end, 0)
        changed = bytearray(data)
        changed[self.start : self.start + len(directory)] = directory
        return bytes(changed)


def read_ifd(data: bytes) -> Directory | None:
    """The first directory; None where there is none, or where it goes beyond the end of the data."""
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    head, entry_size = (8, 20) if is_big else (2, 12)
    try:
        (start,) = struct.unpack_from(order + ("Q" if is_big else "L"), data, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, start)
    except (struct.error, OverflowError):
        return None
    tags: dict[int, Tag] = {}
    for i in range(min(count, (len(data) - start - head) // entry_size)):
        at = start + head + i * entry_size
        tag, kind, num = struct.unpack_from(order + ("HHQ" if is_big else "HHL"), data, at)
        place, width = (at + 12, 8) if is_big else (at + 8, 4)
        size = num * _SIZES.get(kind, 1)
        if size > width:
            (place,) = struct.unpack_from(order + ("Q" if is_big else "L"), data, place)
        tags[tag] = Tag(kind, num, slice(at, at + entry_size), slice(place, place + size))
    return Directory(order, is_big, start, tags)


def numbers(data: bytes, directory: Directory, tag: int) -> tuple[float, ...]:
    """The values of a tag; empty where it is absent, is no number, or cannot be read."""
    found = directory.tags.get(tag)
    if found is None or found.type not in _FORMATS or not 0 < found.count <= _MAX_COUNT:
        return ()
    raw = found.raw(data)
    form = _FORMATS[found.type]
    try:
        values = struct.unpack(directory.order + form * found.count, raw)
    except struct.error:
        return ()
    if len(form) == 2:
        return tuple(up / down if down else float("nan") for up, down in zip(values[::2], values[1::2], strict=True))
    return values


def orientation(data: bytes, directory: Directory | None, xmp: bytes) -> int:
    """1 to 8, as EXIF counts: the directory's, else that of XMP; 1 where there is none, or none that can be read."""
    if directory is not None and _ORIENTATION in directory.tags:
        found = numbers(data, directory, _ORIENTATION)
    else:
        match = _XMP_ORIENTATION.search(xmp)
        found = () if match is None else (float(match[1]),)
    return int(found[0]) if len(found) == 1 and found[0] in range(1, 9) else 1


def exif_orientation(exif: bytes, xmp: bytes) -> int:
    """As `orientation`, of EXIF as PNG, JPEG and WebP have it."""
    exif = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    return orientation(exif, read_ifd(exif) if exif[:2] in (b"II", b"MM") else None, xmp)
