"""What runs at once and which nodes hold it: bin packing on numbers, without a cluster."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

KINDS = ("CPU", "GPU")
# Of the search for a place for everything, which takes a moment; nodes that are not searched through are believed.
_MOST_STEPS = 20_000
# Processes up to which the nodes are searched for a place for all.
_MOST_ITEMS = 64

# By `KINDS`.
Amounts = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """Processes that run at once, each on one node.

    Attributes:
        name: Where they come from, such as "pools.masker".
        each: Amount by resource of one, such as {"CPU": 2, "GPU": 1}.
        count: How many.
    """

    name: str
    each: Mapping[str, float]
    count: int = 1

    @property
    def total(self) -> dict[str, float]:
        """Amount by resource of all of them."""
        return {kind: self.count * amount for kind, amount in self.each.items()}

    def __str__(self) -> str:
        return f"{self.name}: {self.count} x ({describe(self.each)})"


def describe_nodes(nodes: Iterable[Amounts]) -> str:
    """Nodes by what each has: "2 nodes with 1 CPU, 1 node with 0 CPUs"."""
    counts = Counter(nodes)
    texts = []
    for amounts, count in sorted(counts.items(), reverse=True):
        each = dict(zip(KINDS, amounts, strict=True))
        texts.append(f"{count} node{'s' * (count > 1)} with {describe(each)}")
    return ", ".join(texts)


def listed(needs: Sequence[Need]) -> str:
    """All that runs at once, for messages."""
    return "; ".join(str(need) for need in needs if need.count)


def describe(amounts: Mapping[str, float]) -> str:
    """Amounts by resource in words: "2 CPUs, 1 GPU"."""
    return ", ".join(_amount(kind, amounts.get(kind, 0)) for kind in KINDS if amounts.get(kind) or kind == "CPU")


def _amount(kind: str, amount: float) -> str:
    return f"{amount:g} {kind}{'s' * (amount != 1)}"


def num_on(need: Mapping[str, float], nodes: Iterable[Amounts]) -> int:
    """How many processes of a kind the nodes hold, when they are free."""
    wanted = [(place, amount) for place, kind in enumerate(KINDS) if (amount := need.get(kind, 0)) > 0]
    return sum(min(int(node[place] / amount + 1e-6) for place, amount in wanted) for node in nodes)


def fits(needs: Sequence[Need], nodes: Sequence[Amounts]) -> bool:
    """Whether processes find room on nodes that are free; True where the search would take long."""
    items = sorted(
        (tuple(need.each.get(kind, 0) for kind in KINDS) for need in needs for _ in range(need.count)),
        key=lambda item: item[::-1],
        reverse=True,
    )
    items = [item for item in items if any(item)]
    if len(needs) == 1:
        return not items or num_on(needs[0].each, nodes) >= len(items)
    if len(items) > _MOST_ITEMS:
        return True
    dead: set[tuple[int, tuple[Amounts, ...]]] = set()

    def place(index: int, free: tuple[Amounts, ...]) -> bool:
        """Whether the items from `index` on find room; `free` is sorted."""
        if index == len(items) or len(dead) > _MOST_STEPS:
            return True
        if (index, free) in dead:
            return False
        for number, node in enumerate(free):
            if number and node == free[number - 1]:
                continue  # just such a node was tried
            left = tuple(round(there - taken, 6) for there, taken in zip(node, items[index], strict=True))
            if min(left) >= 0 and place(index + 1, tuple(sorted((*free[:number], left, *free[number + 1 :])))):
                return True
        dead.add((index, free))
        return False

    return place(0, tuple(sorted(nodes)))
