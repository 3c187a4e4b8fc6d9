"""One share against another as inline SVG: a dot a result, its name beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from raygen.report.figures import percent

_WIDTH, _HEIGHT = 340, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 18, 44
# A name's height, and the width of a letter of 12 px: wide enough for most.
_LINE, _LETTER = 12, 6.4
_RADIUS = 5
# Where a name may stand: on which side of its dot, and how many lines below it.
_PLACES = [(side, line) for line in (0, -1, 1, -2, 2) for side in ("right", "left")]


@dataclass(frozen=True, slots=True)
class Point:
    """A dot.

    Attributes:
        role: CSS class that colours it: "before", "after" or "other".
        name: What it is, beside the dot.
        x: In [0, 1].
        y: In [0, 1].
    """

    role: str
    name: str
    x: float
    y: float


def scatter(points: Sequence[Point], *, x_name: str, y_name: str, constant: float) -> Markup:
    """Plots shares against shares.

    Args:
        points: At least one.
        x_name: Name of the axis.
        y_name: Name of the axis.
        constant: Where a line across the first axis is: what a score that knows nothing gives.
    """
    ends = [constant, *(point.x for point in points)]
    step = next(step for step in (0.05, 0.1, 0.2) if step == 0.2 or (max(ends) - min(ends)) / step <= 5)
    first, last = math.floor(min(ends) / step), math.ceil(max(ends) / step)
    last = max(last, first + 1)
    low, high = first * step, last * step
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(x: float) -> float:
        return _LEFT + (x - low) / (high - low) * (right - _LEFT)

    def up(y: float) -> float:
        return bottom - y * (bottom - _TOP)

    said = "; ".join(f"{point.name}: {x_name} {percent(point.x)}, {y_name} {percent(point.y)}" for point in points)
    parts = [f'<svg class="panel" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(said)}">']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = up(share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{percent(share, 0)}</text>')
    for number in range(first, last + 1):
        x, text = across(number * step), percent(number * step, 0)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>')
    line = across(constant)
    parts.append(f'<line class="threshold" x1="{line:.1f}" x2="{line:.1f}" y1="{_TOP}" y2="{bottom}"/>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts += [
        f'<text class="axis" x="{middle_x:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>',
        f'<text class="axis" transform="translate(11 {middle_y:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_name)}</text>",
        *_named_dots([(point, across(point.x), up(point.y)) for point in points]),
    ]
    return Markup("".join([*parts, "</svg>"]))


def _named_dots(placed: Sequence[tuple[Point, float, float]]) -> list[str]:
    """Dots, and the names that have room: clear of dots and of each other."""
    dots, names = [], []
    taken = [(x - _RADIUS, x + _RADIUS, y - _RADIUS, y + _RADIUS) for _, x, y in placed]
    for point, x, y in placed:
        dots.append(
            f'<g class="{escape(point.role)}"><circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}">'
            f"<title>{escape(point.name)}: {percent(point.x)}, {percent(point.y)}</title></circle></g>"
        )
        for side, line in _PLACES:
            width, base = _LETTER * len(point.name), y + 4 + line * _LINE
            left = x + 8 if side == "right" else x - 8 - width
            box = (left, left + width, base - _LINE + 3, base + 2)
            is_inside = left >= _LEFT and box[1] <= _WIDTH and base <= _HEIGHT - _BOTTOM + 4 and base >= _TOP
            if is_inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                anchor, at = ("start", left) if side == "right" else ("end", left + width)
                place = f'x="{at:.1f}" y="{base:.1f}" text-anchor="{anchor}"'
                names.append(f'<text class="value" {place}>{escape(point.name)}</text>')
                break  # without room, the dot's title says it still
    return [*dots, *names]


def _overlap(box: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (left, right, top, bottom) overlap."""
    return box[0] < other[1] and other[0] < box[1] and box[2] < other[3] and other[2] < box[3]
