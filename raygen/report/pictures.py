"""Rows and candidates -> the pictures of the page, as data URIs.

Which pictures are shown is decided by evenly spaced places in the sorted keys, never by how they look.
"""

# H height, W width, C colour channels, N images

import base64
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raygen.datasets.rows import RowIndex
from raygen.errors import ModelError, RowError, or_row_error
from raygen.images import decode_image, decode_mask, resize_mask

if TYPE_CHECKING:
    from raygen.classifier.framing import Frame

# Up to this side a picture is shown enlarged with hard pixels and stored without loss; above it, as JPEG.
SMALL_PX = 128
# Twice the width of a tile's picture, for screens with doubled pixels.
SHOWN_PX = 288
_TINT = np.array([255, 0, 170], dtype=np.float32)  # a colour that neither birds, nor people, nor landscapes have
# Knots of matplotlib's "inferno", dark to bright: reads the same without colour vision.
_HEAT = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]],
    dtype=np.float32,
)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture to show.

    Attributes:
        uri: Data URI.
        width: Pixels of the shown picture.
        height: Pixels of the shown picture.
        is_small: Whether it is to be enlarged with hard pixels.
    """

    uri: str
    width: int
    height: int
    is_small: bool


@dataclass(frozen=True, slots=True)
class CandidatePictures:
    """What is shown of one candidate; None for what does not exist or cannot be read."""

    source: Picture | None
    repaint: Picture | None
    generated: Picture | None


@dataclass(frozen=True, slots=True)
class CamRow:
    """What two classifiers look at on one test image.

    Attributes:
        original: The picture.
        heat_before: ERM's heat map for the class that it predicts, over the picture.
        heat_after: The recipe's, for the class that it predicts.
        inside_before: Share of ERM's heat on the object; None when the dataset has no masks or there is no heat.
        inside_after: The same for the recipe.
    """

    original: Picture
    heat_before: Picture
    heat_after: Picture
    inside_before: float | None
    inside_after: float | None


def choose(num: int, count: int, *, seed: int) -> list[int]:
    """At most `count` of `num` places, evenly spaced, starting where the seed says."""
    if num <= count:
        return list(range(num))
    offset = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=4).digest(), "big") / 2**32
    return [int((i + offset) * num / count) for i in range(count)]


def picture(image_HWC: np.ndarray) -> Picture:
    """A picture ready to show: PNG up to SMALL_PX, otherwise JPEG of at most SHOWN_PX."""
    image, out = Image.fromarray(image_HWC), io.BytesIO()
    is_small = max(image.size) <= SMALL_PX
    if is_small:
        image.save(out, "PNG", optimize=True)
    else:
        image.thumbnail((SHOWN_PX, SHOWN_PX), Image.Resampling.LANCZOS)
        image.save(out, "JPEG", quality=86)
    data = base64.b64encode(out.getvalue()).decode()
    uri = f"data:image/{'png' if is_small else 'jpeg'};base64,{data}"
    return Picture(uri, image.width, image.height, is_small)


def repaint_overlay(image_HWC: np.ndarray, repaint_HW: np.ndarray) -> np.ndarray:
    """The picture in dimmed grey with the repaint region tinted and outlined, (H, W, 3) uint8."""
    repaint_HW = resize_mask(repaint_HW, height=image_HWC.shape[0], width=image_HWC.shape[1])
    grey_HWC = np.repeat(image_HWC.mean(axis=2, keepdims=True) * 0.55 + 90, 3, axis=2)
    shown_HWC = np.where(repaint_HW[..., None], 0.45 * image_HWC + 0.55 * _TINT, grey_HWC)
    shown_HWC[outline(repaint_HW)] = _TINT
    return shown_HWC.clip(0, 255).astype(np.uint8)


def heat_overlay(image_HWC: np.ndarray, heat_HW: np.ndarray, object_HW: np.ndarray | None) -> np.ndarray:
    """The picture in grey under its heat map, the object outlined in white, (H, W, 3) uint8.

    Args:
        image_HWC: Picture, (H, W, 3) uint8.
        heat_HW: Heat in [0, 1] of any size; stretched to the picture.
        object_HW: Object mask, (H, W) bool, or None.
    """
    height, width = image_HWC.shape[:2]
    heat = Image.fromarray(heat_HW.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    knots = np.linspace(0, 1, len(_HEAT))
    share_HW = np.asarray(heat).clip(0, 1)
    colour_HWC = np.stack([np.interp(share_HW, knots, _HEAT[:, channel]) for channel in range(3)], axis=2)
    grey_HWC = np.repeat(image_HWC.mean(axis=2, keepdims=True), 3, axis=2)
    # Where there is no heat the picture shows through; with a fixed blend it would drown in black.
    weight_HW1 = 0.25 + 0.5 * share_HW[..., None]
    shown_HWC = (1 - weight_HW1) * grey_HWC + weight_HW1 * colour_HWC
    if object_HW is not None:
        shown_HWC[outline(resize_mask(object_HW, height=height, width=width))] = 255
    return shown_HWC.clip(0, 255).astype(np.uint8)


def outline(region_HW: np.ndarray) -> np.ndarray:
    """Pixels of a region that touch its outside by a side, (H, W) bool; the picture's border is no outside."""
    padded = np.pad(region_HW, 1, mode="edge")
    inner_HW = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge_HW: np.ndarray = region_HW & ~inner_HW
    return edge_HW


def heat_inside(heat_HW: np.ndarray, object_HW: np.ndarray) -> float | None:
    """Share of the heat that lies on the object, in [0, 1]; None for a map without heat."""
    total = float(heat_HW.sum())
    if total <= 0:
        return None
    object_HW = resize_mask(object_HW, height=heat_HW.shape[0], width=heat_HW.shape[1])
    return float(heat_HW[object_HW].sum()) / total


def candidate_pictures(run: Path, candidates: pa.Table, rows: RowIndex) -> list[CandidatePictures]:
    """Pictures of some candidates, in their order.

    Args:
        run: The run's folder.
        candidates: The rows to show, as `collect.load_candidates` gives them.
        rows: The run's dataset.
    """
    sources = rows.fetch(candidates["image_id"].to_pylist(), ["image_png"])["image_png"].to_pylist()
    places = list(zip(candidates["part"].to_pylist(), candidates["row"].to_pylist(), strict=True))
    bytes_of: dict[tuple[str, int], tuple[bytes | None, bytes | None]] = {}
    for part in sorted({part for part, _ in places}):
        table = pq.read_table(run / "candidates" / part, columns=["repaint_png", "generated_png"])
        for row in sorted({row for name, row in places if name == part}):
            bytes_of[part, row] = (table["repaint_png"][row].as_py(), table["generated_png"][row].as_py())
    return [_candidate(source, *bytes_of[place]) for source, place in zip(sources, places, strict=True)]


def cam_rows(run: Path, test: pa.Table, rows: RowIndex, *, before: str, after: str) -> list[CamRow | None]:
    """Grad-CAM of two classifiers on a few test images, in their order; None for a picture that cannot be read.

    None for all where a network keeps no map of the picture. Each map is for the class that its classifier predicts: it
    shows what led to that answer.

    Args:
        run: The run's folder.
        test: Rows of the predictions, with the predicted labels in the columns `before` and `after`.
        rows: The run's dataset.
        before: Result name of the first classifier; "erm" lies in <run>/erm, others in <run>/fit/<name>.
        after: Result name of the second.
    """
    # Here, not at the top: a report without heat maps, and `raygen doctor`, need no torch.
    from raygen.classifier import load_classifier
    from raygen.classifier.framing import preprocess
    from raygen.maskers.cam import cam_heatmaps

    if not test.num_rows:
        return []
    pixels = rows.fetch(test["image_id"].to_pylist(), ["image_png", "object_png"])
    images = [_read(decode_image, data) for data in pixels["image_png"].to_pylist()]
    shown = [i for i, image in enumerate(images) if image is not None]
    readable = [image for image in images if image is not None]
    if not readable:
        return [None] * len(images)
    heats = []
    for name in (before, after):
        classifier = load_classifier(classifier_folder(run, name))
        images_NCHW = preprocess(readable, classifier.frame)
        labels_N = test[name].to_numpy()[shown].tolist()
        try:
            heatmaps_NHW = cam_heatmaps(classifier, images_NCHW, labels_N, method="gradcam")
        except ModelError:  # a network that keeps no map of the picture
            return [None] * len(images)
        shown_maps = zip(heatmaps_NHW, readable, strict=True)
        heats.append([_shown(heat_HW, classifier.frame, image_HWC) for heat_HW, image_HWC in shown_maps])
    result: list[CamRow | None] = [None] * len(images)
    for place, image_HWC, before_HW, after_HW in zip(shown, readable, *heats, strict=True):
        object_HW = _read(decode_mask, pixels["object_png"][place].as_py())
        result[place] = CamRow(
            picture(image_HWC),
            picture(heat_overlay(image_HWC, before_HW, object_HW)),
            picture(heat_overlay(image_HWC, after_HW, object_HW)),
            None if object_HW is None else heat_inside(before_HW, object_HW),
            None if object_HW is None else heat_inside(after_HW, object_HW),
        )
    return result


def _shown(heat_SS: np.ndarray, frame: "Frame", image_HWC: np.ndarray) -> np.ndarray:
    """Heat over the whole picture, at the classifier's size where the picture was squashed to it."""
    height, width = image_HWC.shape[:2]
    if frame.resizing.takes_middle:
        return frame.on_picture(heat_SS, height=height, width=width)
    return frame.on_whole(heat_SS)


def classifier_folder(run: Path, name: str) -> Path:
    """Folder of a result's classifier."""
    return run / "erm" if name == "erm" else run / "fit" / name


def _candidate(source: bytes | None, repaint: bytes | None, generated: bytes | None) -> CandidatePictures:
    image_HWC, generated_HWC = _read(decode_image, source), _read(decode_image, generated)
    overlay = None
    if image_HWC is not None and repaint is not None:
        overlay = picture(repaint_overlay(image_HWC, decode_mask(repaint)))
    return CandidatePictures(
        None if image_HWC is None else picture(image_HWC),
        overlay,
        None if generated_HWC is None else picture(generated_HWC),
    )


def _read(decode: Callable[[bytes], np.ndarray], data: bytes | None) -> np.ndarray | None:
    """A picture or mask; None where there is none that can be read."""
    found = None if data is None else or_row_error(decode, data)
    return None if isinstance(found, RowError) else found
