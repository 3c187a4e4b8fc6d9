"""What scenes of three kinds have beside those of two: an owl, and snow. Nothing here imports torch."""

# H height, W width, C colour channels

import numpy as np

from raygen.datasets.scene_drawing import SIZE_PX, Canvas, Pose, Rgb, draw_bill, grid, hsv, smooth_noise

# Plumage that an owl wears a little more often; both other kinds wear some of it, so it hints less.
TYPICAL_THIRD = ("brown", "white", "grey", "yellow")


def draw_owl(
    canvas: Canvas, rng: np.random.Generator, pose: Pose, body: Rgb, wing: Rgb, head: Rgb, bill: Rgb
) -> tuple[tuple[float, float], float]:
    """Upright body, large head without a neck, ear tufts, hardly a bill; gives back the head's centre and radius."""
    width = rng.uniform(0.5, 0.6)
    canvas.tube([(-0.1, -0.3), (-0.25, -0.7), (-0.35, rng.uniform(-1.15, -0.95))], (width * 0.8, 0.3), wing)
    canvas.ellipse((0, 0), (width, rng.uniform(0.8, 0.95)), rng.uniform(-0.1, 0.1), body)
    radius = rng.uniform(0.46, 0.54)
    at = (rng.uniform(0.0, 0.12), rng.uniform(0.95, 1.1))
    for side in (-1, 1):
        root, tip = at[0] + side * radius * 0.6, at[0] + side * radius * rng.uniform(0.7, 0.95)
        canvas.polygon(
            [
                (root - 0.16, at[1] + radius * 0.6),
                (tip, at[1] + radius * rng.uniform(1.35, 1.65)),
                (root + 0.16, at[1] + radius * 0.6),
            ],
            head,
        )
    draw_bill(canvas, at, radius, rng.uniform(0.14, 0.2), 0.2, rng.uniform(-0.7, -0.4), bill)
    canvas.ellipse(at, (radius * 1.05, radius), 0, head)
    return at, radius


def snow(rng: np.random.Generator) -> np.ndarray:
    """Pale sky, a ridge of rock, and a field of snow with blue shadows, (64, 64, 3) float."""
    y_HW, x_HW = grid()
    pale = hsv(rng.uniform(0.55, 0.66), rng.uniform(0.05, 0.3), rng.uniform(0.7, 0.95))
    image_HWC = pale + (smooth_noise(rng, 5)[..., None] - 0.5) * rng.uniform(0, 25)
    foot_px = rng.uniform(20, 34)
    ridge_HW = foot_px - (smooth_noise(rng, 3, 7) * rng.uniform(8, 18) + np.abs(x_HW - rng.uniform(0, SIZE_PX)) * 0.05)
    rock = hsv(rng.uniform(0.58, 0.72), rng.uniform(0.05, 0.25), rng.uniform(0.3, 0.5))
    rock_HWC = rock + (smooth_noise(rng, 14, 8)[..., None] - 0.5) * rng.uniform(30, 70)
    image_HWC = np.where(((y_HW > ridge_HW) & (y_HW < foot_px))[..., None], rock_HWC, image_HWC)
    white = hsv(0.6, rng.uniform(0.0, 0.08), rng.uniform(0.85, 1.0))
    shadow = hsv(rng.uniform(0.56, 0.68), rng.uniform(0.15, 0.4), rng.uniform(0.6, 0.85))
    drift_HW1 = ((smooth_noise(rng, 8, 4) - 0.45) * rng.uniform(1.5, 3.0)).clip(0, 1)[..., None]
    field_HWC = white * (1 - drift_HW1) + shadow * drift_HW1
    return np.where((y_HW >= foot_px)[..., None], field_HWC, image_HWC)
