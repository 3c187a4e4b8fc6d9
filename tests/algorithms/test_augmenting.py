"""Augmentation: what a picture gets is its own, and what is computed is what torchvision computes, or a slow loop."""

import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tvf

from raygen.algorithms.augmenting import (
    ASPECT,
    ATTEMPTS,
    MAX_SHIFT_PX,
    WEIGHT_UNIT,
    Augment,
    Variation,
    flip_shift,
    occurrences_before,
    random_crops,
    resampling_weights,
    resized_crops,
    uniforms,
)
from raygen.classifier.framing import Frame

KINDS: list[Augment] = ["none", "flip_shift", "random_resized_crop"]
FRAMES = [Frame(24), Frame(24, "resize_crop")]


def pictures(num: int, side_px: int, *, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(256, size=(num, side_px, side_px, 3), dtype=np.uint8))


def test_draws_of_an_image_are_counted_in_their_order() -> None:
    assert occurrences_before(np.array([7, 2, 7, 7, 0, 2])).tolist() == [0, 0, 1, 2, 0, 1]
    assert occurrences_before(np.array([], dtype=np.int64)).tolist() == []


def test_numbers_of_an_image_depend_on_seed_epoch_and_how_often_it_came_and_on_nothing_else() -> None:
    order = np.random.default_rng(0).permutation(50)
    numbers = uniforms("flip_shift", order, seed=3, epoch=1)
    in_order = uniforms("flip_shift", np.arange(80), seed=3, epoch=1)  # more images behind them
    np.testing.assert_array_equal(numbers, in_order[order])
    repeated = uniforms("flip_shift", np.array([4, 9, 4, 4]), seed=3, epoch=1)
    np.testing.assert_array_equal(repeated[[0, 1]], in_order[[4, 9]])
    others = [
        uniforms("flip_shift", np.array([4, 4]), seed=seed, epoch=epoch) for seed, epoch in ((3, 1), (3, 2), (4, 1))
    ]
    np.testing.assert_array_equal(others[0], repeated[[0, 2]])
    rows = {tuple(row) for numbers in (*others, repeated) for row in numbers.tolist()}
    assert len(rows) == 8  # all that should be another is
    flat = uniforms("random_resized_crop", np.arange(2000), seed=0, epoch=0)
    assert flat.min() >= 0
    assert flat.max() < 1
    assert abs(flat.mean() - 0.5) < 0.01  # 46,000 numbers: its deviation is 0.0013


@pytest.mark.parametrize("frame", FRAMES, ids=["squash", "resize_crop"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_has_the_same_bits_in_every_batch(kind: Augment, frame: Frame) -> None:
    images, numbers = pictures(12, frame.whole_px), uniforms(kind, np.arange(12), seed=0, epoch=0)
    together = Variation(kind, numbers, frame, "cpu")(images, 0)
    assert together.shape == (12, 3, 24, 24)
    assert together.is_contiguous(memory_format=torch.channels_last)
    one_by_one = [Variation(kind, numbers, frame, "cpu")(images[i : i + 1], i) for i in range(12)]
    assert torch.equal(together, torch.cat(one_by_one))
    turned = np.random.default_rng(1).permutation(12)
    assert torch.equal(together[turned], Variation(kind, numbers[turned], frame, "cpu")(images[turned], 0))


@pytest.mark.parametrize("frame", FRAMES, ids=["squash", "resize_crop"])
def test_flip_shift_is_mirroring_and_then_moving_with_the_edge_repeated(frame: Frame) -> None:
    rng = np.random.default_rng(0)
    images = pictures(9, frame.whole_px)
    down, right = rng.integers(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1, (2, 9))
    flip = rng.random(9) < 0.5
    found = flip_shift(images, *map(torch.from_numpy, (down, right, flip)), frame=frame)
    for n in range(9):
        seen = images[n].numpy()[frame.inside, frame.inside]
        seen = seen[:, ::-1] if flip[n] else seen
        padded = np.pad(seen, ((MAX_SHIFT_PX,) * 2, (MAX_SHIFT_PX,) * 2, (0, 0)), mode="edge")
        top, left = MAX_SHIFT_PX + down[n], MAX_SHIFT_PX + right[n]
        expected = padded[top : top + 24, left : left + 24].transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(found[n].numpy(), expected)


def test_moves_and_mirrorings_are_drawn_alike() -> None:
    """A picture whose pixels are their own places shows what was done to it."""
    side = 2 * MAX_SHIFT_PX + 3
    places = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([places[:, None].expand(side, side), places.expand(side, side), torch.zeros(side, side)], dim=2)
    numbers = uniforms("flip_shift", np.arange(4000), seed=0, epoch=0)
    varied = Variation("flip_shift", numbers, Frame(side), "cpu")(image.to(torch.uint8).expand(4000, -1, -1, -1), 0)
    middle = MAX_SHIFT_PX + 1
    down = (varied[:, 0, middle, middle] * 255).round().long() - middle
    assert np.bincount((down + MAX_SHIFT_PX).numpy(), minlength=9).min() > 4000 / 9 - 5 * math.sqrt(4000 / 9)
    mirrored = varied[:, 1, 0, 0] > varied[:, 1, 0, -1]
    assert abs(float(mirrored.float().mean()) - 0.5) < 5 * 0.5 / math.sqrt(4000)


def torchvision_crop(areas: list[float], ratios: list[float], side: int) -> tuple[int, int]:
    """Height and width as `torchvision.transforms.RandomResizedCrop.get_params` finds them in given draws."""
    for area, log_ratio in zip(areas, ratios, strict=True):
        ratio = math.exp(log_ratio)
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= side and 0 < height <= side:
            return height, width
    return side, side


def test_random_crops_are_drawn_as_torchvision_does() -> None:
    side, num = 37, 500
    numbers = uniforms("random_resized_crop", np.arange(num), seed=1, epoch=0)
    numbers[0, 3 : 3 + ATTEMPTS], numbers[0, 3 + ATTEMPTS :] = 1 - 1e-9, 0.0  # full areas of 3:4: none fits
    crops = random_crops(numbers, side)
    low, high = (math.log(ratio) for ratio in ASPECT)
    for n in range(num):
        areas = [side**2 * (0.7 + 0.3 * u) for u in numbers[n, 3 : 3 + ATTEMPTS]]
        ratios = [low + (high - low) * u for u in numbers[n, 3 + ATTEMPTS :]]
        assert (crops.height_D[n], crops.width_D[n]) == torchvision_crop(areas, ratios, side)
    assert (crops.height_D[0], crops.width_D[0]) == (side, side)
    for first, length in ((crops.top_D, crops.height_D), (crops.left_D, crops.width_D)):
        assert (first >= 0).all()
        assert (first + length <= side).all()
        free = side - length[length < side]
        drawn = first[length < side]
        assert (drawn == 0).any()
        assert (drawn == free).any()  # the last place is drawn too


@pytest.mark.parametrize(("side_px", "size_px"), [(37, 32), (24, 24), (20, 32), (96, 32)])
def test_resized_crops_are_torchvisions_with_antialias(side_px: int, size_px: int) -> None:
    images, numbers = pictures(8, side_px), uniforms("random_resized_crop", np.arange(8), seed=2, epoch=0)
    crops = random_crops(numbers, side_px)
    parts = (crops.top_D, crops.left_D, crops.height_D, crops.width_D, crops.flip_D)
    found = (resized_crops(images, *map(torch.from_numpy, parts), size_px=size_px) * 255).round()
    # Whole numbers below 2**24, so that float32 is exact in whatever order a library sums.
    ends = ((crops.left_D, crops.width_D, crops.flip_D), (crops.top_D, crops.height_D, np.zeros(8, dtype=bool)))
    across, down = (
        resampling_weights(*map(torch.from_numpy, end), side_px=side_px, size_px=size_px).double() for end in ends
    )
    narrow = (torch.einsum("ntuc,nsu->ntsc", images.double(), across) / WEIGHT_UNIT + 0.5).floor().clamp(0, 255)
    small = (torch.einsum("ntsc,nrt->nrsc", narrow, down) / WEIGHT_UNIT + 0.5).floor().clamp(0, 255)
    assert torch.equal(small.permute(0, 3, 1, 2), found.double())
    assert torch.equal(across, across.round())
    worst = 0.0
    for n in range(8):
        top, left, height, width, flip = (int(part[n]) for part in parts)
        expected = tvf.resized_crop(
            images[n].permute(2, 0, 1), top, left, height, width, [size_px, size_px], antialias=True
        )
        expected = tvf.horizontal_flip(expected) if flip else expected
        difference = (found[n] - expected.float()).abs()
        worst = max(worst, float(difference.max()))
        assert float(difference.mean()) < 0.1
    assert worst <= 1  # of 255: weights are rounded to other fractions, and so sums in the middle to the other side
