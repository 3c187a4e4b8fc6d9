"""Which pictures go next: cases by hand."""

import random
from dataclasses import dataclass
from typing import Any

from serve.engine.scheduling import PACE, choose

AGEING_S = PACE.ageing_s


@dataclass(frozen=True)
class Item:
    name: str
    priority: str = "interactive"
    arrived_s: float = 0.0
    steps_left: int = 10
    group: Any = "64"
    order: tuple[int, int] = (0, 0)


def chosen(*items: Item, num_rows: int = 1, now_s: float = 0.0) -> str:
    shuffled = random.Random(0).sample(items, len(items))
    return "".join(item.name for item in choose(shuffled, num_rows=num_rows, now_s=now_s))


def test_nothing_waits() -> None:
    assert chosen() == ""


def test_interactive_goes_before_batch_however_short_the_batch_is() -> None:
    assert chosen(Item("b", "batch", steps_left=1), Item("i", steps_left=150)) == "i"


def test_the_fewest_steps_left_go_first() -> None:
    assert chosen(Item("l", steps_left=150), Item("s", steps_left=3, arrived_s=5), now_s=5) == "s"


def test_equals_go_in_order_of_arrival() -> None:
    assert chosen(Item("x", order=(2, 0)), Item("y", order=(1, 1)), Item("z", order=(1, 0))) == "z"


def test_age_lifts_a_batch_request_to_interactive_and_then_above() -> None:
    batch = Item("b", "batch", steps_left=5)
    young = Item("i", steps_left=10, arrived_s=AGEING_S - 2, order=(9, 0))
    assert chosen(batch, young, now_s=AGEING_S - 1) == "i"
    assert chosen(batch, young, now_s=AGEING_S) == "b"  # as if interactive: fewer steps left
    longer = Item("b", "batch", steps_left=100)
    assert chosen(longer, young, now_s=AGEING_S) == "i"
    assert chosen(longer, Item("i", steps_left=1, arrived_s=2 * AGEING_S), now_s=2 * AGEING_S) == "b"


def test_only_one_group_shares_a_call() -> None:
    items = [Item("a", steps_left=1), Item("B", steps_left=2, group="512"), Item("c", steps_left=3), Item("d")]
    assert chosen(*items, num_rows=8) == "acd"
    assert chosen(*items, num_rows=2) == "ac"


def test_a_probe_goes_before_the_oldest() -> None:
    old = Item("o", "batch", arrived_s=0, steps_left=1)
    assert chosen(old, Item("p", "probe", arrived_s=9 * AGEING_S, order=(5, 0)), now_s=9 * AGEING_S) == "p"
