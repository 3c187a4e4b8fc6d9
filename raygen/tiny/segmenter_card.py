"""Measures the finished segmenter and writes its card."""

# N images, H height, W width, C colour channels

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from raygen.datasets.scene_rendering import Scene, render_scene
from raygen.datasets.scenes import ScenesConfig
from raygen.errors import RowError
from raygen.maskers.base import overlap
from raygen.maskers.clipseg import ClipsegConfig, ClipsegFinder
from raygen.seeding import row_seed
from raygen.storage.writing import write_text
from raygen.tiny.pictures import CARD_COLUMNS, pairs, save_for_card
from raygen.tiny.segmenter import CLASS_WORDS, GENERIC_WORDS

logger = logging.getLogger(__name__)

NUM_SCENES = 400
BATCH_SIZE = 16
# Group sizes to draw from: as the benchmark's training split is biased, and all groups alike.
DISTRIBUTIONS = {"biased": ScenesConfig().train_counts, "balanced": (1, 1, 1, 1)}
# Of these, the first is among the absent words of the training, the others are not.
NOT_THERE = ("cat", "zebra", "submarine")


@dataclass(frozen=True, slots=True)
class Measured:
    """What the segmenter makes of scenes.

    Attributes:
        iou: Mean IoU with the true masks; a scene in which nothing is found counts 0.
        worst_iou: The lowest mean over the groups (label, attribute) that occur.
        found_fraction: Share of the scenes in which it marks anything.
    """

    iou: float
    worst_iou: float
    found_fraction: float


def held_out(name: str, num_scenes: int, *, seed: int) -> list[tuple[int, Scene]]:
    """Scenes that no training and no split of the benchmark has, with their group (label * 2 + attribute).

    Args:
        name: One of DISTRIBUTIONS.
        num_scenes: How many.
        seed: Of the draw.
    """
    share_G = np.array(DISTRIBUTIONS[name]) / sum(DISTRIBUTIONS[name])
    rng = np.random.default_rng(row_seed(seed, f"segmenter-card/{name}"))
    groups_N = rng.choice(4, size=num_scenes, p=share_G)
    scenes = []
    for i, group in enumerate(groups_N):
        scene_seed = row_seed(seed, f"segmenter-card/{name}/{i}")
        scenes.append((int(group), render_scene(scene_seed, label=int(group) // 2, attribute=int(group) % 2)))
    return scenes


def find(folder: Path, scenes: Sequence[tuple[int, Scene]], texts: Sequence[str]) -> list[np.ndarray | None]:
    """What the segmenter marks in each scene for its class's text, (H, W) bool; None for nothing."""
    finder = ClipsegFinder(ClipsegConfig(model=str(folder)), texts, device="cpu")
    masks: list[np.ndarray | RowError] = []
    for start in range(0, len(scenes), BATCH_SIZE):
        part = scenes[start : start + BATCH_SIZE]
        masks += finder([scene.image_HWC for _, scene in part], [group // 2 for group, _ in part])
    return [None if isinstance(mask, RowError) else mask for mask in masks]


def measure(scenes: Sequence[tuple[int, Scene]], masks: Sequence[np.ndarray | None]) -> Measured:
    """Compares masks with the scenes' own."""
    iou_N = np.array(
        [
            0.0 if mask is None else overlap(mask, scene.object_HW)
            for (_, scene), mask in zip(scenes, masks, strict=True)
        ]
    )
    group_N = np.array([group for group, _ in scenes])
    worst_iou = min(float(iou_N[group_N == group].mean()) for group in set(group_N.tolist()))
    return Measured(float(iou_N.mean()), worst_iou, float(np.mean([mask is not None for mask in masks])))


def write_segmenter_card(folder: Path, *, seed: int) -> None:
    """Measures the model in `folder` and writes its README.md and birds.png."""
    rows = []
    by_name = {name: held_out(name, NUM_SCENES, seed=seed) for name in DISTRIBUTIONS}
    texts = {word: (word, word) for word in GENERIC_WORDS}
    texts |= {f"{land} / {water}": (land, water) for land, water in zip(*CLASS_WORDS, strict=True)}
    for name, scenes in by_name.items():
        for words, per_class in texts.items():
            found = measure(scenes, find(folder, scenes, per_class))
            rows.append(f"| {name} | {words} | {found.iou:.3f} | {found.worst_iou:.3f} | {found.found_fraction:.1%} |")
            logger.info(rows[-1])
    lines = []
    for word in NOT_THERE:
        found = measure(by_name["balanced"], find(folder, by_name["balanced"], (word, word)))
        lines.append(f'Nothing is marked for "{word}" in {1 - found.found_fraction:.1%} of the balanced scenes.')
    start_s = time.perf_counter()
    masks = find(folder, by_name["balanced"], (GENERIC_WORDS[0],) * 2)
    speed = NUM_SCENES / (time.perf_counter() - start_s)
    threads = torch.get_num_threads()
    lines.append(
        f"Speed: {speed:.0f} images/s in batches of {BATCH_SIZE} on {threads} CPU thread(s), loading included."
    )
    logger.info(" ".join(lines))
    _save_grid(folder / "birds.png", [scene.image_HWC for _, scene in by_name["balanced"]], masks)
    size_mb = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
    card = _CARD.format(
        rows="\n".join(rows), lines="\n".join(f"- {line}" for line in lines), size_mb=size_mb, num=NUM_SCENES
    )
    write_text(folder / "README.md", card)


def _save_grid(path: Path, images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None]) -> None:
    """Two pairs of rows: scenes above, below the same with everything darkened that is not marked."""
    images_NHWC = np.stack(images[: 2 * CARD_COLUMNS])
    nothing_HW = np.zeros(images[0].shape[:2], dtype=bool)
    marked_NHW = np.stack([nothing_HW if mask is None else mask for mask in masks[: 2 * CARD_COLUMNS]])
    shown_NHWC = np.where(marked_NHW[..., None], images_NHWC, images_NHWC // 4)
    save_for_card(path, pairs(images_NHWC, shown_NHWC, num_columns=CARD_COLUMNS))


_CARD = """# The tiny segmenter

A `CLIPSegForImageSegmentation` of {size_mb:.1f} MB (half precision, 0.7 M parameters) that finds 64 px birds by name:
"bird", "animal", and per class "landbird", "land bird", "waterbird", "water bird". It exists so that raygen's recipes
find objects by language on a laptop, without a download. It knows nothing but these birds and is of no other use.

Made by `python -m raygen.tiny.train` from nothing but rendered scenes (`raygen.datasets.scenes`) and their object
masks: both kinds of bird on both backgrounds equally often, with seeds that no split of the benchmark uses. Every scene
is shown with a prompt for its bird, which marks it, and one for what is not there (a hundred other things, random
letters), which marks nothing.

## Measured

{num} scenes that no training has seen: biased as the benchmark's training split, and with all groups alike. IoU with
the true object masks at the threshold 0.5; a scene in which nothing is found counts 0.

| scenes | text | mean IoU | lowest group's | found |
| --- | --- | --- | --- | --- |
{rows}

{lines}

![scenes above, what "bird" marks below](birds.png)

## Limits

- Outlines are good to about a pixel; thin parts (bills, legs) can be missing. Recipes grow the mask by 8 px anyway.
- It does not tell the kinds apart: "waterbird" marks a landbird too. Recipes only ask for what is there.
- Words of the background ("water", "forest") were never asked for; what they mark means nothing.
"""
