"""`serve.metrics.Metrics` that keeps the numbers in this process, for tests to read."""

from collections import defaultdict

from serve.metrics import METRICS

_Key = tuple[str, tuple[tuple[str, str], ...]]


class MemoryMetrics:
    """Numbers by name and sorted labels; a label that the metric does not declare fails.

    Attributes:
        values: Counters and gauges.
        observed: Values of histograms.
    """

    def __init__(self) -> None:
        self.values: dict[_Key, float] = defaultdict(float)
        self.observed: dict[_Key, list[float]] = defaultdict(list)

    def count(self, name: str, **labels: str) -> None:
        self.values[_key(name, labels)] += 1

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.observed[_key(name, labels)].append(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        self.values[_key(name, labels)] = value


def _key(name: str, labels: dict[str, str]) -> _Key:
    assert {*labels} == {*METRICS[name].labels}, f"{name} has the labels {METRICS[name].labels}, not {[*labels]}"
    return name, tuple(sorted(labels.items()))
