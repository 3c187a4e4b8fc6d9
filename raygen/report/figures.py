"""Numbers -> inline SVG, drawn with the page's own colours, so that it is right in light, in dark and on paper.

Row figures (dots with intervals, bars) use percent coordinates and no viewBox: the row grows with the page while
text and lines keep their size. Classes such as `before` and `kept` get their colour from style.css.
"""

# N candidates

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from raygen.report.words import PSI, RHO

# Beyond this, the value's text would leave the figure on the right, so it stands left of the interval.
_TEXT_TURNS_AT = 0.82
# Points of one panel; more would only make the page heavier.
MAX_POINTS = 1500
_PANEL_WIDTH, _PANEL_HEIGHT = 340, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 14, 18, 44


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy with its 95% interval.

    Attributes:
        role: CSS class that colours it: "before" or "after".
        name: What it is, for the text of the figure.
        value: In [0, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    role: str
    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ScorePanel:
    """Scores of the candidates of one direction (source class to target class) and the thresholds for it.

    Attributes:
        title: The direction, readable.
        source_probability_N: psi, (N,) float in [0, 1].
        attribution_inside_N: rho, (N,) float.
        kept_N: Whether each is kept, (N,) bool.
        source_probability_below: Psi, or None when that test is off.
        attribution_above: P, or None when that test is off.
    """

    title: str
    source_probability_N: np.ndarray
    attribution_inside_N: np.ndarray
    kept_N: np.ndarray
    source_probability_below: float | None
    attribution_above: float | None


def percent(share: float, digits: int = 1) -> str:
    """A share as text, such as "41.2%"."""
    return f"{100 * share:.{digits}f}%"


def estimate_rows(estimates: Sequence[Estimate]) -> Markup:
    """Dots with intervals on a 0-100% axis, one lane each, (width of the page) x 22 px a lane."""
    height = 22 * len(estimates) + 4
    summary = "; ".join(
        f"{e.name} {percent(e.value)}, interval {percent(e.low)} to {percent(e.high)}" for e in estimates
    )
    parts = [_open_svg(height, summary), *_grid_lines(height)]
    for lane, e in enumerate(estimates):
        y = 13 + 22 * lane
        parts.append(f'<g class="{escape(e.role)}">')
        parts.append(f'<line class="whisker" x1="{_x(e.low)}" x2="{_x(e.high)}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot" cx="{_x(e.value)}" cy="{y}" r="5.5"/>')
        left = e.high > _TEXT_TURNS_AT
        place = f'x="{_x(e.low)}" dx="-9" text-anchor="end"' if left else f'x="{_x(e.high)}" dx="9"'
        parts.append(f'<text class="value" {place} y="{y + 4}">{percent(e.value)}</text></g>')
    return Markup("".join([*parts, "</svg>"]))


def percent_axis() -> Markup:
    """The axis under `estimate_rows`."""
    parts = ['<svg class="row-figure" width="100%" height="18" aria-hidden="true">']
    for tick in (0, 25, 50, 75, 100):
        anchor = {0: "start", 100: "end"}.get(tick, "middle")
        parts.append(f'<text class="tick" x="{_x(tick / 100)}" y="13" text-anchor="{anchor}">{tick}%</text>')
    return Markup("".join([*parts, "</svg>"]))


def stacked_bar(parts: Sequence[tuple[str, str, int]]) -> Markup:
    """One bar of counts.

    Args:
        parts: (css class, name, count) from left to right.
    """
    total = sum(count for _, _, count in parts)
    summary = ", ".join(f"{name}: {count:,}" for _, name, count in parts)
    svg, start = [_open_svg(26, summary)], 0.0
    for role, name, count in parts:
        width = count / total if total else 0.0
        svg.append(
            f'<rect class="bar {escape(role)}" x="{100 * start:.3f}%" y="2" height="22" width="{100 * width:.3f}%">'
            f"<title>{escape(name)}: {count:,}</title></rect>"
        )
        start += width
    return Markup("".join([*svg, "</svg>"]))


def bar(share: float, text: str) -> Markup:
    """A single bar of length `share` in [0, 1] with its text behind it."""
    place = f'x="{78 * share:.2f}%" dx="8"'
    return Markup(
        f'{_open_svg(20, text)}<rect class="bar time" x="0" y="3" height="14" rx="2" width="{78 * share:.2f}%"/>'
        f'<text class="value" {place} y="14">{escape(text)}</text></svg>'
    )


def score_panel(panel: ScorePanel) -> Markup:
    """Plots psi against rho with both thresholds; the region that is kept is shaded."""
    finite_N = np.isfinite(panel.source_probability_N) & np.isfinite(panel.attribution_inside_N)
    psi_N, rho_N = panel.source_probability_N[finite_N], panel.attribution_inside_N[finite_N]
    kept_N = panel.kept_N[finite_N]
    ticks = _ticks(rho_N, panel.attribution_above)
    frame = _Frame(ticks[0], ticks[-1])
    summary = f"{panel.title}: {int(kept_N.sum())} of {kept_N.size} kept"
    parts = [
        f'<svg class="panel" viewBox="0 0 {_PANEL_WIDTH} {_PANEL_HEIGHT}" role="img" aria-label="{escape(summary)}">',
        *_kept_region(panel, frame),
        *_panel_axes(frame, ticks),
    ]
    chosen_N = np.zeros(kept_N.size, dtype=bool)
    chosen_N[np.linspace(0, kept_N.size - 1, min(kept_N.size, MAX_POINTS)).astype(int)] = True
    for role, of_N in (("pruned", chosen_N & ~kept_N), ("kept", chosen_N & kept_N)):
        # Two shapes, so that the figure can be read without colour: a cross is pruned, a dot is kept.
        mark = "h0" if role == "kept" else "m-2-2l4 4m0-4l-4 4"
        places = [f"M{frame.x(p):.1f} {frame.y(r):.1f}{mark}" for p, r in zip(psi_N[of_N], rho_N[of_N], strict=True)]
        parts.append(f'<path class="points {role}" d="{"".join(places)}"/>')
    return Markup("".join([*parts, *_threshold_lines(panel, frame), "</svg>"]))


@dataclass(frozen=True, slots=True)
class _Frame:
    low: float
    high: float

    def x(self, psi: float) -> float:
        return _LEFT + float(psi) * (_PANEL_WIDTH - _LEFT - _RIGHT)

    def y(self, rho: float) -> float:
        share = (float(rho) - self.low) / (self.high - self.low)
        return _PANEL_HEIGHT - _BOTTOM - share * (_PANEL_HEIGHT - _TOP - _BOTTOM)


def _ticks(rho_N: np.ndarray, threshold: float | None) -> list[float]:
    """Round values that cover all of rho, zero and the threshold: 3 to 7 of them."""
    values = [
        0.0,
        *([] if threshold is None else [threshold]),
        *([rho_N.min(), rho_N.max()] if rho_N.size else []),
    ]
    low, high = float(min(values)), float(max(values))
    span = max(high - low, 1e-6)
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step for i in range(first, max(last, first + 1) + 1)]


def _panel_axes(frame: _Frame, ticks: Sequence[float]) -> list[str]:
    bottom, right = _PANEL_HEIGHT - _BOTTOM, _PANEL_WIDTH - _RIGHT
    parts = []
    for tick in ticks:
        y = frame.y(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = frame.x(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(
        f'<text class="axis" x="{middle_x:.0f}" y="{_PANEL_HEIGHT - 8}" text-anchor="middle">'
        f"{PSI}, probability of the source class</text>"
        f'<text class="axis" transform="translate(11 {middle_y:.0f}) rotate(-90)" text-anchor="middle">'
        f"{RHO}, attribution to the target</text>"
    )
    return parts


def _kept_region(panel: ScorePanel, frame: _Frame) -> list[str]:
    psi = 1.0 if panel.source_probability_below is None else min(max(panel.source_probability_below, 0.0), 1.0)
    rho = frame.low if panel.attribution_above is None else panel.attribution_above
    top, width, height = frame.y(frame.high), frame.x(psi) - _LEFT, frame.y(rho) - frame.y(frame.high)
    return [f'<rect class="kept-region" x="{_LEFT}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"/>']


def _threshold_lines(panel: ScorePanel, frame: _Frame) -> list[str]:
    bottom, right, parts = _PANEL_HEIGHT - _BOTTOM, _PANEL_WIDTH - _RIGHT, []
    if panel.source_probability_below is not None:
        x = frame.x(min(panel.source_probability_below, 1.0))
        anchor = "end" if x > (_LEFT + right) / 2 else "start"
        parts.append(f'<line class="threshold" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
        text = f"Ψ = {panel.source_probability_below:.3g}"
        parts.append(f'<text class="threshold-name" x="{x:.1f}" y="{_TOP - 5}" text-anchor="{anchor}">{text}</text>')
    if panel.attribution_above is not None:
        y = frame.y(panel.attribution_above)
        parts.append(f'<line class="threshold" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        text = f"P = {panel.attribution_above:.3g}"
        parts.append(f'<text class="threshold-name" x="{right - 3}" y="{y - 5:.1f}" text-anchor="end">{text}</text>')
    return parts


def _open_svg(height: int, label: str) -> str:
    return f'<svg class="row-figure" width="100%" height="{height}" role="img" aria-label="{escape(label)}">'


def _grid_lines(height: int) -> list[str]:
    ticks = (0, 0.25, 0.5, 0.75, 1)
    return [f'<line class="grid" x1="{_x(t)}" x2="{_x(t)}" y1="0" y2="{height}"/>' for t in ticks]


def _x(share: float) -> str:
    # 1% margins: a dot at 0% or 100% is drawn whole.
    return f"{1 + 98 * share:.2f}%"
