"""Which pictures share the next UNet call: pure functions over what waits and runs; not for running them.

Probes of one step go before all else, interactive requests before batch requests; among equals, the picture with the
fewest steps left goes first, so that a request of 3 steps never waits for one of 150 (shortest remaining time: least
mean latency). Nothing starves: every `AGEING_S` seconds of age lift a request by a class, and what has risen above
interactive goes in order of arrival. A picture can lose its place between any two steps; it keeps its latent.
"""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

AGEING_S = 30.0
_BASE = {"interactive": 0, "batch": 1}


class Schedulable(Protocol):
    """What the order depends on."""

    @property
    def priority(self) -> str:
        """Either "probe", "interactive" or "batch"."""
        ...

    @property
    def arrived_s(self) -> float:
        """When its request came, on the monotonic clock."""
        ...

    @property
    def steps_left(self) -> int:
        """Denoising steps to go."""
        ...

    @property
    def group(self) -> Any:
        """Pictures of one group can share a UNet call: same latent size, guidance on or off."""
        ...

    @property
    def order(self) -> tuple[int, int]:
        """Number of its request and of the picture in it: the last word."""
        ...


Item = TypeVar("Item", bound=Schedulable)


def rank(item: Schedulable, *, now_s: float) -> tuple[int, float, tuple[int, int]]:
    """The smaller, the sooner."""
    if item.priority == "probe":
        return -2, 0.0, item.order
    level = max(-1, _BASE[item.priority] - int((now_s - item.arrived_s) // AGEING_S))
    return level, item.arrived_s if level < 0 else float(item.steps_left), item.order


def choose(items: Sequence[Item], *, num_rows: int, now_s: float) -> list[Item]:
    """At most `num_rows` items for one UNet call: the first in rank, and those of its group that come next."""
    if not items:
        return []
    ranked = sorted(items, key=lambda item: rank(item, now_s=now_s))
    return [item for item in ranked if item.group == ranked[0].group][:num_rows]
