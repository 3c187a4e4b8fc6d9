"""Masks in every form that means one thing only; the others are refused with what they hold."""

# H height, W width

import io
from typing import Any

import numpy as np
import pytest
from edit_forms import encoded, hole
from PIL import Image, ImageFilter
from raw_pictures import TURNS, png16, tiff

from raygen.errors import UnclearMaskError
from raygen.images import decode_mask

MASK_HW = hole(48, 64)
ONES_HW = MASK_HW.astype(np.uint8)
NOISE_HWC = np.random.default_rng(0).integers(256, size=(48, 64, 3), dtype=np.uint8)
WHITE_HWC = np.full((48, 64, 3), 255, dtype=np.uint8)


def palette(indices_HW: np.ndarray, *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices_HW.astype(np.uint8), mode="P")
    image.putpalette([value for colour in colours for value in colour])
    return image


def voc(indices_HW: np.ndarray) -> Image.Image:
    """With the palette of Pascal VOC: bit b of an index goes, by turns of red, green and blue, to bit 7 - b // 3."""
    colours = [
        tuple(sum(((index >> (3 * b + channel)) & 1) << (7 - b) for b in range(3)) for channel in range(3))
        for index in range(256)
    ]
    assert colours[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert colours[255] == (224, 224, 192)
    return palette(indices_HW, *colours)  # type: ignore[arg-type]


def cut_out(colours_HWC: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
    return np.dstack([colours_HWC, alpha_HW])


CUT_OUTS: dict[str, Any] = {
    "white": encoded(cut_out(WHITE_HWC, ONES_HW * 255)),
    "black": encoded(cut_out(WHITE_HWC * 0, ONES_HW * 255)),
    "a photo": encoded(cut_out(NOISE_HWC, ONES_HW * 255)),
    "alpha of 0 and 1": encoded(cut_out(WHITE_HWC, ONES_HW)),
    "WebP": encoded(cut_out(WHITE_HWC, ONES_HW * 255), "WEBP", lossless=True, exact=True),
    "TIFF": encoded(cut_out(WHITE_HWC, ONES_HW * 255), "TIFF"),
    "grey": encoded(np.dstack([ONES_HW * 0 + 255, ONES_HW * 255])),
    "16 bits": png16(cut_out(WHITE_HWC.astype(np.uint16) * 257, ONES_HW.astype(np.uint16) * 65535)),
    "palette, one colour transparent": encoded(palette(ONES_HW, (255,) * 3, (255,) * 3), transparency=0),
    "palette, alpha of each colour": encoded(palette(ONES_HW, (255,) * 3, (255,) * 3), transparency=b"\x05\xfa"),
    "GIF": encoded(palette(ONES_HW, (255,) * 3, (255,) * 3), "GIF", transparency=0),
}


@pytest.mark.parametrize("name", CUT_OUTS)
def test_the_object_of_a_cut_out_is_what_is_opaque(name: str) -> None:
    np.testing.assert_array_equal(decode_mask(CUT_OUTS[name]), MASK_HW)


def test_alpha_that_tells_nothing_apart_is_not_looked_at() -> None:
    for alpha in (0, 10, 200, 255):
        data = encoded(cut_out(np.repeat(ONES_HW[..., None] * 255, 3, axis=2), np.full_like(ONES_HW, alpha)))
        np.testing.assert_array_equal(decode_mask(data), MASK_HW)


def test_a_mask_of_black_and_white_with_empty_corners() -> None:
    alpha_HW = np.full_like(ONES_HW, 255)
    alpha_HW[:5] = 0
    data = encoded(cut_out(np.repeat(ONES_HW[..., None] * 255, 3, axis=2), alpha_HW))
    np.testing.assert_array_equal(decode_mask(data), MASK_HW)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("tones", [(0, 255), (1, 254)])
def test_a_mask_that_was_turned_is_no_cut_out(mode: str, tones: tuple[int, int]) -> None:
    """Turning adds empty corners and soft edges: what is opaque is nearly everything, what is white the object."""
    mask = Image.new("L", (64, 64), tones[0])
    mask.paste(tones[1], (20, 20, 44, 40))
    turned = mask.convert(mode).rotate(15, resample=Image.Resampling.BILINEAR)
    expected_HW = np.asarray(mask.rotate(15, resample=Image.Resampling.BILINEAR)) >= 128
    out = io.BytesIO()
    turned.save(out, "PNG")
    assert (decode_mask(out.getvalue()) != expected_HW).mean() < 0.01  # the edge of the corners may differ
    # A grey object is a cut-out: it has few pure tones.
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    alpha_HW = np.where(expected_HW, 255, 0).astype(np.uint8)
    np.testing.assert_array_equal(decode_mask(encoded(np.dstack([grey] * 3 + [alpha_HW]))), expected_HW)


TWO_VALUES: dict[str, Any] = {
    **{f"0 and {value}": encoded(ONES_HW * value) for value in (1, 2, 100, 127, 128, 255)},
    **{f"16 bits, 0 and {value}": png16(ONES_HW.astype(np.uint16) * value) for value in (1, 255, 4095, 65535)},
    **{
        f"{name} of 16 bits, 0 and {value}": png16(np.dstack(planes).astype(np.uint16))
        for value in (1, 255, 4095)
        for name, planes in {
            "colours": [ONES_HW.astype(int) * value] * 3,
            "red": [ONES_HW.astype(int) * value, ONES_HW * 0, ONES_HW * 0],
            "colours and alpha": [*[ONES_HW.astype(int) * value] * 3, ONES_HW.astype(int) * 0 + value],
            "grey and alpha": [ONES_HW.astype(int) * value, ONES_HW.astype(int) * 0 + 65535],
        }.items()
    },
    **{f"32 bits, 0 and {value}": tiff(ONES_HW.astype(np.int32) * value) for value in (1, 255)},
    **{f"float, 0 and {value}": tiff(ONES_HW.astype(np.float32) * value) for value in (1, 255)},
    "one bit": encoded(Image.fromarray(MASK_HW)),
    "one class of VOC": encoded(voc(ONES_HW * 15)),
    "another": encoded(voc(ONES_HW * 8)),
    "16 bits, white is zero": tiff((1 - ONES_HW.astype(np.uint16)) * 65535, photometric=0),
}


@pytest.mark.parametrize("name", TWO_VALUES)
def test_two_values_of_which_one_is_0(name: str) -> None:
    np.testing.assert_array_equal(decode_mask(TWO_VALUES[name]), MASK_HW)


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (255, 0, 255), (128, 0, 0), (0, 255, 0), (255, 255, 0)])
def test_one_colour_on_black(colour: tuple[int, int, int]) -> None:
    image = Image.fromarray(ONES_HW[..., None] * np.array(colour, dtype=np.uint8))
    np.testing.assert_array_equal(decode_mask(encoded(image)), MASK_HW)
    np.testing.assert_array_equal(decode_mask(encoded(palette(ONES_HW, (0, 0, 0), colour), "GIF")), MASK_HW)
    soft = image.resize((128, 96), Image.Resampling.BICUBIC).resize((64, 48), Image.Resampling.BICUBIC)
    for data in (encoded(image, "JPEG", subsampling=0), encoded(soft)):
        # All but some pixels of the edge.
        assert (decode_mask(data) != MASK_HW).sum() <= 40


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_noise_of_compression(kind: str, quality: int) -> None:
    data = encoded(ONES_HW * 255, kind, quality=quality)
    assert (decode_mask(data) != MASK_HW).sum() <= 40
    if kind == "JPEG":  # WebP's can leave 0, 1 and 255 and nothing else, as a class and what to ignore
        assert (decode_mask(encoded(Image.open(io.BytesIO(data)))) != MASK_HW).sum() <= 40


def test_soft_edges_are_cut_at_half() -> None:
    soft_HW = np.asarray(Image.fromarray(ONES_HW * 255).filter(ImageFilter.GaussianBlur(2)))
    np.testing.assert_array_equal(decode_mask(encoded(soft_HW)), soft_HW >= 128)
    np.testing.assert_array_equal(decode_mask(tiff(soft_HW / np.float32(255))), soft_HW >= 128)
    np.testing.assert_array_equal(decode_mask(encoded(cut_out(WHITE_HWC, soft_HW))), soft_HW >= 128)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_mask_is_turned_as_its_picture_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for mask in (ONES_HW * 255, ONES_HW, ONES_HW.astype(np.uint16) * 255):
        for kind in ("PNG", "TIFF"):
            turned_HW = decode_mask(encoded(mask, kind, exif=exif))
            np.testing.assert_array_equal(turned_HW, TURNS[orientation](MASK_HW[..., None])[..., 0])
    data = encoded(cut_out(WHITE_HWC, ONES_HW * 255), exif=exif)
    np.testing.assert_array_equal(decode_mask(data), TURNS[orientation](MASK_HW[..., None])[..., 0])


CLASSES_HW = np.zeros_like(ONES_HW)
CLASSES_HW[4:20, 4:30], CLASSES_HW[22:40, 20:50], CLASSES_HW[22:40, 51:60] = 1, 15, 20
EDGED_HW = np.where(np.roll(CLASSES_HW, 1, axis=0) != CLASSES_HW, 255, CLASSES_HW).astype(np.uint8)
UNCLEAR: dict[str, tuple[bytes, str]] = {
    "numbers of classes": (encoded(CLASSES_HW), "0, 1, 15, 20, the brightest is 20"),
    "and what to ignore": (encoded(EDGED_HW), "0, 1, 15, 20, 255"),
    "16 bits": (png16(CLASSES_HW.astype(np.uint16)), "brightest is 20"),
    "32 bits": (tiff(CLASSES_HW.astype(np.int32)), "brightest is 20"),
    "from 1": (encoded(ONES_HW + 1), "1, 2, the brightest is 2"),
    "of one value": (encoded(ONES_HW * 0 + 1), "brightest is 1 of 255"),
    "colours of VOC": (encoded(voc(CLASSES_HW)), "4 colours"),
    "and what to ignore, in colours": (encoded(voc(EDGED_HW).convert("RGB")), "5 colours"),
    "colours of classes without black": (
        encoded(np.eye(3, dtype=np.uint8)[np.minimum(CLASSES_HW, 2)] * 255),
        "3 colours",
    ),
    "a dark class and what to ignore": (
        encoded(voc(np.where(EDGED_HW == 15, 8, EDGED_HW) * (EDGED_HW > 14))),
        "4 colours",
    ),
    "two colours on black": (encoded(voc(CLASSES_HW % 3)), "3 colours"),
    "almost black, as JPEG": (encoded(NOISE_HWC[..., 0] // 64, "JPEG"), "nothing in it is white"),
    "NaN": (tiff(np.where(MASK_HW, np.nan, 0).astype(np.float32)), "brightest is nan"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_may_mean_several_things_is_refused_with_what_it_is(name: str) -> None:
    data, reason = UNCLEAR[name]
    with pytest.raises(UnclearMaskError, match=rf"{reason}.*Make what is meant 255 and everything else 0"):
        decode_mask(data)


def test_what_was_read_before_is_read_so_still() -> None:
    """A yellow object on blue, and a region in doubt between black and white."""
    colours = np.where(MASK_HW[..., None], (255, 255, 0), (0, 0, 255)).astype(np.uint8)
    np.testing.assert_array_equal(decode_mask(encoded(colours)), MASK_HW)
    soft = Image.fromarray(colours).resize((128, 96), Image.Resampling.BICUBIC).resize((64, 48), Image.Resampling.BOX)
    assert (decode_mask(encoded(soft)) != MASK_HW).sum() <= 40
    trimap_HW = ONES_HW * 255
    trimap_HW[30:33] = 128
    np.testing.assert_array_equal(decode_mask(encoded(trimap_HW)), trimap_HW >= 128)
    assert not decode_mask(encoded(ONES_HW * 0)).any()
    assert decode_mask(encoded(ONES_HW * 0 + 255)).all()
