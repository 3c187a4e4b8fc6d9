import contextlib
import io
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageChops

from raygen import images
from raygen.errors import RowError
from raygen.images import decode_image, decode_mask, encode_image, encode_mask, resize_image, resize_mask


def picture(height: int = 12, width: int = 17) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def test_png_round_trip_is_exact() -> None:
    image_HWC = picture()
    mask_HW = image_HWC[..., 0] > 128
    np.testing.assert_array_equal(decode_image(encode_image(image_HWC)), image_HWC)
    for same in (mask_HW, mask_HW.astype(np.uint8) * 255, mask_HW.astype(float)):
        np.testing.assert_array_equal(decode_mask(encode_mask(same)), mask_HW)


def test_text_chunks_keep_any_letters() -> None:
    data = encode_image(picture(), text={"prompt": "ein Vögelchen \N{BIRD}", "synthetic": "true"})
    opened: Any = Image.open(io.BytesIO(data))
    assert opened.text == {"prompt": "ein Vögelchen \N{BIRD}", "synthetic": "true"}


def test_mask_threshold_is_128() -> None:
    grey = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    assert decode_mask(encoded(Image.fromarray(grey))).tolist() == [[False, False, True, True]]


def test_sixteen_bits_are_scaled_not_cut() -> None:
    grey = np.array([[0, 300, 32767, 32768, 65535]], dtype=np.uint16)
    data = encoded(Image.fromarray(grey))
    assert decode_image(data)[0, :, 0].tolist() == [0, 1, 127, 128, 255]
    assert decode_mask(data).tolist() == [[False, False, False, True, True]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    source = Image.fromarray(picture()).convert(mode)
    file_format = "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode_image(encoded(source, file_format))
    np.testing.assert_array_equal(decoded, np.asarray(source.convert("RGB")))
    assert decoded.dtype == np.uint8


def test_transparency_lies_over_black() -> None:
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, (0, 51, 255)
    # 51 / 255 is a fifth.
    assert decode_image(encoded(Image.fromarray(rgba)))[0, :, 0].tolist() == [0, 40, 200]
    grey_alpha = Image.fromarray(np.array([[[90, 0], [90, 255]]], dtype=np.uint8), mode="LA")
    assert decode_image(encoded(grey_alpha))[0].tolist() == [[0, 0, 0], [90, 90, 90]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([250, 0, 0, 0, 250, 0])
    palette.putpixel((1, 0), 1)
    assert decode_image(encoded(palette, transparency=0))[0].tolist() == [[0, 0, 0], [0, 250, 0]]


def test_exif_orientation_is_applied() -> None:
    image_HWC = picture(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(image_HWC), exif=exif)), np.rot90(image_HWC, -1))


@pytest.mark.parametrize("data", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_other_bytes_are_refused(data: bytes) -> None:
    for decode in (decode_image, decode_mask):
        with pytest.raises(RowError, match="not a picture"):
            decode(data)


def test_eps_never_reaches_ghostscript() -> None:
    data = encoded(Image.fromarray(picture()), "EPS")
    with pytest.raises(RowError, match="not a picture"):
        decode_image(data)


def test_cut_off_picture_is_refused() -> None:
    for file_format in ("PNG", "JPEG"):
        data = encoded(Image.fromarray(picture(64, 64)), file_format)
        with pytest.raises(RowError, match=r"damaged or cut off|not a picture"):
            decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_every_format_is_read(file_format: str) -> None:
    image = Image.new("RGB", (20, 10), (250, 120, 10))
    decoded = decode_image(encoded(image, file_format))
    assert decoded.shape == (10, 20, 3)
    # JPEG and WebP move colours by a few steps.
    assert np.abs(decoded.astype(int) - (250, 120, 10)).max() <= 4


@pytest.mark.parametrize("file_format", images.FORMATS)
def test_flipped_bytes_give_a_picture_or_a_row_error(file_format: str) -> None:
    """A damaged file must fail one row, never the actor."""
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(picture(16, 16)), file_format)
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            damaged[place] = rng.integers(0, 256)
        for decode in (decode_image, decode_mask):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(RowError):
                    assert decode(bytes(damaged)).shape[0] > 0


def test_too_large_picture_is_refused_before_it_is_decoded() -> None:
    assert images.MAX_PIXELS < 8001 * 8000
    with pytest.raises(RowError, match="8001 x 8000"):
        decode_image(encoded(Image.new("1", (8001, 8000))))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "PPM"])
def test_what_is_too_large_is_said(file_format: str) -> None:
    """Of most the size is in the first bytes; Pillow would allocate WebP's canvas to look at it."""
    image = Image.new("RGB" if file_format == "WEBP" else "1", (13_000, 5_000))
    data = encoded(image.resize((1, 1)), file_format)
    if file_format == "WEBP":
        canvas = bytes(4) + (12_999).to_bytes(3, "little") + (4_999).to_bytes(3, "little")
        body = b"WEBPVP8X" + (10).to_bytes(4, "little") + canvas + data[12:]
        data = b"RIFF" + len(body).to_bytes(4, "little") + body
    elif file_format == "JPEG":
        at = data.index(b"\xff\xc0") + 5
        data = data[:at] + (5_000).to_bytes(2, "big") + (13_000).to_bytes(2, "big") + data[at + 4 :]
    else:
        data = encoded(image, file_format)
    with pytest.raises(RowError, match="13000 x 5000, more than the 64,000,000 pixels"):
        decode_image(data)


def test_decompression_bomb_is_a_row_error() -> None:
    """13,500 x 13,500 pixels of one colour are some kB on disk; Pillow warns, or errs where warnings are errors."""
    data = encoded(Image.new("1", (13_500, 13_500)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RowError, match="13500 x 13500"):
            decode_image(data)
        with pytest.raises(RowError, match="182,250,000, more than the 64,000,000 pixels"):
            decode_image(encoded(Image.new("1", (13_500, 13_500)), "PPM"))


def test_resizing_to_the_same_size_changes_nothing() -> None:
    image_HWC = picture()
    assert resize_image(image_HWC, height=12, width=17) is image_HWC
    mask_HW = image_HWC[..., 0] > 128
    assert resize_mask(mask_HW, height=12, width=17) is mask_HW


def test_mask_is_enlarged_by_whole_pixels() -> None:
    mask_HW = np.array([[True, False], [False, True]])
    expected = np.kron(mask_HW, np.ones((3, 5), dtype=bool))
    np.testing.assert_array_equal(resize_mask(mask_HW, height=6, width=10), expected)


def test_height_and_width_are_not_swapped() -> None:
    assert resize_image(picture(), height=5, width=9).shape == (5, 9, 3)
    assert resize_mask(np.ones((3, 4), dtype=bool), height=5, width=9).shape == (5, 9)


def test_flat_picture_stays_flat() -> None:
    image_HWC = np.full((30, 20, 3), 77, dtype=np.uint8)
    resized = Image.fromarray(resize_image(image_HWC, height=13, width=41))
    assert ImageChops.difference(resized, Image.new("RGB", (41, 13), (77, 77, 77))).getbbox() is None
