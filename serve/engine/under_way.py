"""Requests and pictures that an engine has under way, as its queue sees them."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from raygen.endpoint.edits import EditEvent, EditRequest
from raygen.errors import EndpointError
from serve.engine.painting import Picture, PreparedRequest


@dataclass(eq=False)
class RequestUnderWay:
    """A request in the engine.

    Attributes:
        number: Counts requests: the order of arrival.
        request: What was asked.
        prepared: The same, checked and encoded.
        arrived_s: On the monotonic clock.
        wants_progress: Whether whoever waits for it reads `Progress`; without, a step wakes nobody.
        events: For whoever waits for it.
        started_s: When its first step began; None while it waits.
        num_left: Pictures that are not done.
        bucket: Fewest rows of a UNet call that it was in; 0 before the first.
        position: Requests before it plus one, as last told.
        is_probe: It asks whether the model paints, and goes before all others.
    """

    number: int
    request: EditRequest
    prepared: PreparedRequest
    arrived_s: float
    wants_progress: bool
    events: "asyncio.Queue[EditEvent | EndpointError]" = field(default_factory=asyncio.Queue)
    started_s: float | None = None
    num_left: int = 0
    bucket: int = 0
    position: int = 0
    is_probe: bool = False


@dataclass(eq=False)
class PictureUnderWay:
    """One picture of a request; a `serve.engine.scheduling.Schedulable`."""

    owner: RequestUnderWay
    picture: Picture

    @property
    def priority(self) -> str:
        """Its request's."""
        return "probe" if self.owner.is_probe else self.owner.request.priority

    @property
    def arrived_s(self) -> float:
        """When its request came."""
        return self.owner.arrived_s

    @property
    def steps_left(self) -> int:
        """Denoising steps to go."""
        return self.picture.steps_left

    @property
    def group(self) -> Any:
        """Which pictures it can share a call with."""
        return self.picture.group

    @property
    def order(self) -> tuple[int, int]:
        """Number of its request, and its own in it."""
        return self.owner.number, self.picture.index
