"""The endpoint's metrics: their names, and where numbers go; `serve.ray_metrics` sends them to Prometheus."""

from dataclasses import dataclass
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        kind: Counter, gauge or histogram.
        labels: Names of its labels.
        meaning: For the reader of the scrape.
    """

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str


METRICS = {
    "raygen_requests_total": Metric("counter", ("route", "code", "model"), "HTTP requests by route, code and model"),
    "raygen_queue_depth": Metric("gauge", ("priority",), "requests that wait at a replica"),
    "raygen_queue_seconds": Metric("histogram", (), "seconds from arrival at a replica to the first step"),
    "raygen_step_seconds": Metric("histogram", ("bucket",), "seconds of a step, encoding and decoding included"),
    "raygen_bucket_fill": Metric("gauge", (), "share of the rows of the last UNet call that were in use"),
    "raygen_generation_seconds": Metric("histogram", (), "seconds from the first step to the last picture"),
    "raygen_encode_seconds": Metric("histogram", ("format",), "seconds to encode the pictures of a response"),
    "raygen_cancelled_total": Metric("counter", ("stage",), "requests given up: queued, running, deadline"),
    "raygen_redispatch_total": Metric("counter", (), "requests sent again because a replica died"),
    "raygen_tokens_loaded": Metric("gauge", (), "learned tokens in a replica's memory"),
    "raygen_oom_total": Metric("counter", (), "UNet calls that memory did not hold"),
    "raygen_nonfinite_total": Metric("counter", (), "pictures with non-finite numbers"),
}


class Metrics(Protocol):
    """Where numbers go."""

    def count(self, name: str, **labels: str) -> None:
        """Adds one to a counter."""
        ...

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Adds a value to a histogram."""
        ...

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge."""
        ...
