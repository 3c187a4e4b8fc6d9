"""One picture of a tree in a published layout, and what lies beside it: a mask, a cut-out, other backgrounds."""

# H height, W width, C colour channels

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from raygen.datasets.scene_rendering import Scene, render_scene
from raygen.images import encode_mask, resize_image, resize_mask

# CelebA's pictures are 178 x 218.
PORTRAIT = 218 / 178
QUALITY = 95


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn.

    Attributes:
        paths: Where it goes, and what comes with it, below the folder.
        kind: "plain"; "portrait": higher than wide; "grey"; "masked": the second path is its mask; "cut_out": the
            second is the picture without the bird, black; "backgrounds": the paths are the original, the bird before a
            background of the same, of any and of the next class, and the array of its mask.
        label: Kind of bird.
        attribute: Background.
        seed: Of the scene.
        size_px: Width.
    """

    paths: tuple[str, ...]
    kind: str
    label: int
    attribute: int
    seed: int
    size_px: int


def draw(picture: Picture, out: Path) -> None:
    """Writes the files of one picture; their folders are there."""
    scene = render_scene(picture.seed, label=picture.label, attribute=picture.attribute)
    image_HWC, mask_HW = _framed(scene, picture)
    files = [out / path for path in picture.paths]
    if picture.kind == "backgrounds":
        _draw_backgrounds(picture, files, image_HWC, mask_HW)
        return
    if picture.kind == "grey":
        image_HWC = np.repeat(image_HWC.mean(axis=-1, keepdims=True).round().astype(np.uint8), 3, axis=-1)
    files[0].write_bytes(jpeg(image_HWC, grey=picture.kind == "grey"))
    if picture.kind == "masked":
        files[1].write_bytes(encode_mask(mask_HW))
    elif picture.kind == "cut_out":
        # Black is nought in every pixel only where JPEG leaves it so: hence the best quality.
        files[1].write_bytes(jpeg(np.where(mask_HW[..., None], 0, image_HWC).astype(np.uint8), quality=100))


def _draw_backgrounds(picture: Picture, files: list[Path], image_HWC: np.ndarray, mask_HW: np.ndarray) -> None:
    for file, step in zip(files, (0, 0, 2, 1), strict=False):
        seed, attribute = picture.seed + (file != files[0]), (picture.attribute + step) % 3
        other_HWC, _ = _framed(render_scene(seed, label=picture.label, attribute=attribute), picture)
        file.write_bytes(jpeg(np.where(mask_HW[..., None], image_HWC, other_HWC)))
    with io.BytesIO() as buffer:
        np.save(buffer, mask_HW)
        files[-1].write_bytes(buffer.getvalue())


def _framed(scene: Scene, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    width = picture.size_px
    height = round(width * PORTRAIT) if picture.kind == "portrait" else width
    return (
        resize_image(scene.image_HWC, height=height, width=width),
        resize_mask(scene.object_HW, height=height, width=width),
    )


def jpeg(image_HWC: np.ndarray, *, grey: bool = False, quality: int = QUALITY) -> bytes:
    """A picture as JPEG, as the datasets have them."""
    image, buffer = Image.fromarray(image_HWC), io.BytesIO()
    (image.convert("L") if grey else image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()
