"""The values that a searched parameter may take."""

import math
from typing import Any

from pydantic import Field, model_validator

from raygen.config import Decides, Strict

Number = int | float
Value = bool | int | float | str
# Digits that steps are rounded to: 0.1 + 0.2 is 0.3 in a config and in its hash.
DIGITS = 10


class Domain(Strict, decides=Decides.RESULTS):
    """Values of one parameter: a list of them, or a range.

    Attributes:
        values: The list. Numbers in it have no order for the sampler.
        low: Least value of the range; with whole numbers for `low`, `high` and `step`, all values are whole.
        high: Greatest value, included.
        step: Distance of neighbouring values from `low` on; by default 1 for whole numbers, none for others.
        log: Draw the logarithm evenly; for rates.
        per_class: One parameter for each class.
    """

    values: tuple[Value, ...] | None = Field(None, min_length=1)
    low: Number | None = None
    high: Number | None = None
    step: Number | None = Field(None, gt=0)
    log: bool = False
    per_class: bool = False

    @model_validator(mode="after")
    def _list_or_range(self) -> "Domain":
        has_range = self.low is not None and self.high is not None
        if (self.values is not None) == has_range or (self.low is None) != (self.high is None):
            raise ValueError("give either `values`, or `low` and `high`")
        if self.values is not None:
            if self.step is not None or self.log:
                raise ValueError("`step` and `log` belong to a range, not to `values`")
            if len({(type(value), value) for value in self.values}) < len(self.values):
                raise ValueError("a value is given twice")
        return self

    @model_validator(mode="after")
    def _range_holds_values(self) -> "Domain":
        if self.low is None or self.high is None:
            return self
        if self.low >= self.high:
            raise ValueError(f"the range from {self.low} to {self.high} is empty; `low` must be below `high`")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError(f"step {self.step} is wider than the range from {self.low} to {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a `log` range has no `step`, and `low` above 0")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether a range holds whole numbers only."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 0))

    def points(self) -> list[Value] | None:
        """All values, in order; None where there are infinitely many."""
        if self.values is not None:
            return list(self.values)
        assert self.low is not None
        assert self.high is not None
        if self.is_whole and not self.log:
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return [round(self.low + i * self.step, DIGITS) for i in range(count)]

    def nearest(self, value: Any) -> Value:
        """The value of the domain that a sampler's number stands for, or a number that is not rounded."""
        points = self.points()
        if points is None:
            return int(value) if self.is_whole else float(value)
        if self.values is not None:
            return points[points.index(value)]
        return min(points, key=lambda point: abs(float(point) - float(value)))

    def holds(self, value: Any) -> bool:
        """Whether a config's value is one of the domain's; 1 and 1.0 differ in a list, but not in a range."""
        if self.values is not None:
            return any(type(value) is type(known) and value == known for known in self.values)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert self.low is not None
        assert self.high is not None
        points = self.points()
        if points is None:
            return self.low <= value <= self.high
        return any(abs(float(point) - value) < 10**-DIGITS for point in points)

    def extremes(self) -> list[Value]:
        """Values that show whether a config takes all of them: the whole list, or the ends of the range."""
        points = self.points()
        if self.values is not None:
            return list(self.values)
        if points is not None:
            return [points[0], points[-1]]
        assert self.low is not None
        assert self.high is not None
        return [self.low, self.high]
