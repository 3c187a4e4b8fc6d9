"""Which pictures share the next UNet call: pure functions over what waits and runs; not for running them.

Probes of one step go before all else, interactive requests before batch requests; among equals, the picture with the
fewest steps left goes first, so that a request of 3 steps never waits for one of 150 (shortest remaining time: least
mean latency). Nothing starves: every `ageing_s` seconds of age lift a request by a class, and what has risen above
interactive goes in order of arrival. A picture can lose its place between any two steps; it keeps its latent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

_BASE = {"interactive": 0, "batch": 1}


@dataclass(frozen=True, slots=True)
class Pace:
    """What goes by the clock, in seconds.

    Attributes:
        ageing_s: So much age lifts a request by a class.
        choice_s: So often the order is looked at again, though nothing happens but that requests grow older.
        probe_timeout_s: A model whose probe takes longer does not paint now.
    """

    ageing_s: float = 30.0
    choice_s: float = 1.0
    probe_timeout_s: float = 10.0


PACE = Pace()


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
        """Pictures of one group can share a UNet call: same latent size, guidance on or off at the next step."""
        ...

    @property
    def order(self) -> tuple[int, int]:
        """Number of its request and of the picture in it: the last word."""
        ...


Item = TypeVar("Item", bound=Schedulable)


def rank(item: Schedulable, *, now_s: float, ageing_s: float = PACE.ageing_s) -> tuple[int, float, tuple[int, int]]:
    """The smaller, the sooner."""
    if item.priority == "probe":
        return -2, 0.0, item.order
    level = max(-1, _BASE[item.priority] - int((now_s - item.arrived_s) // ageing_s))
    return level, item.arrived_s if level < 0 else float(item.steps_left), item.order


def choose(items: Sequence[Item], *, num_rows: int, now_s: float, ageing_s: float = PACE.ageing_s) -> list[Item]:
    """At most `num_rows` items for one UNet call: the first in rank, and those of its group that come next."""
    if not items:
        return []
    ranked = sorted(items, key=lambda item: rank(item, now_s=now_s, ageing_s=ageing_s))
    return [item for item in ranked if item.group == ranked[0].group][:num_rows]
