"""The endpoint's metrics as Ray's: every node's metrics port serves them to Prometheus, with `ray_` before the name."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from serve.metrics import METRICS

# Seconds; from an encoded 64 px picture to a large one of 150 steps on a slow device.
BOUNDARIES_S = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]


class RayMetrics:
    """Sends numbers to Ray.

    Args:
        labels: What every number of this process carries, such as the model of an engine.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        for name, metric in METRICS.items():
            keys = tuple({**dict.fromkeys(metric.labels), **self._labels})
            if metric.kind == "counter":
                # Ray adds "_total" itself.
                self._metrics[name] = Counter(name.removesuffix("_total"), metric.meaning, tag_keys=keys)
            elif metric.kind == "gauge":
                self._metrics[name] = Gauge(name, metric.meaning, tag_keys=keys)
            else:
                self._metrics[name] = Histogram(name, metric.meaning, boundaries=BOUNDARIES_S, tag_keys=keys)

    def count(self, name: str, **labels: str) -> None:
        """Adds one to a counter."""
        self._metrics[name].inc(1, {**self._labels, **labels})

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds a value to a histogram."""
        self._metrics[name].observe(value, {**self._labels, **labels})

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge."""
        self._metrics[name].set(value, {**self._labels, **labels})
        self._gauges[name, tuple(sorted(labels.items()))] = value

    def refresh(self) -> None:
        """Sets every gauge again: Ray exports one only in the interval in which it was set."""
        # A copy: other threads may set a gauge for the first time meanwhile.
        for (name, labels), value in list(self._gauges.items()):
            self._metrics[name].set(value, {**self._labels, **dict(labels)})
