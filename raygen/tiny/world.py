"""The world that the tiny model learns: balanced scenes, masks that do not leak the class, and captions.

Scenes come from `raygen.datasets.scenes`, every pair (label, attribute) equally often, with seeds of names that no
benchmark split uses. Nothing here imports torch.
"""

# N scenes, H height, W width, C colour channels

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from raygen.datasets.scene_drawing import SIZE_PX
from raygen.datasets.scene_rendering import ATTRIBUTE_NAMES, CLASS_NAMES, Plumage, render_scene
from raygen.seeding import row_seed

# Where a scene takes place, in words, per attribute.
PLACES = (
    ("on land", "in the forest", "in front of trees"),
    ("on water", "on the sea", "in front of the ocean"),
)
# The first is the prompt of the recipes; it makes up half of the captions.
TEMPLATES = ("a photo of a {}", "a photo of the {}", "a picture of a {}", "a {}", "photo of a {}")
GENERIC_NOUN = "bird"
# Dropped captions train the unconditional branch that classifier-free guidance needs (Ho & Salimans 2022).
CAPTION_DROPOUT = 0.12
_OBJECT_BIT, _COUNTERPART_BIT = 1, 2


@dataclass(frozen=True, slots=True)
class World:
    """Scenes in memory-mapped arrays; scene i has label i % 2 and attribute (i // 2) % 2.

    Attributes:
        images_NHWC: The pictures, (N, 64, 64, 3) uint8 RGB.
        masks_NHW: Bit 0: the bird; bit 1: the silhouette of the other kind of bird. (N, 64, 64) uint8.
    """

    images_NHWC: np.ndarray
    masks_NHW: np.ndarray

    def __len__(self) -> int:
        return len(self.images_NHWC)

    def label(self, index: int) -> int:
        """Class of a scene."""
        return index % len(CLASS_NAMES)

    def attribute(self, index: int) -> int:
        """Background of a scene."""
        return index // len(CLASS_NAMES) % len(ATTRIBUTE_NAMES)

    def object_HW(self, index: int) -> np.ndarray:
        """Where the bird is, (64, 64) bool."""
        return np.asarray(self.masks_NHW[index] & _OBJECT_BIT, dtype=bool)

    def counterpart_HW(self, index: int) -> np.ndarray:
        """Where a bird of the other class would be, (64, 64) bool."""
        return np.asarray(self.masks_NHW[index] & _COUNTERPART_BIT, dtype=bool)


def create_world(folder: Path, *, num_scenes: int) -> None:
    """Lays out the arrays of a world that `render_part` fills."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in (
        ("images", (num_scenes, SIZE_PX, SIZE_PX, 3)),
        ("masks", (num_scenes, SIZE_PX, SIZE_PX)),
    ):
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape).flush()


def render_part(folder: Path, *, name: str, plumage: Plumage, seed: int, rank: int, num_processes: int) -> None:
    """Renders every `num_processes`-th scene of a world, from `rank` on."""
    world = open_world(folder, mode="r+")
    for i in range(rank, len(world), num_processes):
        scene_seed = row_seed(seed, f"{name}/{i}")
        scene = render_scene(scene_seed, label=world.label(i), attribute=world.attribute(i), plumage=plumage)
        world.images_NHWC[i] = scene.image_HWC
        world.masks_NHW[i] = scene.object_HW * _OBJECT_BIT + scene.counterpart_HW * _COUNTERPART_BIT


def open_world(folder: Path, *, mode: str = "r") -> World:
    """A rendered world, mapped into memory."""
    return World(*(np.load(folder / f"{name}.npy", mmap_mode=mode) for name in ("images", "masks")))  # type: ignore[arg-type]


def draw_caption(rng: np.random.Generator, *, label: int, attribute: int) -> str:
    """Caption of a scene: its class or just "bird", in 40% of the cases its place; empty in CAPTION_DROPOUT of them."""
    if rng.random() < CAPTION_DROPOUT:
        return ""
    noun = GENERIC_NOUN if rng.random() < 0.15 else CLASS_NAMES[label]
    template = TEMPLATES[0] if rng.random() < 0.5 else TEMPLATES[rng.integers(len(TEMPLATES))]
    caption = template.format(noun)
    if rng.random() < 0.4:
        places = PLACES[attribute]
        caption = f"{caption} {places[rng.integers(len(places))]}"
    return caption


def dilate(mask_HW: np.ndarray, radius_px: float) -> np.ndarray:
    """All pixels at most `radius_px` (Euclidean) from the mask, (H, W) bool."""
    return np.asarray(ndimage.distance_transform_edt(~mask_HW) <= radius_px)


def draw_mask(  # noqa: PLR0911 (one return per kind of mask)
    rng: np.random.Generator, *, object_HW: np.ndarray, counterpart_HW: np.ndarray
) -> np.ndarray:
    """A repaint mask to train on, (64, 64) bool, True = generated anew.

    Most masks hold the silhouettes of both kinds of bird: of a mask that follows its own bird only, the model would
    read the class off the mask and ignore the caption.
    """
    u = rng.random()
    if u < 0.36:  # what repainting a bird as the other kind looks like: the silhouette that was there, widened
        return _widen(rng, counterpart_HW, 7, 9) | _widen(rng, object_HW, 1, 2)
    if u < 0.56:
        return _widen(rng, object_HW, 4, 9) | _widen(rng, counterpart_HW, 4, 9)
    if u < 0.68:
        return _widen(rng, object_HW, 7, 9)
    if u < 0.78:
        return _padded_box(rng, object_HW)
    if u < 0.93:  # like the complement of a thresholded class activation map: a few blobs are kept
        return draw_cam_like_mask(rng)
    if u < 0.97:
        return _blobs(rng, rng.uniform(0.10, 0.50), 6)
    return np.ones_like(object_HW)


def draw_cam_like_mask(rng: np.random.Generator) -> np.ndarray:
    """Mask that keeps a few smooth blobs and regenerates 50 to 92% of the picture, (64, 64) bool."""
    return _blobs(rng, rng.uniform(0.50, 0.92), 5)


# Maskers differ in the structuring element of their dilation: disc, square or diamond. Discs are the commonest.
_DISTANCES: tuple[Callable[[np.ndarray], Any], ...] = (
    *(ndimage.distance_transform_edt,) * 3,
    partial(ndimage.distance_transform_cdt, metric="chessboard"),
    partial(ndimage.distance_transform_cdt, metric="taxicab"),
)


def _widen(rng: np.random.Generator, mask_HW: np.ndarray, low_px: int, high_px: int) -> np.ndarray:
    distance = _DISTANCES[rng.integers(len(_DISTANCES))]
    return np.asarray(distance(~mask_HW) <= rng.integers(low_px, high_px + 1))


def _padded_box(rng: np.random.Generator, object_HW: np.ndarray) -> np.ndarray:
    rows, columns = np.where(object_HW)
    top, bottom, left, right = rng.integers(1, 12, 4)
    mask_HW = np.zeros_like(object_HW)
    mask_HW[max(rows.min() - top, 0) : rows.max() + bottom, max(columns.min() - left, 0) : columns.max() + right] = True
    return mask_HW


def _blobs(rng: np.random.Generator, fraction: float, num_cells: int) -> np.ndarray:
    """The lowest `fraction` of a smooth random field of num_cells x num_cells control points, (64, 64) bool."""
    cells = rng.random((num_cells, num_cells)).astype(np.float32)
    field_HW = np.asarray(Image.fromarray(cells).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))
    return np.asarray(field_HW < np.quantile(field_HW, fraction))
