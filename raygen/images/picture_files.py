"""Picture files without what is no pixel: metadata never decides whether a picture is read.

Pillow reads text, profiles and EXIF while it opens a file, and raises where they are damaged or large, though the
pixels are whole. So they are taken out before: PNG chunks, JPEG segments, WebP chunks, TIFF tags and GIF blocks that
no decoder needs. Of them only the orientation is used, and what tells the range of the samples. Nothing here raises
for a damaged file: what cannot be followed is left as it is, for the decoder to judge.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from raygen.images.tiff_tags import exif_orientation, numbers, orientation, read_ifd

# Of a text that may hold an orientation no more is unpacked: chunks of some kB can hold gigabytes.
_MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file as a decoder gets it, and what it says of itself.

    Attributes:
        data: The file without its metadata.
        kind: PNG, JPEG, WEBP, TIFF, GIF or AVIF; "" for all others, which are left as they are.
        orientation: 1 to 8, as EXIF counts: how to turn the stored picture for a viewer; AVIF's is told by a decoder.
        size: Width and height, where the header tells them without a decoder.
        num_frames: Pictures of an animation.
        is_cut: The file ends before its pixels do; False where only a decoder can tell.
        is_lossy: The pixels have not exactly the values that were saved.
        bits: Bits of a sample; None where only a decoder can tell.
        sample_format: TIFF's: 1 whole numbers, 2 whole numbers with a sign, 3 floating point.
        significant_bits: PNG's sBIT, where all colours have the same.
        lowest, highest: Range of the samples, where the file states it.
        white_is_zero: The lowest value is white.
    """

    data: bytes
    kind: str = ""
    orientation: int = 1
    size: tuple[int, int] | None = None
    num_frames: int = 1
    is_cut: bool = False
    is_lossy: bool = False
    bits: int | None = None
    sample_format: int = 1
    significant_bits: int | None = None
    lowest: float | None = None
    highest: float | None = None
    white_is_zero: bool = False


def read_file(data: bytes) -> PictureFile:
    """The file without metadata; what it is, its bytes tell, never its name."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _png(data)
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    if data[:2] in (b"II", b"MM") and 42 <= max(data[2:4], default=0) <= 43:
        return _tiff(data)
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) > 13:
        return _gif(data)
    return _avif(data) if data[4:12] in (b"ftypavif", b"ftypavis") else PictureFile(data)


# --- PNG: chunks of length, kind, bytes and checksum

_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt"}
# Texts that may hold an orientation.
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"


class _Chunk(NamedTuple):
    kind: bytes
    body: bytes
    whole: bytes


def _png(data: bytes) -> PictureFile:
    chunks = [*_png_chunks(data)]
    header = next((chunk.body for chunk in chunks if chunk.kind == b"IHDR" and len(chunk.body) == 13), None)
    # As libpng does: what is not needed and damaged is left out, transparency of the wrong length too.
    whole = [chunk for chunk in chunks if chunk.kind not in _PIXEL_CHUNKS and chunk.kind and _is_whole(chunk)]
    lengths = {0: [2], 2: [6], 3: range(1, 257)}.get(-1 if header is None else header[9], [])
    transparency = next((c for c in whole if c.kind == b"tRNS" and len(c.body) in lengths), None)
    kept = [c.whole for c in chunks if c.kind in _PIXEL_CHUNKS or not c.kind or c is transparency]
    said = {chunk.kind: chunk.body for chunk in whole}
    texts = _png_texts(chunk for chunk in whole if chunk.kind in _TEXT_CHUNKS)
    bits = {*said.get(b"sBIT", b"")[:3]}
    return PictureFile(
        data=data[:8] + b"".join(kept),
        kind="PNG",
        orientation=exif_orientation(
            said.get(b"eXIf") or _hexadecimal(texts.get(_EXIF_TEXT, b"")),
            texts.get(_XMP_TEXT, b""),
        ),
        size=None if header is None else struct.unpack(">II", header[:8]),
        num_frames=_num_frames(chunks, said.get(b"acTL", b"")),
        bits=None if header is None else header[8],
        significant_bits=bits.pop() if len(bits) == 1 else None,
    )


def _num_frames(chunks: list[_Chunk], animation: bytes) -> int:
    kinds = [chunk.kind for chunk in chunks]
    early = kinds[: kinds.index(b"IDAT")] if b"IDAT" in kinds else []
    if b"acTL" not in early or (num := int.from_bytes(animation[:4], "big")) == 0:
        return 1
    # Without a frame's header before it, the first picture is one more: for those who know of no animation.
    return num + (b"fcTL" not in early)


def _hexadecimal(profile: bytes) -> bytes:
    """ImageMagick's way to keep EXIF: three lines of heading, then the digits."""
    try:
        return bytes.fromhex(b"".join(profile.split(b"\n")[3:]).decode("latin-1"))
    except ValueError:
        return b""


def _png_chunks(data: bytes) -> Iterator[_Chunk]:
    """The chunks; what cannot be followed, up to the pixels, comes last with no kind."""
    at, has_pixels = 8, False
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if not kind.isalpha() or (end > len(data) and kind not in _PIXEL_CHUNKS):
            if not has_pixels:
                yield _Chunk(b"", b"", data[at:])
            return
        yield _Chunk(kind, data[at + 8 : end - 4], data[at:end])
        has_pixels |= kind == b"IDAT"
        at = end


def _is_whole(chunk: _Chunk) -> bool:
    return zlib.crc32(chunk.whole[4:-4]) == int.from_bytes(chunk.whole[-4:], "big")


def _png_texts(chunks: Iterable[_Chunk]) -> dict[bytes, bytes]:
    """The first text of each key that may hold an orientation; no other is unpacked, however many there are."""
    texts: dict[bytes, bytes] = {}
    for chunk in chunks:
        key = chunk.body[: len(_EXIF_TEXT) + 1].partition(b"\0")[0]
        if key in {_EXIF_TEXT, _XMP_TEXT} and key not in texts:
            texts[key] = _png_text(chunk)
    return texts


def _png_text(chunk: _Chunk) -> bytes:
    _, _, value = chunk.body.partition(b"\0")
    is_packed = chunk.kind == b"zTXt"
    if chunk.kind == b"iTXt":
        is_packed = value[:1] == b"\1"
        value = value[2:].split(b"\0", 2)[-1]
    elif is_packed:
        value = value[1:]
    if is_packed:
        try:
            value = zlib.decompressobj().decompress(value, _MAX_TEXT_BYTES)
        except zlib.error:
            value = b""
    return value


# --- JPEG: segments of marker, length and bytes, up to the first scan


def _jpeg(data: bytes) -> PictureFile:
    kept, exif, xmp, size = [data[:2]], b"", b"", None
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA or marker < 0xC0 or 0xD0 <= marker <= 0xD9 or not at + 4 <= end <= len(data):
            break
        body = data[at + 4 : end]
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif += body[6:]
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC} and len(body) >= 5:
            height, width = struct.unpack_from(">HH", body, 1)
            size = (width, height)
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            xmp = body
        # These two say what the colours are, to libjpeg too, which asks them for so many bytes.
        is_jfif = marker == 0xE0 and body.startswith(b"JFIF\0") and len(body) >= 14
        is_adobe = marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12
        if is_jfif or is_adobe or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[at:end])
        at = end
    kept.append(data[at:])
    return PictureFile(b"".join(kept), "JPEG", exif_orientation(exif, xmp), size, is_lossy=True)


# --- WebP: chunks of kind, length and bytes, padded to even length

_WEBP_CHUNKS = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"}


def _webp(data: bytes) -> PictureFile:
    kept: list[bytes] = []
    said: dict[bytes, bytes] = {}
    num_frames, is_cut = 0, False
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        said.setdefault(kind, data[at + 8 : at + 8 + length])
        if kind in _WEBP_CHUNKS:
            is_cut |= at + 8 + length > len(data)
            num_frames += kind == b"ANMF"
            body = data[at:end]
            if kind == b"VP8X" and length >= 10:  # without the bits of profile, EXIF and XMP
                body = body[:8] + bytes([body[8] & 0b11010011]) + body[9:]
            kept.append(body)
        at = end
    whole = b"".join([b"WEBP", *kept])
    return PictureFile(
        data=b"RIFF" + struct.pack("<I", len(whole)) + whole if kept else data,
        kind="WEBP",
        orientation=exif_orientation(said.get(b"EXIF", b""), said.get(b"XMP ", b"")),
        size=_webp_size(said),
        num_frames=max(1, num_frames),
        is_cut=is_cut,
        is_lossy=b"VP8L" not in said,
    )


def _webp_size(said: dict[bytes, bytes]) -> tuple[int, int] | None:
    """Pillow allocates the canvas while it opens the file."""
    if len(canvas := said.get(b"VP8X", b"")) >= 10:
        return int.from_bytes(canvas[4:7], "little") + 1, int.from_bytes(canvas[7:10], "little") + 1
    if len(lossless := said.get(b"VP8L", b"")) >= 5:
        packed = int.from_bytes(lossless[1:5], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if len(lossy := said.get(b"VP8 ", b"")) >= 10:
        width, height = struct.unpack_from("<HH", lossy, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


# --- TIFF: a directory of tags

# What libtiff and Pillow need to find and unpack the pixels.
_PIXEL_TAGS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339),
    *(347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532, 0xBC01, 50674),
}


def _tiff(data: bytes) -> PictureFile:
    directory = read_ifd(data)
    if directory is None:
        return PictureFile(data, "TIFF")
    tags = directory.tags

    def number(tag: int) -> float | None:
        found = numbers(data, directory, tag)
        return found[0] if found and len({*found}) == 1 else None

    xmp = tags[700].raw(data) if 700 in tags else b""
    width, height, bits, sample_format = number(256), number(257), number(258), number(339)
    return PictureFile(
        data=directory.keep(data, _PIXEL_TAGS),
        kind="TIFF",
        orientation=orientation(data, directory, xmp),
        size=None if width is None or height is None or not width < 2**32 > height else (int(width), int(height)),
        bits=int(bits) if bits is not None and bits in range(1, 65) else None,
        sample_format=int(sample_format) if sample_format is not None and sample_format in range(1, 7) else 1,
        lowest=number(340),
        highest=number(341),
        white_is_zero=number(262) == 0,
    )


# --- GIF: a header, and blocks of which those before the first picture may be comments or a program's own


def _gif(data: bytes) -> PictureFile:
    at = 13 + (6 << (data[10] & 7) if data[10] & 0x80 else 0)
    kept = [data[:at]]
    while data[at : at + 1] == b"!":
        end = at + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        end += 1
        if end > len(data):
            break
        if data[at + 1] == 0xF9 and data[at + 2] == 4:  # which colour is transparent
            kept.append(data[at:end])
        at = end
    return PictureFile(b"".join([*kept, data[at:]]), "GIF")


# --- AVIF: boxes of length, kind and content; what is not pixels are items, each with its kind, in the box "meta"


def _avif(data: bytes) -> PictureFile:
    at = 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"meta":
            # An item of a kind that nobody knows is left out by every decoder. How the picture is turned is not in it.
            meta = data[at : at + length].replace(b"Exif", b"free")
            return PictureFile(data[:at] + meta + data[at + length :], "AVIF")
        if length < 8:  # to the end, or of more than 4 GiB
            break
        at += length
    return PictureFile(data, "AVIF")
