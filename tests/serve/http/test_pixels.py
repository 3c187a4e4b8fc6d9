"""The headline promise: outside the mask, what comes back is what was sent, to the bit."""

# H height and W width of the picture, C colour channels

import io
import zlib
from typing import Any

import httpx2
import numpy as np
import pytest
from edit_forms import alpha_mask, encoded, hole, images_of, picture, post, white_mask, with_chunk
from paint_backend import Running, colour_of
from PIL import Image
from raw_pictures import TURNS

from raygen.images import resize_image, resize_mask
from serve.http.backend import OutputFormat
from serve.http.pictures import encode_picture


@pytest.mark.parametrize("seed", range(12))
def test_random_pictures_masks_and_sizes(endpoint: Running, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(64, 200, size=2))
    image_HWC, mask_HW = picture(seed, height, width), rng.random((height, width)) < 0.3
    kind = ["alpha", "luminance", "luminance_inverted"][seed % 3]
    mask = {
        "alpha": alpha_mask(mask_HW),
        "luminance": white_mask(mask_HW),
        "luminance_inverted": white_mask(~mask_HW),
    }[kind]
    response = post(endpoint.url, image=encoded(image_HWC), mask=mask, mask_mode=kind, seed=seed, n=2)
    for index, result_HWC in enumerate(images_of(response)):
        assert result_HWC.shape == (height, width, 3)
        assert np.array_equal(result_HWC[~mask_HW], image_HWC[~mask_HW])
        assert (result_HWC[mask_HW] == colour_of(seed + index)).all()
    understood = response.json()["mask"]
    assert understood["mode"] == kind
    assert understood["edited_fraction"] == pytest.approx(mask_HW.mean(), abs=1e-6)


def test_webp_at_100_is_lossless_too(endpoint: Running) -> None:
    response = post(endpoint.url, output_format="webp", seed=3)
    (result_HWC,) = images_of(response)
    assert np.array_equal(result_HWC[~hole()], picture()[~hole()])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_picture_and_mask(endpoint: Running, orientation: int) -> None:
    image_HWC, mask_HW = picture(1, 80, 96), hole(80, 96)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = {1: (80, 96), 5: (96, 80)}[5 if orientation >= 5 else 1]
    response = post(
        endpoint.url,
        image=encoded(image_HWC, exif=exif),
        mask=encoded(Image.open(io.BytesIO(alpha_mask(mask_HW))), exif=exif),
        seed=9,
    )
    (result_HWC,) = images_of(response)
    assert result_HWC.shape[:2] == turned
    expected_HWC = np.where(mask_HW[..., None], colour_of(9), image_HWC)
    assert np.array_equal(result_HWC, TURNS[orientation](expected_HWC))


def test_the_box_of_the_mask(endpoint: Running) -> None:
    mask_HW = np.zeros((64, 64), dtype=bool)
    mask_HW[10:20, 30:33] = True
    understood = post(endpoint.url, mask=white_mask(mask_HW)).json()["mask"]
    assert understood == {"mode": "luminance", "edited_fraction": round(30 / 4096, 6), "bbox": [30, 10, 33, 20]}


@pytest.mark.parametrize(("value", "is_painted"), [(127, False), (128, True)])
def test_the_threshold_of_white(endpoint: Running, value: int, is_painted: bool) -> None:
    mask = np.full((64, 64), value, dtype=np.uint8)
    mask[0, 0] = 255
    fraction = post(endpoint.url, mask=encoded(mask)).json()["mask"]["edited_fraction"]
    assert (fraction == 1) == is_painted


@pytest.mark.parametrize(("alpha", "is_painted"), [(128, False), (127, True)])
def test_the_threshold_of_alpha(endpoint: Running, alpha: int, is_painted: bool) -> None:
    mask = np.full((64, 64, 4), alpha, dtype=np.uint8)
    mask[0, 0, 3] = 0
    fraction = post(endpoint.url, mask=encoded(mask)).json()["mask"]["edited_fraction"]
    assert (fraction == 1) == is_painted


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_masks_without_alpha_of_every_mode_are_luminance(endpoint: Running, mode: str) -> None:
    grey = np.where(hole(), 255, 0).astype(np.uint8)
    mask = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    response = post(endpoint.url, mask=encoded(mask), seed=1)
    assert response.json()["mask"]["mode"] == "luminance"
    assert (images_of(response)[0][hole()] == colour_of(1)).all()
    assert np.array_equal(images_of(response)[0][~hole()], picture()[~hole()])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_masks_with_alpha_of_every_mode_are_alpha(endpoint: Running, mode: str) -> None:
    rgba = Image.open(io.BytesIO(alpha_mask(hole())))
    mask = rgba.convert("LA") if mode == "LA" else rgba
    options: dict[str, Any] = {}
    if mode == "P":  # colour 0 of the palette is transparent
        mask = Image.fromarray(np.where(hole(), 0, 1).astype(np.uint8), mode="P")
        mask.putpalette([255, 255, 255, 0, 0, 0])
        options = {"transparency": 0}
    response = post(endpoint.url, mask=encoded(mask, **options), seed=1)
    assert response.json()["mask"]["mode"] == "alpha"
    assert (images_of(response)[0][hole()] == colour_of(1)).all()
    assert np.array_equal(images_of(response)[0][~hole()], picture()[~hole()])


def test_the_pictures_own_transparency_is_the_mask_when_there_is_none(endpoint: Running) -> None:
    rgba = np.dstack([picture(), np.where(hole(), 0, 255).astype(np.uint8)])
    response = post(endpoint.url, image=encoded(rgba), mask=None, seed=2)
    (result_HWC,) = images_of(response)
    assert response.json()["mask"]["mode"] == "alpha"
    assert response.json()["warnings"] == []
    assert np.array_equal(result_HWC[~hole()], picture()[~hole()])
    sent = endpoint.backend.requests[-1].image_HWC
    assert np.array_equal(sent, picture()), "the colours under the transparent pixels are the picture's own"


def test_transparency_that_is_no_mask_is_told(endpoint: Running) -> None:
    rgba = np.dstack([picture(), np.full((64, 64), 10, dtype=np.uint8)])
    response = post(endpoint.url, image=encoded(rgba))
    assert len(response.json()["warnings"]) == 1
    assert np.array_equal(images_of(response)[0][~hole()], picture()[~hole()])


def test_a_size_is_reached_before_painting(endpoint: Running) -> None:
    (result_HWC,) = images_of(post(endpoint.url, size="128x96", seed=1))
    expected_HWC = resize_image(picture(), height=96, width=128)
    mask_HW = resize_mask(hole(), height=96, width=128)
    assert result_HWC.shape == (96, 128, 3)
    assert np.array_equal(result_HWC[~mask_HW], expected_HWC[~mask_HW])


def test_a_jpeg_with_more_pictures_behind_it_is_its_first(endpoint: Running) -> None:
    frames = [Image.fromarray(picture(i)) for i in range(2)]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 2  # type: ignore[attr-defined]
    response = post(endpoint.url, image=data)
    expected_HWC = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(images_of(response)[0][~hole()], expected_HWC[~hole()])


def test_16_bits_are_scaled_not_cut(endpoint: Running) -> None:
    grey = np.full((64, 64), 0x8040, dtype=np.uint16)
    (result_HWC,) = images_of(post(endpoint.url, image=encoded(Image.fromarray(grey))))
    assert (result_HWC[~hole()] == 0x80).all()


@pytest.mark.parametrize(
    "mask",
    [
        encoded(hole().astype(np.uint8)),
        encoded(hole().astype(np.uint16) * 255),
        encoded(hole()[..., None] * np.array([255, 0, 0], dtype=np.uint8)),
        encoded(np.dstack([np.full((64, 64, 3), 9, dtype=np.uint8), 1 - hole().astype(np.uint8)])),
    ],
    ids=["0 and 1", "0 and 255 of 16 bits", "red", "alpha of 0 and 1"],
)
def test_masks_that_mean_one_thing_only_are_read(endpoint: Running, mask: bytes) -> None:
    (result_HWC,) = images_of(post(endpoint.url, mask=mask, seed=1))
    assert (result_HWC[hole()] == colour_of(1)).all()
    assert np.array_equal(result_HWC[~hole()], picture()[~hole()])


BOMB = zlib.compress(bytes(80 << 20), 9)


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"zTXt", b"note\0\0" + BOMB), (b"iCCP", b"icc\0\0" + BOMB), (b"eXIf", b"notatiff"), (b"pHYs", b"\0")],
)
def test_metadata_decides_nothing(endpoint: Running, kind: bytes, body: bytes) -> None:
    files: dict[str, Any] = {
        name: with_chunk(data, kind, body)
        for name, data in (("image", encoded(picture())), ("mask", alpha_mask(hole())))
    }
    (result_HWC,) = images_of(post(endpoint.url, seed=1, **files))
    assert (result_HWC[hole()] == colour_of(1)).all()
    assert np.array_equal(result_HWC[~hole()], picture()[~hole()])


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "image/webp"])
def test_a_bare_picture(endpoint: Running, kind: str) -> None:
    response = post(endpoint.url, headers={"accept": kind}, seed=5)
    assert response.headers["content-type"] == kind
    assert response.headers["x-raygen-seed"] == "5"
    assert Image.open(io.BytesIO(response.content)).format == kind.removeprefix("image/").upper()


def test_a_bare_picture_is_the_one_of_the_json(endpoint: Running) -> None:
    bare: httpx2.Response = post(endpoint.url, headers={"accept": "image/*"}, seed=5)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(bare.content))), images_of(post(endpoint.url, seed=5))[0])


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_less_compression_quality_is_fewer_bytes(output_format: OutputFormat) -> None:
    sizes = [
        len(encode_picture(picture(), output_format=output_format, output_compression=quality))
        for quality in (0, 20, 60, 100)
    ]
    assert sizes == sorted({*sizes})
