"""Metadata never decides whether a picture is read; an orientation that can be read is applied."""

# H height, W width, C colour channels

import io
import struct
import time
import tracemalloc
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import raw_pictures
from edit_forms import chunk, encoded, picture, with_chunk
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from raw_pictures import TURNS, exif, jpeg_with, shorts, tiff, webp_with

from raygen.errors import RowError
from raygen.images import decode_image, decode_mask
from raygen.images.picture_files import read_file

HEIGHT, WIDTH = 24, 40
IMAGE_HWC = picture(0, HEIGHT, WIDTH)
PNG, WEBP = encoded(IMAGE_HWC), encoded(IMAGE_HWC, "WEBP", lossless=True)
JPEG = encoded(IMAGE_HWC, "JPEG")
BOMB = zlib.compress(bytes(80 << 20), 9)
ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def _no_warning_of_pillow() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def stored(jpeg: bytes = JPEG) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def with_exif(data: bytes) -> dict[str, tuple[bytes, np.ndarray]]:
    """Files that have this EXIF, and what is stored in them."""
    profile = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
    return {
        "png": (with_chunk(PNG, b"eXIf", data), IMAGE_HWC),
        "png, at its end": (PNG[:-12] + chunk(b"eXIf", data) + PNG[-12:], IMAGE_HWC),
        "png, as text": (with_chunk(PNG, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile)), IMAGE_HWC),
        "jpeg": (jpeg_with(JPEG, (0xE1, b"Exif\0\0" + data)), stored()),
        "webp": (webp_with(WEBP, WIDTH, HEIGHT, (b"EXIF", data, len(data))), IMAGE_HWC),
    }


ORDERS: tuple[raw_pictures.Order, ...] = ("<", ">")
EXIF = {
    **{
        f"{v} {order}": (exif((ORIENTATION, 3, 1, shorts(v, order=order)), order=order), v)
        for v in TURNS
        for order in ORDERS
    },
    **{f"invalid {v}": (exif((ORIENTATION, 3, 1, shorts(v))), 1) for v in (0, 9, 65535)},
    "long": (exif((ORIENTATION, 4, 1, struct.pack("<L", 6))), 6),
    "rational": (exif((ORIENTATION, 5, 1, struct.pack("<LL", 6, 1))), 6),
    "rational by zero": (exif((ORIENTATION, 5, 1, struct.pack("<LL", 6, 0))), 1),
    "text": (exif((ORIENTATION, 2, 2, b"6\0")), 1),
    "list": (exif((ORIENTATION, 3, 2, shorts(6, 6))), 1),
    "beside a value that cannot be written": (
        exif((256, 9, 1, struct.pack("<l", -5)), (ORIENTATION, 3, 1, shorts(6))),
        6,
    ),
    "beside a value beyond the end": (exif((271, 2, 2**32 - 1, bytes(5)), (ORIENTATION, 3, 1, shorts(8))), 8),
    "beside an unknown type": (exif((271, 99, 1, b"x"), (ORIENTATION, 3, 1, shorts(3))), 3),
    "beside a pointer to nowhere": (exif((ORIENTATION, 3, 1, shorts(3)), (0x8769, 4, 1, b"\xff\xff\xff\x7f")), 3),
    "cut off behind it": (exif((ORIENTATION, 3, 1, shorts(5)), (305, 2, 100, bytes(100)))[:30], 5),
    "of the other order": (b"MM" + exif((ORIENTATION, 3, 1, shorts(6)))[2:], 1),
    "empty": (b"", 1),
    "no EXIF": (b"notatiff", 1),
    "noise": (np.random.default_rng(0).bytes(500), 1),
}


@pytest.mark.parametrize(("data", "orientation"), EXIF.values(), ids=EXIF)
def test_exif(data: bytes, orientation: int) -> None:
    for name, (file, stored_HWC) in with_exif(data).items():
        np.testing.assert_array_equal(decode_image(file), TURNS[orientation](stored_HWC), err_msg=name)


@pytest.mark.parametrize("orientation", [*TURNS, 0, 9])
def test_orientation_of_xmp_where_exif_has_none(orientation: int) -> None:
    xmp = f'<rdf:Description tiff:Orientation="{orientation}"/>'.encode()
    turn = TURNS[orientation if orientation in TURNS else 1]
    files = [
        (with_chunk(PNG, b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp), IMAGE_HWC),
        (jpeg_with(JPEG, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp)), stored()),
        (webp_with(WEBP, WIDTH, HEIGHT, (b"XMP ", xmp, len(xmp))), IMAGE_HWC),
        (tiff(IMAGE_HWC, (700, 1, len(xmp), xmp)), IMAGE_HWC),
    ]
    for data, stored_HWC in files:
        np.testing.assert_array_equal(decode_image(data), turn(stored_HWC))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", TURNS)
def test_orientation_of_tiff(orientation: int, compression: str | None) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[ORIENTATION] = orientation
    data = encoded(IMAGE_HWC, "TIFF", tiffinfo=tags, compression=compression)
    np.testing.assert_array_equal(decode_image(data), TURNS[orientation](IMAGE_HWC))


PNG_CHUNKS = {
    "text that unpacks to 80 MiB": (b"zTXt", b"note\0\0" + BOMB),
    "international text that does": (b"iTXt", b"note\0\1\0\0\0" + BOMB),
    "XMP that does": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BOMB),
    "EXIF as text that does": (b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "profile that does": (b"iCCP", b"icc\0\0" + BOMB),
    "profile of an unknown kind": (b"iCCP", b"icc\0\5x"),
    "empty profile": (b"iCCP", b""),
    "text of 5 MiB": (b"tEXt", b"k\0" + bytes(5 << 20)),
    "text of an unknown kind": (b"zTXt", b"k\0\x09x"),
    "short gamma": (b"gAMA", b"\0"),
    "short resolution": (b"pHYs", b"\0"),
    "short chromaticities": (b"cHRM", bytes(3)),
    "short sRGB": (b"sRGB", b""),
    "short transparency": (b"tRNS", b"\0"),
    "no animation": (b"acTL", bytes(8)),
    "short animation": (b"acTL", b"\0"),
    "a frame without an animation": (b"fcTL", bytes(5)),
    "significant bits of another kind": (b"sBIT", b"\5\6\5\0\0"),
}


@pytest.mark.parametrize("name", PNG_CHUNKS)
def test_chunks_of_png(name: str) -> None:
    kind, body = PNG_CHUNKS[name]
    damaged = chunk(kind, body)[:-1] + b"\0"
    for new in (chunk(kind, body), damaged):
        for data in (PNG[:33] + new + PNG[33:], PNG[:-12] + new + PNG[-12:]):
            np.testing.assert_array_equal(decode_image(data), IMAGE_HWC)


def test_what_is_not_needed_is_not_unpacked() -> None:
    data = with_chunk(with_chunk(PNG, *PNG_CHUNKS["XMP that does"]), *PNG_CHUNKS["text that unpacks to 80 MiB"])
    tracemalloc.start()
    decode_image(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def test_many_texts_and_many_transparencies_cost_nothing() -> None:
    """Each text unpacks to 1 MiB, and a table of transparency stands there 20,000 times: 80 MiB and 21 s otherwise."""
    data, packed = PNG, zlib.compress(bytes(1 << 20), 9)
    texts = b"".join(chunk(b"zTXt", f"Comment{i}".encode() + b"\0\0" + packed) for i in range(80))
    tables = b"".join(chunk(b"tRNS", struct.pack(">3H", i % 7, i >> 8, i & 255)) for i in range(20_000))
    data = PNG[:33] + texts + tables + PNG[33:]
    tracemalloc.start()
    start_s = time.process_time()
    decode_image(data)
    assert time.process_time() - start_s < 10  # 0.3 s here
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 << 20


def test_an_animation_is_its_first_picture() -> None:
    frames = [Image.fromarray(picture(i, HEIGHT, WIDTH)) for i in range(3)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        np.testing.assert_array_equal(decode_image(data), np.asarray(frames[0]))


JPEG_SEGMENTS = {
    "short JFIF": (0xE0, b"JFIF\0"),
    "short Adobe": (0xEE, b"Adobe"),
    "cut off Photoshop": (0xED, b"Photoshop 3.0\x008BIM"),
    "short profile": (0xE2, b"ICC_PROFILE\0"),
    "part of a profile": (0xE2, b"ICC_PROFILE\0\1\2abc"),
    "pictures behind it that are none": (0xE2, b"MPF\0junk"),
    "a comment that looks like a picture": (0xFE, b"\xff\xd8\xff" * 100),
    "anything": (0xE5, bytes(60_000)),
}


@pytest.mark.parametrize("name", JPEG_SEGMENTS)
def test_segments_of_jpeg(name: str) -> None:
    np.testing.assert_array_equal(decode_image(jpeg_with(JPEG, *[JPEG_SEGMENTS[name]] * 3)), stored())


def test_the_colours_of_jpeg_are_told_by_a_segment_that_stays() -> None:
    """Adobe's: without it, components that are called 1, 2 and 3 are brightness and two colours, not RGB."""
    data = encoded(Image.fromarray(IMAGE_HWC), "JPEG", keep_rgb=True, quality=100, subsampling=0)
    assert data[2:4] == b"\xff\xee"
    for by_letter, by_number in (
        (b"R\x11\0G\x11\0B\x11\0", b"\1\x11\0\2\x11\0\3\x11\0"),
        (b"R\0G\0B\0", b"\1\0\2\0\3\0"),
    ):
        assert data.count(by_letter) == 1
        data = data.replace(by_letter, by_number)
    assert np.abs(decode_image(data).astype(int) - IMAGE_HWC).max() <= 4
    without = data[:2] + data[18:]
    assert np.abs(decode_image(without).astype(int) - IMAGE_HWC).max() > 50


@pytest.mark.parametrize(
    ("kind", "body", "length"),
    [(b"ICCP", b"junk", 4), (b"EXIF", b"abc", 9999), (b"XMP ", b"", 2**32 - 16), (b"abcd", b"x", 1)],
)
def test_chunks_of_webp(kind: bytes, body: bytes, length: int) -> None:
    np.testing.assert_array_equal(decode_image(webp_with(WEBP, WIDTH, HEIGHT, (kind, body, length))), IMAGE_HWC)


TIFF_TAGS = {
    "resolution that is text": (282, 2, 4, b"abc\0"),
    "resolution by zero": (282, 5, 1, bytes(8)),
    "unknown unit": (296, 3, 1, shorts(77)),
    "description beyond the end": (270, 2, 99_999, b"abcde"),
    "profile": (34675, 7, 50, b"x" * 50),
    "EXIF that is text": (34665, 2, 2, b"ab"),
    "place of the camera that is the picture": (34853, 4, 1, b"\3\0\0\0"),
    "XMP of no text": (700, 1, 5, b"\xff" * 5),
    "orientation that is text": (ORIENTATION, 2, 2, b"6\0"),
    "a directory that is its own child": (330, 4, 1, b"\x08\0\0\0"),
    "unknown type": (65000, 99, 5, b"x"),
}


@pytest.mark.parametrize("name", TIFF_TAGS)
def test_tags_of_tiff(name: str) -> None:
    np.testing.assert_array_equal(decode_image(tiff(IMAGE_HWC, TIFF_TAGS[name])), IMAGE_HWC)


GIF_BLOCKS = {
    "a program's block without an end": b"!\xff\x0bNETSCAPE2.0\0",
    "an empty one": b"!\xff\0",
    "a comment": b"!\xfe\3abc\0",
    "a short control block": b"!\xf9\1\0\0",
    "an empty one of control": b"!\xf9\0",
    "an unknown one": b"!\xaa\2ab\0",
}


@pytest.mark.parametrize("name", GIF_BLOCKS)
def test_blocks_of_gif(name: str) -> None:
    data = encoded(Image.fromarray(IMAGE_HWC).quantize(16), "GIF")
    at = 13 + 6 * 2 ** (data[10] & 7)
    np.testing.assert_array_equal(decode_image(data[:at] + GIF_BLOCKS[name] + data[at:]), decode_image(data))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_bytes_behind_the_picture(kind: str) -> None:
    data = encoded(IMAGE_HWC, kind)
    np.testing.assert_array_equal(decode_image(data + b"junk" * 100), stored(data))


@pytest.mark.parametrize("data", [PNG, JPEG, WEBP, with_exif(b"junk")["jpeg"][0], with_exif(b"junk")["webp"][0]])
def test_missing_pixels_are_still_refused(data: bytes) -> None:
    with pytest.raises(RowError, match=r"damaged or cut off|not a picture"):
        decode_image(data[: len(data) // 2])


def test_pixels_are_not_looked_for_in_metadata() -> None:
    """A chunk before the pixels whose length leads beyond the end: where they are, nobody knows."""
    with pytest.raises(RowError, match="not a picture"):
        decode_image(PNG[:33] + b"\x7f\xff\xff\xfftEXt" + PNG[33:])
    np.testing.assert_array_equal(decode_image(PNG[:-12] + b"\x7f\xff\xff\xfftEXtab"), IMAGE_HWC)


@pytest.mark.parametrize("orientation", TURNS)
def test_avif_is_turned_as_pillow_does_and_its_exif_never_decides(orientation: int) -> None:
    """AVIF tells how it is turned outside EXIF (libavif writes it so), and Pillow parses EXIF as it opens the file."""
    tags = Image.Exif()
    tags[ORIENTATION], tags[0x010E] = orientation, "a description"
    data = encoded(IMAGE_HWC, "AVIF", exif=tags)
    shown_HWC = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert shown_HWC.shape[:2] == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    damaged = data.replace(b"MM\0*", b"junk")
    with pytest.raises((ValueError, UnidentifiedImageError), match=r"Exif|identify"):
        Image.open(io.BytesIO(damaged))
    for file in (data, damaged):
        np.testing.assert_array_equal(decode_image(file), shown_HWC)


def test_transparency_of_a_lossy_webp_stays() -> None:
    alpha_HW = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha_HW[:8] = 0
    data = encoded(np.dstack([IMAGE_HWC, alpha_HW]), "WEBP", quality=80)
    assert b"ALPH" in data
    assert not decode_image(data)[:8].any()  # over black
    assert decode_image(data)[8:].any()
    np.testing.assert_array_equal(decode_mask(data), alpha_HW > 0)


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_orientation_of_a_big_tiff(orientation: int) -> None:
    data = encoded(IMAGE_HWC, "TIFF", big_tiff=True, tiffinfo={ORIENTATION: orientation})
    assert data[2] == 43
    np.testing.assert_array_equal(decode_image(data), TURNS[orientation](IMAGE_HWC))


def test_segments_of_jpeg_with_padding_between() -> None:
    """Any number of 0xFF bytes may stand before a marker (ITU T.81, B.1.1.2)."""
    data = jpeg_with(JPEG, (0xE1, b"Exif\0\0" + exif((ORIENTATION, 3, 1, shorts(6)))))
    padded = data[:2] + b"\xff\xff\xff" + data[2:]
    np.testing.assert_array_equal(decode_image(padded), TURNS[6](stored()))


@pytest.mark.parametrize("is_apart", [False, True])
def test_frames_of_an_animated_png(is_apart: bool) -> None:
    """A first picture that is no frame of the animation is one more, as Pillow counts."""
    frames = [Image.fromarray(picture(i, HEIGHT, WIDTH)) for i in range(3)]
    data = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=is_apart)
    assert read_file(data).num_frames == getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
