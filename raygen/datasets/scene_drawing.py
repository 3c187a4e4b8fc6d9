"""What scenes are drawn with: colours, noise, and a canvas in a bird's own coordinates. Nothing here imports torch."""

# H height, W width, C colour channels

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

SIZE_PX = 64
SUPERSAMPLING = 3

UNIT_CIRCLE = [(math.cos(2 * math.pi * i / 28), math.sin(2 * math.pi * i / 28)) for i in range(28)]

Rgb = np.ndarray


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a bird stands, whatever its kind; lengths of a bird are in units of `half_length_px`."""

    half_length_px: float
    center_x_px: float
    center_y_px: float
    facing: int
    tilt: float
    aspect: float
    has_legs: bool


def hsv(hue: float, saturation: float, value: float) -> Rgb:
    """A colour as RGB, (3,) float 0..255; saturation and value are clipped to [0, 1], the hue goes round."""
    rgb = colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return np.array(rgb) * 255


def smooth_noise(rng: np.random.Generator, rows: int, columns: int | None = None) -> np.ndarray:
    """Noise in about [0, 1] that varies over SIZE_PX / rows pixels, (64, 64) float32."""
    grid = rng.random((rows, columns or rows)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each pixel, (64, 64) float32 each."""
    rows, columns = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float32)
    return rows, columns


class Canvas:
    """Draws parts of a bird, given in body coordinates (forward, up) in units of the half-length."""

    def __init__(self, pose: Pose) -> None:
        side = SIZE_PX * SUPERSAMPLING
        self.image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._pose, self._cos, self._sin = pose, math.cos(pose.tilt), math.sin(pose.tilt)

    def point(self, forward: float, up: float) -> tuple[float, float]:
        """Where that is on the supersampled canvas, pixels right and down."""
        pose = self._pose
        x = forward * self._cos - up * self._sin
        y = forward * self._sin + up * self._cos
        return (
            (pose.center_x_px + pose.facing * pose.half_length_px * x) * SUPERSAMPLING,
            (pose.center_y_px - pose.half_length_px * y) * SUPERSAMPLING,
        )

    def polygon(self, points: list[tuple[float, float]], colour: Rgb) -> None:
        """Fills a polygon."""
        self._draw.polygon([self.point(*p) for p in points], fill=fill(colour))

    def ellipse(self, center: tuple[float, float], half: tuple[float, float], angle: float, colour: Rgb) -> None:
        """Fills an ellipse of these half axes, turned by an angle."""
        cos, sin = math.cos(angle), math.sin(angle)
        outline = [(half[0] * x, half[1] * y) for x, y in UNIT_CIRCLE]
        self.polygon([(center[0] + a * cos - b * sin, center[1] + a * sin + b * cos) for a, b in outline], colour)

    def tube(self, spine: list[tuple[float, float]], width: tuple[float, float], colour: Rgb) -> None:
        """Fills a line of points whose width goes from the first to the second."""
        left, right = [], []
        last = len(spine) - 1
        for i, (u, v) in enumerate(spine):
            (u0, v0), (u1, v1) = spine[max(i - 1, 0)], spine[min(i + 1, last)]
            length = math.hypot(u1 - u0, v1 - v0)
            half = (width[0] + (width[1] - width[0]) * i / last) / 2
            left.append((u - (v1 - v0) / length * half, v + (u1 - u0) / length * half))
            right.append((u + (v1 - v0) / length * half, v - (u1 - u0) / length * half))
        self.polygon(left + right[::-1], colour)

    def leg(self, at: tuple[float, float], length: float, sway: float, colour: Rgb) -> None:
        """Draws a leg from a point of the body."""
        # Legs hang straight down, however the body is tilted.
        x, y = self.point(*at)
        scale = self._pose.half_length_px * SUPERSAMPLING
        width = max(2, round(0.1 * scale))
        self._draw.line([x, y, x + sway * scale, y + length * scale], fill=fill(colour), width=width)

    def disc(self, at: tuple[float, float], radius_px: float, colour: Rgb) -> None:
        """Fills a disc whose radius is in pixels of the picture."""
        x, y = self.point(*at)
        r = radius_px * SUPERSAMPLING
        self._draw.ellipse([x - r, y - r, x + r, y + r], fill=fill(colour))


def fill(colour: Rgb) -> tuple[int, int, int, int]:
    """A colour as Pillow takes it, opaque."""
    red, green, blue = (min(max(int(v), 0), 255) for v in colour)
    return red, green, blue, 255


def draw_bill(
    canvas: Canvas,
    head_at: tuple[float, float],
    head_radius: float,
    length: float,
    thickness: float,
    angle: float,
    colour: Rgb,
) -> None:
    """A triangle that begins inside the head's edge."""
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = head_at[0] + 0.8 * head_radius * cos, head_at[1] + 0.8 * head_radius * sin
    half = thickness / 2
    canvas.polygon(
        [
            (u - sin * half, v + cos * half),
            (u + length * cos, v + length * sin),
            (u + sin * half, v - cos * half),
        ],
        colour,
    )


def outlined(bird: Image.Image, colour: Rgb) -> np.ndarray:
    """The bird with a thin dark outline, brought to 64 px, so that its shape shows on any background."""
    alpha = bird.getchannel("A")
    grown = alpha
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        grown = ImageChops.lighter(grown, ImageChops.offset(alpha, dx, dy))
    outline = Image.new("RGBA", bird.size, fill(colour))
    outline.putalpha(grown)
    outline.alpha_composite(bird)
    # Reduce with premultiplied alpha: with straight alpha the black of empty pixels would darken the edges.
    return np.asarray(outline.convert("RGBa").reduce(SUPERSAMPLING).convert("RGBA")).astype(np.float32)
