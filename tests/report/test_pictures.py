import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygen.datasets.rows import RowIndex
from raygen.report import collect
from raygen.report.pictures import (
    SHOWN_PX,
    candidate_pictures,
    choose,
    heat_inside,
    heat_overlay,
    outline,
    picture,
    repaint_overlay,
)


def pixels(shown: Any) -> np.ndarray:
    data = base64.b64decode(shown.uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def noise(side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(("num", "count"), [(0, 5), (3, 5), (5, 5), (6, 5), (1000, 7)])
def test_choice_is_even_and_without_repeats(num: int, count: int) -> None:
    for seed in range(5):
        chosen = choose(num, count, seed=seed)
        assert chosen == choose(num, count, seed=seed)
        assert len(set(chosen)) == len(chosen) == min(num, count)
        assert all(0 <= place < num for place in chosen)
        gaps = np.diff(chosen)
        assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_seed_moves_the_choice() -> None:
    assert len({tuple(choose(1000, 7, seed=seed)) for seed in range(6)}) > 1


def test_small_picture_is_stored_without_loss() -> None:
    image_HWC = noise(64)
    shown = picture(image_HWC)
    assert shown.is_small
    assert shown.uri.startswith("data:image/png;base64,")
    np.testing.assert_array_equal(pixels(shown), image_HWC)


def test_large_picture_is_reduced() -> None:
    shown = picture(np.repeat(noise(64), 8, axis=0).repeat(4, axis=1))
    assert not shown.is_small
    assert (shown.width, shown.height) == (SHOWN_PX // 2, SHOWN_PX)
    assert pixels(shown).shape == (SHOWN_PX, SHOWN_PX // 2, 3)


def test_outline_of_a_square() -> None:
    region_HW = np.zeros((5, 5), dtype=bool)
    region_HW[1:4, 1:4] = True
    expected = region_HW.copy()
    expected[2, 2] = False
    np.testing.assert_array_equal(outline(region_HW), expected)
    assert not outline(np.ones((4, 4), dtype=bool)).any()
    assert not outline(np.zeros((4, 4), dtype=bool)).any()


def test_repaint_overlay_tints_inside_and_greys_outside() -> None:
    image_HWC = noise(16)
    repaint_HW = np.zeros((16, 16), dtype=bool)
    repaint_HW[4:12, 4:12] = True
    shown = repaint_overlay(image_HWC, repaint_HW).astype(int)
    outside = shown[~repaint_HW]
    assert (outside == outside[:, :1]).all()
    inside = shown[repaint_HW]
    assert (inside[:, 0] >= 140).all()  # 55% of the tint's red


def test_heat_overlay_is_brighter_where_it_is_hot() -> None:
    image_HWC = np.full((16, 16, 3), 100, dtype=np.uint8)
    heat_HW = np.zeros((4, 4), dtype=np.float32)
    heat_HW[0, 0] = 1
    shown = heat_overlay(image_HWC, heat_HW, None).astype(int).sum(axis=2)
    assert shown[0, 0] == shown.max() > shown[15, 15] == shown.min()


def test_heat_inside_is_a_share_of_the_heat() -> None:
    object_HW = np.zeros((8, 8), dtype=bool)
    object_HW[:, :4] = True
    assert heat_inside(np.ones((4, 4)), object_HW) == pytest.approx(0.5)
    assert heat_inside(np.eye(1), np.ones((3, 3), dtype=bool)) == 1.0
    assert heat_inside(np.zeros((4, 4)), object_HW) is None


def test_candidates_get_their_own_pictures(finished_run: Path) -> None:
    rows = RowIndex.open(finished_run / "data")
    candidates = collect.load_candidates(finished_run)
    assert candidates is not None
    backwards = candidates.take(list(range(candidates.num_rows))[::-1])
    shown = candidate_pictures(finished_run, backwards, rows)
    for row, pictures in zip(backwards.to_pylist(), shown, strict=True):
        source = rows.fetch([row["image_id"]], ["image_png"])["image_png"][0].as_py()
        np.testing.assert_array_equal(pixels(pictures.source), np.asarray(Image.open(io.BytesIO(source))))
        assert (pictures.generated is None) == (row["status"] == "failed") == (pictures.repaint is None)
    first = candidate_pictures(finished_run, candidates.slice(0, 1), rows)[0]
    own, same, other = (pictures.generated for pictures in (first, shown[-1], shown[-2]))
    assert own is not None
    assert same is not None
    assert other is not None
    assert own.uri == same.uri != other.uri
