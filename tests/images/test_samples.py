"""Samples of more than 8 bits: scaled by the range that is known, or refused with it; never black without a word."""

# H height, W width, C colour channels

import base64
import io
import re
import struct
from typing import Any

import numpy as np
import pytest
from edit_forms import chunk, encoded
from PIL import Image
from raw_pictures import png16, shorts, tiff

from raygen.errors import RowError
from raygen.images import decode_image

HEIGHT, WIDTH = 12, 32
# 0 to 1 and, of other heights, 0 to 65535, every picture of them has its range's both ends.
SHARE_HW = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
FULL_HW = np.rint(SHARE_HW * 65535).astype(np.uint16)
FULL_HWC = np.dstack([FULL_HW, FULL_HW[::-1], FULL_HW[:, ::-1]])
SMAX = 341


def grey(values_HW: np.ndarray) -> np.ndarray:
    return np.repeat(values_HW[..., None], 3, axis=2)


def test_sixteen_bits_are_cut_to_their_upper_eight() -> None:
    files = [png16(FULL_HW), tiff(FULL_HW), tiff(FULL_HW, order=">"), encoded(FULL_HW, "PPM")]
    files += [tiff(FULL_HW.astype(np.int32)), encoded(FULL_HW, "TIFF", compression="tiff_lzw")]
    for data in files:
        np.testing.assert_array_equal(decode_image(data), grey(FULL_HW >> 8))
    for data in (png16(FULL_HWC), tiff(FULL_HWC), tiff(FULL_HWC, order=">")):
        np.testing.assert_array_equal(decode_image(data), FULL_HWC >> 8)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_in_sixteen_are_refused_with_what_they_are(bits: int) -> None:
    spare = 16 - bits
    few_HW, few_HWC = FULL_HW >> spare, FULL_HWC >> spare
    files = [
        png16(few_HW),
        png16(few_HWC),
        tiff(few_HW),
        tiff(few_HW, order=">"),
        tiff(few_HWC),
        encoded(few_HW, "PPM"),
    ]
    files += [tiff(few_HW.astype(np.int32)), encoded(few_HW, "TIFF", compression="tiff_lzw")]
    files += [png16(np.dstack([colours, np.full_like(few_HW, 65535)])) for colours in (few_HW, few_HWC)]
    for data in files:
        with pytest.raises(RowError, match=rf"values go from 0 to {2**bits - 1}, far below 65535.*SMaxSampleValue"):
            decode_image(data)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_are_scaled_where_the_file_states_them(bits: int) -> None:
    few_HW, few_HWC = FULL_HW >> (16 - bits), FULL_HWC >> (16 - bits)
    highest = (SMAX, 3, 1, shorts(2**bits - 1))
    np.testing.assert_array_equal(decode_image(tiff(few_HW, highest)), grey(FULL_HW >> 8))
    np.testing.assert_array_equal(decode_image(tiff(few_HWC, highest)), FULL_HWC >> 8)
    few_bits = chunk(b"sBIT", bytes([bits] * 3))
    np.testing.assert_array_equal(decode_image(png16(few_HW, few_bits)), grey(FULL_HW >> 8))
    np.testing.assert_array_equal(decode_image(png16(few_HWC, few_bits)), FULL_HWC >> 8)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_significant_bits_at_the_top_are_no_smaller_range(bits: int) -> None:
    """As the PNG standard wants them: a dark picture of them is dark."""
    spare = 16 - bits
    top_HW = (FULL_HW >> spare) // 8
    zeros_HW, copies_HW = top_HW << spare, np.rint(top_HW * (65535 / (2**bits - 1))).astype(np.uint16)
    for values_HW in (zeros_HW, copies_HW) if bits == 8 else (zeros_HW,):
        decoded = decode_image(png16(values_HW, chunk(b"sBIT", bytes([bits]))))
        np.testing.assert_array_equal(decoded, grey(values_HW >> 8))


@pytest.mark.parametrize("highest", [4095, 1023])
def test_the_highest_value_of_a_pgm_is_in_its_header(highest: int) -> None:
    values_HW = np.rint(SHARE_HW * highest).astype(np.uint16)
    for magic, body in (
        (b"P5", values_HW.astype(">u2").tobytes()),
        (b"P2", " ".join(map(str, values_HW.ravel().tolist())).encode()),
    ):
        decoded = decode_image(magic + f"\n{WIDTH} {HEIGHT}\n{highest}\n".encode() + body)
        np.testing.assert_array_equal(decoded, grey(np.rint(values_HW / highest * 65535).astype(int) >> 8))


def test_a_dark_pgm_is_dark() -> None:
    values_HW = np.rint(SHARE_HW * 400).astype(np.uint16)
    decoded = decode_image(f"P5\n{WIDTH} {HEIGHT}\n4095\n".encode() + values_HW.astype(">u2").tobytes())
    np.testing.assert_array_equal(decoded, grey(np.rint(values_HW / 4095 * 65535).astype(int) >> 8))


def test_a_dark_picture_of_sixteen_bits_says_so_and_is_dark() -> None:
    dark_HW = FULL_HW // 16
    np.testing.assert_array_equal(decode_image(png16(dark_HW, chunk(b"sBIT", b"\x10"))), grey(dark_HW >> 8))
    np.testing.assert_array_equal(decode_image(tiff(dark_HW, (SMAX, 3, 1, shorts(65535)))), grey(dark_HW >> 8))


@pytest.mark.parametrize("extreme", [3000, 4000])
def test_a_pictures_own_extreme_is_no_range(extreme: int) -> None:
    """Scaled by it, a dark picture would be as bright as its neighbours; one that is lower than a value is wrong."""
    few_HW = (SHARE_HW * 3500).astype(np.uint16)
    with pytest.raises(RowError, match="from 0 to 3500, far below 65535"):
        decode_image(tiff(few_HW, (SMAX, 3, 1, shorts(extreme))))


def test_a_range_that_the_values_do_not_keep_to_is_not_believed() -> None:
    for data in (tiff(FULL_HW, (SMAX, 3, 1, shorts(255))), png16(FULL_HW, chunk(b"sBIT", b"\x08"))):
        np.testing.assert_array_equal(decode_image(data), grey(FULL_HW >> 8))


def test_black_is_black() -> None:
    black_HW = np.zeros_like(FULL_HW)
    opaque_HW = np.full_like(FULL_HW, 65535)
    for data in (
        png16(black_HW),
        tiff(black_HW),
        png16(np.dstack([black_HW] * 3)),
        png16(np.dstack([black_HW, opaque_HW])),
    ):
        assert decode_image(data).max() == 0


def test_transparency_of_sixteen_bits_lies_over_black() -> None:
    alpha_HW = np.where(np.arange(WIDTH) < 5, 0, 65535).astype(np.uint16) + np.zeros_like(FULL_HW)
    decoded = decode_image(png16(np.dstack([FULL_HWC, alpha_HW])))
    np.testing.assert_array_equal(decoded, np.where(np.arange(WIDTH)[None, :, None] < 5, 0, FULL_HWC >> 8))


@pytest.mark.parametrize("kind", ["TIFF", "TIFF, other order", "PFM", "TIFF, packed"])
@pytest.mark.parametrize("highest", [1, 255])
def test_floats_of_the_two_usual_ranges(kind: str, highest: int) -> None:
    values_HW = (SHARE_HW * highest).astype(np.float32)
    data = {
        "TIFF": lambda: tiff(values_HW),
        "TIFF, other order": lambda: tiff(values_HW, order=">"),
        "PFM": lambda: encoded(Image.fromarray(values_HW), "PPM"),
        "TIFF, packed": lambda: encoded(Image.fromarray(values_HW), "TIFF", compression="tiff_adobe_deflate"),
    }[kind]()
    # Of 0 to 255 the fraction is cut off, as Pillow does; of 0 to 1 there is nothing else that it could mean.
    expected_HW = np.rint(SHARE_HW * 255) if highest == 1 else values_HW.astype(np.uint8)
    np.testing.assert_array_equal(decode_image(data), grey(expected_HW))


def test_a_dark_float_picture_is_dark() -> None:
    values_HW = (SHARE_HW * 0.1).astype(np.float32)
    np.testing.assert_array_equal(decode_image(tiff(values_HW)), grey(np.rint(values_HW * 255)))


def test_rounding_beyond_the_ends_is_cut_off() -> None:
    values_HW = (SHARE_HW * 1.000001 - 5e-7).astype(np.float32)
    np.testing.assert_array_equal(decode_image(tiff(values_HW)), grey(np.rint(values_HW.clip(0, 1) * 255)))


@pytest.mark.parametrize(
    ("values_HW", "reason"),
    [
        (SHARE_HW * 1.3, "from 0 to 1.3"),
        (SHARE_HW * 2 - 1, "from -1 to 1"),
        (SHARE_HW * 40, "from 0 to 40"),
        (SHARE_HW * 4095, "from 0 to 4095"),
        (np.where(SHARE_HW > 0.5, np.nan, SHARE_HW), "not finite"),
        (np.where(SHARE_HW > 0.5, np.inf, SHARE_HW), "not finite"),
        (np.where(SHARE_HW > 0.5, -np.inf, SHARE_HW), "not finite"),
    ],
)
def test_other_floats_are_refused_with_their_range(values_HW: np.ndarray, reason: str) -> None:
    with pytest.raises(RowError, match=re.escape(reason)):
        decode_image(tiff(values_HW.astype(np.float32)))


def test_floats_whose_range_is_stated() -> None:
    values_HW = (SHARE_HW * 4095).astype(np.float32)
    highest = (SMAX, 11, 1, struct.pack("<f", 4095))
    np.testing.assert_array_equal(decode_image(tiff(values_HW, highest)), grey(np.rint(values_HW * (255 / 4095))))


@pytest.mark.parametrize("values_HW", [FULL_HW.astype(np.int32) - 1000, (FULL_HW // 2).astype(np.int16) - np.int16(9)])
def test_negative_values_are_refused(values_HW: np.ndarray) -> None:
    with pytest.raises(RowError, match=rf"from {values_HW.min()} to {values_HW.max()}; a picture's start at 0"):
        decode_image(tiff(values_HW))


def test_values_above_sixteen_bits_are_refused() -> None:
    with pytest.raises(RowError, match="from 0 to 655350, above 65535"):
        decode_image(tiff(FULL_HW.astype(np.int32) * 10))


def test_samples_with_a_sign_are_the_positive_half_of_their_type() -> None:
    np.testing.assert_array_equal(decode_image(tiff((FULL_HW >> 1).astype(np.int16))), grey(FULL_HW >> 8))


def test_white_is_zero_in_every_kind() -> None:
    for values_HW, expected_HW in (
        ((FULL_HW >> 8).astype(np.uint8), FULL_HW >> 8),
        (FULL_HW, FULL_HW >> 8),
        (SHARE_HW.astype(np.float32), np.rint(SHARE_HW * 255)),
    ):
        np.testing.assert_array_equal(decode_image(tiff(values_HW, photometric=0)), grey(255 - expected_HW))


def test_planes_of_sixteen_bits_are_refused() -> None:
    """Pillow 13 takes their bytes for samples, and gives noise."""
    with pytest.raises(RowError, match="planes of 16 bits"):
        decode_image(tiff(FULL_HWC, planes=True))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_samples_that_pillow_cannot_read_are_named(dtype: type) -> None:
    with pytest.raises(RowError, match=rf"a TIFF of {np.dtype(dtype).itemsize * 8}-bit floating-point samples"):
        decode_image(tiff(SHARE_HW.astype(dtype)))


# 32 x 32, colours of 0 to 3,000 in 16 bits, written by OpenCV (OpenJPEG): Pillow writes no colours of 16 bits.
DARK_JPEG2000 = base64.b64decode(
    "AAAADGpQICANCocKAAAAFGZ0eXBqcDIgAAAAAGpwMiAAAAAtanAyaAAAABZpaGRyAAAAIAAAACAAAw8HAAAAAAAPY29scgEAAAAA"
    "ABAAAAGaanAyY/9P/1EALwAAAAAAIAAAACAAAAAAAAAAAAAAACAAAAAgAAAAAAAAAAAAAw8BAQ8BAQ8BAf9SAAwAAAABAAUEBAAB"
    "/1wAE0CAiIiQiIiQiIiQiIiQiIiQ/2QAJQABQ3JlYXRlZCBieSBPcGVuSlBFRyB2ZXJzaW9uIDIuNS4z/5AACgAAAAABEwAB/5PP"
    "/CgMCd07z/woDAnUb8/8KAwJ1G+AwP4AwASQf6B/AGAEkH+AwH8A4A0ByD7PHBugP4BwCz1mdt7G54DAP1EgEWIrReEyGzQeJ1vx"
    "4gLAnpQFoB+ooBKBEe1Kity0pOc5zn++lLRtK0qPgMA/UtAXKYyn2Fn8DH++IgAAAwjRo2pJb6lqA/Ctuvm+97vm+b5vnAMQWfss"
    "MWt183+gH6lgDCJluY1/twVeGthIAABhFfO9m7bGL5jvefXwAZMrk/S4lDkoP50H/Pr4AL+AwB+QuCFsFU4JTvfbQkgAAMJB2LXC"
    "Qf8vMJCXoA/IZADUukpFEzyYmBAAAAADCQamkwkH9V2EhL//2Q=="
)


def test_colours_of_jpeg_2000_that_are_far_below_their_depth_are_refused() -> None:
    """Pillow gives their upper eight bits: a black picture."""
    bands: Any = Image.open(io.BytesIO(DARK_JPEG2000)).getextrema()
    assert max(high for _, high in bands) < 16
    with pytest.raises(RowError, match=r"values go up to about [23]\d\d\d, far below 65535"):
        decode_image(DARK_JPEG2000)
    # Of eight bits, every value is meant.
    dark_HWC = np.full((32, 32, 3), 10, np.uint8)
    np.testing.assert_array_equal(decode_image(encoded(dark_HWC, "JPEG2000")), dark_HWC)


def test_colours_of_a_pixmap_that_are_far_below_their_range_are_refused() -> None:
    dark_HWC = np.full((4, 4, 3), 3000, ">u2")
    with pytest.raises(RowError, match=r"values go from 30\d\d to 30\d\d, far below 65535"):
        decode_image(b"P6 4 4 65535\n" + dark_HWC.tobytes())
    stated_HWC = decode_image(b"P6 4 4 4095\n" + dark_HWC.tobytes())
    assert stated_HWC.min() == stated_HWC.max()
    assert abs(int(stated_HWC.max()) - 3000 * 255 / 4095) <= 1
