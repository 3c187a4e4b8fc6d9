"""Figures of a sweep as inline SVG: parallel coordinates, importances, and the metric against each parameter."""

# T trials

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from raygen.report.figures import percent

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 1040, 340, 58, 26, 80
# Letters of a name on one line above its axis.
_LINE = 14
_PANEL_WIDTH, _PANEL_HEIGHT = 340, 250
_LEFT, _RIGHT, _PANEL_TOP, _PANEL_BOTTOM = 46, 14, 12, 40
# The faintest and the boldest line, from the lowest to the highest value of the metric.
_FAINT, _BOLD = 0.12, 0.75


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter, or the metric.

    Attributes:
        name: Readable name.
        note: Second line of its name, such as a class.
        points: Names of the places of a list, from bottom to top; empty for a range.
        low: Lower end of a range.
        high: Upper end of a range.
        is_share: Whether values are shown in percent.
    """

    name: str
    note: str = ""
    points: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    is_share: bool = False

    def place(self, value: Any) -> float:
        """Where a value lies, 0 at the bottom or left and 1 at the top or right."""
        if self.points:
            return (self.points.index(str(value)) + 0.5) / len(self.points)
        return (float(value) - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts: every value of a list, the ends of a range."""
        if self.points:
            return [(self.place(point), point) for point in self.points]
        return [(place, self.text(value)) for place, value in ((0.0, self.low), (1.0, self.high))]

    def text(self, value: Any) -> str:
        """A value as text."""
        if self.is_share:
            return percent(float(value))
        return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


@dataclass(frozen=True, slots=True)
class TrialLine:
    """One trial: its values on the axes (the metric last), its role ("best", "complete" or "stopped"), its text."""

    values: tuple[Any, ...]
    role: str
    text: str
    standard_error: float


def parallel_coordinates(axes: Sequence[Axis], trials: Sequence[TrialLine]) -> Markup:
    """One line a trial over all axes, bolder the higher its metric; the best in a colour of its own."""
    step = (_WIDTH - 2 * _SIDE) / max(1, len(axes) - 1)
    summary = f"{len(trials)} trials over {len(axes) - 1} parameters and {axes[-1].name}"
    parts = [f'<svg class="panel" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(summary)}">']
    for number, axis in enumerate(axes):
        parts += _vertical_axis(axis, _SIDE + number * step)
    metrics = [axes[-1].place(trial.values[-1]) for trial in trials]
    low, high = min(metrics), max(metrics)
    for trial, metric in sorted(zip(trials, metrics, strict=True), key=lambda pair: (pair[0].role == "best", pair[1])):
        places = [
            f"{_SIDE + number * step:.1f} {_y(axis.place(value)):.1f}"
            for number, (axis, value) in enumerate(zip(axes, trial.values, strict=True))
        ]
        opacity = 1.0 if trial.role == "best" else _FAINT + (_BOLD - _FAINT) * (metric - low) / (high - low or 1.0)
        parts.append(
            f'<path class="trial {escape(trial.role)}" style="stroke-opacity:{opacity:.2f}" d="M{" L".join(places)}">'
            f"<title>{escape(trial.text)}</title></path>"
        )
    return Markup("".join([*parts, "</svg>"]))


def against(axis: Axis, metric: Axis, trials: Sequence[TrialLine], *, column: int) -> Markup:
    """The metric against one parameter: dots with one standard error where the trial was complete, crosses elsewhere.

    Args:
        axis: The parameter.
        metric: The metric; the whiskers are of it.
        trials: Trials.
        column: Place of the parameter in their values.
    """
    right, bottom = _PANEL_WIDTH - _RIGHT, _PANEL_HEIGHT - _PANEL_BOTTOM
    label = f"{metric.name} against {axis.name} {axis.note}".strip()
    parts = [
        f'<svg class="panel" viewBox="0 0 {_PANEL_WIDTH} {_PANEL_HEIGHT}" role="img" aria-label="{escape(label)}">'
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = bottom - share * (bottom - _PANEL_TOP)
        text = metric.text(metric.low + share * (metric.high - metric.low))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    for place, text in axis.ticks():
        x = _LEFT + 8 + place * (right - _LEFT - 16)
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{escape(text)}</text>')
    parts.append(
        f'<text class="axis" x="{(_LEFT + right) / 2:.0f}" y="{_PANEL_HEIGHT - 6}" text-anchor="middle">'
        f"{escape(f'{axis.name} {axis.note}'.strip())}</text>"
    )
    for trial in sorted(trials, key=lambda trial: trial.role == "best"):
        x = _LEFT + 8 + axis.place(trial.values[column]) * (right - _LEFT - 16)
        ends = [min(1.0, max(0.0, metric.place(trial.values[-1] + sign * trial.standard_error))) for sign in (-1, 0, 1)]
        low, middle, high = (bottom - end * (bottom - _PANEL_TOP) for end in ends)
        parts.append(f'<g class="trial {escape(trial.role)}"><title>{escape(trial.text)}</title>')
        if trial.role == "stopped":
            parts.append(f'<path d="M{x - 3:.1f} {middle - 3:.1f}l6 6m0-6l-6 6"/></g>')
        else:
            parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
            parts.append(f'<circle cx="{x:.1f}" cy="{middle:.1f}" r="4"/></g>')
    return Markup("".join([*parts, "</svg>"]))


def _vertical_axis(axis: Axis, x: float) -> list[str]:
    parts = [
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>',
    ]
    for number, text in enumerate(_broken(axis.name)):
        parts.append(
            f'<text class="axis-name" x="{x:.1f}" y="{14 + 14 * number}" text-anchor="middle">{escape(text)}</text>'
        )
    parts.append(f'<text class="tick" x="{x:.1f}" y="42" text-anchor="middle">{escape(axis.note)}</text>')
    for place, text in axis.ticks():
        parts.append(
            f'<text class="tick" x="{x - 6:.1f}" y="{_y(place) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        )
    return parts


def _broken(name: str) -> list[str]:
    """A name on one line, or on two where it is long."""
    places = [i + 1 for i, letter in enumerate(name) if letter in "_ -"]
    if len(name) <= _LINE or not places:
        return [name]
    middle = min(places, key=lambda place: abs(place - len(name) / 2))
    return [name[:middle].rstrip(), name[middle:]]


def _y(place: float) -> float:
    return _HEIGHT - _BOTTOM - place * (_HEIGHT - _TOP - _BOTTOM)
