"""Rendering of one scene: a bird of one of two kinds on one of two backgrounds, or of three on one of three.

Only the silhouette tells the kind for certain; see `raygen.datasets.scenes`. Nothing here imports torch.
"""

# H height, W width, C colour channels

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raygen.datasets.scene_drawing import (
    SIZE_PX,
    Canvas,
    Pose,
    Rgb,
    draw_bill,
    grid,
    hsv,
    outlined,
    smooth_noise,
)
from raygen.datasets.scene_third import TYPICAL_THIRD, draw_owl, snow

CLASS_NAMES = ("landbird", "waterbird")
ATTRIBUTE_NAMES = ("land", "water")
# What to call the object of each class when it is looked for, as the papers do with Waterbirds.
OBJECT_WORDS = ("bird", "bird")

# Colour families of the plumage: (hue range, saturation range, value range), each as fractions.
FAMILIES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "brown": ((0.05, 0.09), (0.50, 0.75), (0.35, 0.60)),
    "red": ((0.97, 1.02), (0.70, 0.90), (0.55, 0.85)),
    "yellow": ((0.12, 0.15), (0.65, 0.90), (0.75, 0.95)),
    "green": ((0.26, 0.36), (0.45, 0.75), (0.35, 0.65)),
    "white": ((0.10, 0.15), (0.00, 0.08), (0.88, 1.00)),
    "grey": ((0.55, 0.62), (0.02, 0.12), (0.45, 0.68)),
    "black": ((0.60, 0.70), (0.05, 0.30), (0.08, 0.20)),
    "blue": ((0.56, 0.63), (0.45, 0.75), (0.45, 0.80)),
}
TYPICAL_FAMILIES = (("brown", "red", "yellow", "green"), ("white", "grey", "black", "blue"), TYPICAL_THIRD)
# With this probability a bird wears a family typical of its kind, otherwise any family: the best colour-only
# guess is then right in 0.35 + 0.65 / 2 = 67.5% of cases, so colour hints but cannot decide.
TYPICAL_PLUMAGE_PROBABILITY = 0.35

Plumage = Literal["hinted", "independent"]


@dataclass(frozen=True, slots=True)
class Scene:
    """One rendered scene.

    Attributes:
        image_HWC: The picture, (64, 64, 3) uint8 RGB.
        object_HW: True where the bird covers at least a third of the pixel, (64, 64) bool.
        counterpart_HW: The silhouette that the *other* kind of bird has in the same place and pose, (64, 64) bool; for
            an owl, the waterbird's. The union of both tells nothing about the first two kinds: masks that must not leak
            the class are made from it.
    """

    image_HWC: np.ndarray
    object_HW: np.ndarray
    counterpart_HW: np.ndarray


def render_scene(seed: int, *, label: int, attribute: int, plumage: Plumage = "hinted") -> Scene:
    """Scene of one bird.

    Args:
        seed: Any integer of at most 64 bits; the same seed gives the same bytes. Background, pose and the two
            silhouettes depend on the seed and `attribute` only, so `label` changes the bird and nothing else.
        label: 0 landbird, 1 waterbird, 2 owl.
        attribute: 0 land, 1 water, 2 snow.
        plumage: "hinted" draws class-typical colours a little more often; "independent" makes the colours say
            nothing about the class.

    Returns:
        The picture, the object's mask, and the mask that the other kind of bird has there.
    """
    background_rng = np.random.default_rng([seed, 0])
    background_HWC = (_land, _water, snow)[attribute](background_rng)
    pose = _draw_pose(np.random.default_rng([seed, 1]))
    birds = [_draw_bird(np.random.default_rng([seed, 2 + kind]), kind, pose, plumage) for kind in (0, 1)]
    if label == 2:
        birds.append(_draw_bird(np.random.default_rng([seed, 5]), label, pose, plumage))
    rgba_HWC = birds[label]

    finish_rng = np.random.default_rng([seed, 4])
    alpha_HW1 = rgba_HWC[..., 3:] / 255
    image_HWC = background_HWC * (1 - alpha_HW1) + rgba_HWC[..., :3] * alpha_HW1
    image_HWC = image_HWC * finish_rng.uniform(0.88, 1.08)
    image_HWC = image_HWC + finish_rng.normal(0, finish_rng.uniform(0, 2), (SIZE_PX, SIZE_PX, 1))
    silhouettes = [bird[..., 3] >= 85 for bird in birds]
    return Scene(image_HWC.clip(0, 255).astype(np.uint8), silhouettes[label], silhouettes[1 - label])


def _water(rng: np.random.Generator) -> np.ndarray:
    """Sky over a sea with perspective waves, (64, 64, 3) float."""
    y_HW, x_HW = grid()
    horizon_px = rng.uniform(4, 26)
    if rng.random() < 0.2:  # dawn or dusk
        top, low = (
            hsv(rng.uniform(0.02, 0.1), rng.uniform(0.3, 0.6), rng.uniform(0.6, 0.95)),
            hsv(0.11, 0.4, 0.95),
        )
    else:
        top, low = (
            hsv(rng.uniform(0.53, 0.62), rng.uniform(0.2, 0.6), rng.uniform(0.6, 1)),
            hsv(0.56, 0.12, 0.95),
        )
    fade_HW1 = (y_HW / horizon_px).clip(0, 1)[..., None]
    sky_HWC = top * (1 - fade_HW1) + low * fade_HW1 + (smooth_noise(rng, 5)[..., None] - 0.5) * rng.uniform(0, 35)

    hue = rng.uniform(0.47, 0.62)
    near, far = (
        hsv(hue, rng.uniform(0.4, 0.8), rng.uniform(0.3, 0.6)),
        hsv(hue + 0.02, 0.4, rng.uniform(0.55, 0.8)),
    )
    depth_HW = ((y_HW - horizon_px) / (SIZE_PX - horizon_px)).clip(0, 1)
    sea_HWC = far * (1 - depth_HW[..., None]) + near * depth_HW[..., None]
    phase, frequency = rng.uniform(0, 2 * math.pi, 2), rng.uniform(14, 28)
    wobble_HW = smooth_noise(rng, 6) * rng.uniform(1, 4) + 0.05 * x_HW * rng.uniform(-1, 1)
    distance_HW = np.log1p(3 * depth_HW)
    waves_HW = np.sin(frequency * distance_HW + wobble_HW + phase[0])
    waves_HW = waves_HW + 0.5 * np.sin(1.9 * frequency * distance_HW + 1.7 * wobble_HW + phase[1])
    sea_HWC = sea_HWC + waves_HW[..., None] * rng.uniform(5, 15)
    if rng.random() < 0.3:  # a path of sunlight
        path_HW = np.exp(-(((x_HW - rng.uniform(0, SIZE_PX)) / (3 + 8 * depth_HW)) ** 2))
        sea_HWC = sea_HWC + (path_HW * (0.6 + 0.4 * np.sign(waves_HW)))[..., None] * rng.uniform(25, 60)
    return np.where((y_HW < horizon_px)[..., None], sky_HWC, sea_HWC)


def _land(rng: np.random.Generator) -> np.ndarray:
    """Foliage and trunks behind a meadow, (64, 64, 3) float."""
    y_HW, x_HW = grid()
    hue = rng.uniform(0.2, 0.38) if rng.random() < 0.75 else rng.uniform(0.06, 0.14)
    dark = hsv(hue, rng.uniform(0.4, 0.8), rng.uniform(0.15, 0.4))
    light = hsv(hue + rng.uniform(-0.05, 0.05), rng.uniform(0.3, 0.7), rng.uniform(0.45, 0.8))
    leaves_HW = 0.6 * smooth_noise(rng, 6) + 0.4 * smooth_noise(rng, 13)
    leaves_HW = ((leaves_HW - 0.5) * rng.uniform(1.0, 2.0) + 0.5).clip(0, 1)
    image_HWC = dark * (1 - leaves_HW[..., None]) + light * leaves_HW[..., None]
    for _ in range(rng.integers(0, 4)):
        half_width_px, lean = rng.uniform(1.5, 4.5), rng.uniform(-0.1, 0.1)
        across_HW = (x_HW - rng.uniform(-2, SIZE_PX + 2) - lean * y_HW) / half_width_px
        bark = hsv(rng.uniform(0.04, 0.1), rng.uniform(0.2, 0.55), rng.uniform(0.2, 0.5))
        trunk_HWC = (1 - 0.4 * across_HW[..., None]) * bark + (smooth_noise(rng, 24, 5)[..., None] - 0.5) * 25
        image_HWC = np.where((np.abs(across_HW) < 1)[..., None], trunk_HWC, image_HWC)
    meadow = hsv(rng.uniform(0.1, 0.33), rng.uniform(0.3, 0.7), rng.uniform(0.35, 0.7))
    tufts_HW = 0.6 * smooth_noise(rng, 9, 5) + 0.4 * smooth_noise(rng, 30, 16) - 0.5
    edge_HW = rng.uniform(34, 58) + (smooth_noise(rng, 2, 7) - 0.5) * 7
    return np.where((y_HW > edge_HW)[..., None], meadow + tufts_HW[..., None] * rng.uniform(30, 70), image_HWC)


def _draw_pose(rng: np.random.Generator) -> Pose:
    return Pose(
        half_length_px=rng.uniform(12.0, 15.5),
        center_x_px=rng.uniform(28, 36),
        center_y_px=rng.uniform(34, 42),
        facing=1 if rng.random() < 0.5 else -1,
        tilt=math.radians(rng.uniform(-10, 14)),
        aspect=rng.uniform(0.48, 0.6),
        has_legs=bool(rng.random() < 0.6),
    )


def _draw_colour(rng: np.random.Generator, kind: int, plumage: Plumage) -> Rgb:
    typical = plumage == "hinted" and rng.random() < TYPICAL_PLUMAGE_PROBABILITY
    families = TYPICAL_FAMILIES[kind] if typical else tuple(FAMILIES)
    hue, saturation, value = FAMILIES[families[rng.integers(len(families))]]
    return hsv(rng.uniform(*hue), rng.uniform(*saturation), rng.uniform(*value))


def _draw_bird(rng: np.random.Generator, kind: int, pose: Pose, plumage: Plumage) -> np.ndarray:
    """One bird on nothing, (64, 64, 4) float RGBA, straight alpha, 0..255."""
    body = _draw_colour(rng, kind, plumage)
    wing = body * rng.uniform(0.55, 0.8) if body.mean() > 60 else body + rng.uniform(40, 80)
    head = body if rng.random() < 0.7 else (np.full(3, 30.0) if body.mean() > 110 else np.full(3, 225.0))
    bill = hsv(rng.uniform(0.05, 0.14), 0.9, rng.uniform(0.8, 1)) if rng.random() < 0.8 else np.full(3, 50.0)
    canvas = Canvas(pose)
    if pose.has_legs:
        length = rng.uniform(0.45, 0.75)
        for forward in (-0.12, 0.18):
            canvas.leg((forward, -pose.aspect * 0.8), length, rng.uniform(-0.08, 0.08), bill * 0.85)
    head_at, head_radius = (_landbird, _waterbird, draw_owl)[kind](canvas, rng, pose, body, wing, head, bill)
    canvas.ellipse((-0.15, 0.04), (0.55, pose.aspect * 0.55), rng.uniform(-0.1, 0.2), wing)
    eye = np.full(3, 15.0) if head.mean() > 70 else np.full(3, 235.0)
    canvas.disc((head_at[0] + head_radius * 0.3, head_at[1] + head_radius * 0.25), 0.9, eye)
    return outlined(canvas.image, body * 0.35)


def _landbird(
    canvas: Canvas, rng: np.random.Generator, pose: Pose, body: Rgb, wing: Rgb, head: Rgb, bill: Rgb
) -> tuple[tuple[float, float], float]:
    """Round head on the shoulders, short thick bill, long tail; gives back the head's centre and radius."""
    angle, length = rng.uniform(-0.3, 0.45), rng.uniform(0.7, 1.05)
    tip = (-0.85 - length * math.cos(angle), length * math.sin(angle))
    canvas.tube([(-0.6, 0.02), (-0.85, 0.02), tip], (pose.aspect * 0.75, rng.uniform(0.22, 0.36)), wing)
    canvas.ellipse((0, 0), (1, pose.aspect), 0, body)
    radius = rng.uniform(0.36, 0.44)
    at = (rng.uniform(0.74, 0.88), pose.aspect * 0.5 + rng.uniform(0.2, 0.34))
    draw_bill(canvas, at, radius, rng.uniform(0.26, 0.38), rng.uniform(0.26, 0.34), rng.uniform(-0.3, 0.15), bill)
    canvas.ellipse(at, (radius * 1.05, radius), 0, head)
    return at, radius


def _waterbird(
    canvas: Canvas, rng: np.random.Generator, pose: Pose, body: Rgb, wing: Rgb, head: Rgb, bill: Rgb
) -> tuple[tuple[float, float], float]:
    """Long neck, small head, long thin bill, stub of a tail; gives back the head's centre and radius."""
    angle, length = rng.uniform(0.1, 0.5), rng.uniform(0.15, 0.35)
    tip = (-0.85 - length * math.cos(angle), length * math.sin(angle))
    canvas.tube([(-0.6, 0.02), (-0.85, 0.04), tip], (pose.aspect * 0.9, rng.uniform(0.2, 0.35)), wing)
    canvas.ellipse((0, 0), (1, pose.aspect), 0, body)
    root = (0.66, pose.aspect * 0.3)
    reach, lean, bend = rng.uniform(0.8, 1.15), rng.uniform(1.05, 1.6), rng.uniform(0.05, 0.35)
    end = (root[0] + reach * math.cos(lean), root[1] + reach * math.sin(lean))
    elbow = ((root[0] + end[0]) / 2 + bend * math.sin(lean), (root[1] + end[1]) / 2 - bend * math.cos(lean))
    spine = [
        (
            (1 - t) ** 2 * root[0] + 2 * t * (1 - t) * elbow[0] + t * t * end[0],
            (1 - t) ** 2 * root[1] + 2 * t * (1 - t) * elbow[1] + t * t * end[1],
        )
        for t in (i / 7 for i in range(8))
    ]
    canvas.tube(spine, (rng.uniform(0.4, 0.52), rng.uniform(0.24, 0.3)), body)
    radius = rng.uniform(0.23, 0.29)
    at = (end[0] + 0.06, end[1] + 0.03)
    draw_bill(canvas, at, radius, rng.uniform(0.6, 0.9), rng.uniform(0.16, 0.22), rng.uniform(-0.4, 0.05), bill)
    canvas.ellipse(at, (radius * 1.15, radius), 0, head)
    return at, radius
