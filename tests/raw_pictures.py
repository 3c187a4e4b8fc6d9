"""Picture files written byte by byte: what Pillow does not write, and metadata that nobody should."""

# H height, W width, C colour channels

import struct
import zlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from edit_forms import chunk

Order = Literal["<", ">"]
Entry = tuple[int, int, int, bytes]
# The table of the EXIF standard: where row 0 and column 0 of the file are.
TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


def exif(*entries: Entry, order: Order = "<") -> bytes:
    """A TIFF header and directory of (tag, type, count, bytes of the value)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LH", 8, len(entries))
    end, extra = len(head) + 12 * len(entries) + 4, b""
    for tag, kind, count, raw in entries:
        value = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "L", end + len(extra))
        extra += raw if len(raw) > 4 else b""
        head += struct.pack(order + "HHL", tag, kind, count) + value
    return head + bytes(4) + extra


def shorts(*values: int, order: Order = "<") -> bytes:
    return struct.pack(f"{order}{len(values)}H", *values)


def tiff(
    samples: np.ndarray,
    *more: Entry,
    order: Order = "<",
    photometric: int | None = None,
    planes: bool = False,
) -> bytes:
    """An uncompressed TIFF of any numbers, (H, W) or (H, W, C); `more` are further tags."""
    height, width, colours = samples.shape if samples.ndim == 3 else (*samples.shape, 1)
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    photometric = (2 if colours >= 3 else 1) if photometric is None else photometric
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]

    def entry(tag: int, *values: int) -> Entry:
        return tag, 3, len(values), shorts(*values, order=order)

    entries = [entry(256, width), entry(257, height), entry(258, *[samples.dtype.itemsize * 8] * colours)]
    entries += [entry(259, 1), entry(262, photometric), (273, 4, 1, bytes(4)), entry(277, colours), entry(278, height)]
    entries += [(279, 4, 1, struct.pack(order + "L", len(pixels))), entry(284, 1 + planes)]
    entries += [entry(339, *[kind] * colours), *more]
    entries.sort(key=lambda entry: entry[0])
    start = len(exif(*entries, order=order))
    placed = [(*e[:3], struct.pack(order + "L", start)) if e[0] == 273 else e for e in entries]
    return exif(*placed, order=order) + pixels


def png16(samples: np.ndarray, *chunks: bytes) -> bytes:
    """A PNG of 16 bits: grey (H, W), grey and alpha, RGB or RGBA (H, W, C)."""
    samples = samples[..., None] if samples.ndim == 2 else samples
    height, width, colours = samples.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[colours]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")])


def jpeg_with(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with segments (marker, bytes) more at its start."""
    new = [b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments]
    return jpeg[:2] + b"".join(new) + jpeg[2:]


def webp_with(webp: bytes, width: int, height: int, *chunks: tuple[bytes, bytes, int]) -> bytes:
    """A WebP with chunks (kind, bytes, stated length) more at its end."""
    canvas = bytes([0x2C, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + webp[12:]
    for kind, data, length in chunks:
        body += kind + struct.pack("<I", length) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body
