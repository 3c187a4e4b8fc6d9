"""What the headers of an edit ask for: how long, how urgent, in which form, as a job, once.

Checked before the body is read.

There are two headers for the time. `x-raygen-timeout-seconds` is ours alone. `x-request-timeout-seconds` is obeyed by
Ray Serve too, whose proxy (and, behind HAProxy, whose replica) then cuts the answer off, or gives one of its own in
plain text: with that one the endpoint answers a little earlier, see `answer_within_s`.
"""

import math
import re
from dataclasses import dataclass

from starlette.datastructures import Headers

from raygen.endpoint.edits import Priority
from raygen.endpoint.wire import TIMEOUT_HEADER
from raygen.errors import EndpointError, number_text
from serve.config import ServeConfig
from serve.http.backend import OutputFormat
from serve.http.limits import MAX_IDEMPOTENCY_KEY_LENGTH, MAX_TIMEOUT_S, MIN_TIMEOUT_S

READ_TIMEOUT_HEADER, RAY_TIMEOUT_HEADER = "x-stainless-read-timeout", "x-request-timeout-seconds"
# So much earlier than Ray Serve the endpoint answers, a tenth of the time within these bounds and at most half of it:
# what a busy machine takes to bring an answer to the proxy.
MIN_HEAD_START_S, MAX_HEAD_START_S = 0.5, 2.0
RAW_TYPES: dict[str, OutputFormat] = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")
KEY = re.compile(rf"[\x21-\x7e]([\x20-\x7e]{{0,{MAX_IDEMPOTENCY_KEY_LENGTH - 2}}}[\x21-\x7e])?")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the headers ask for.

    Attributes:
        timeout_s: Seconds from the moment that the back end gets the request.
        priority: Who goes first.
        idempotency_key: The request runs once for it.
        is_async: Answer with a job.
        raw_types: Media types of pictures that are accepted, best first, if JSON is not; "image/*" is one.
    """

    timeout_s: float
    priority: Priority
    idempotency_key: str | None
    is_async: bool
    raw_types: tuple[str, ...]

    @property
    def is_job(self) -> bool:
        """Whether the work outlives the connection."""
        return self.is_async or self.idempotency_key is not None


def read_wishes(headers: Headers, config: ServeConfig) -> Wishes:
    """The wishes of a request.

    Raises:
        EndpointError: invalid_value, not_acceptable.
    """
    key = headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise _invalid("Idempotency-Key", f"is not 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} printable ASCII characters")
    priority = headers.get("x-raygen-priority", "interactive")
    if priority not in {"interactive", "batch"}:
        raise _invalid("x-raygen-priority", "is neither interactive nor batch")
    # RFC 7240: preferences that are not known are passed over.
    preferences = {part.split(";")[0].strip().lower() for part in ",".join(headers.getlist("prefer")).split(",")}
    is_async = "respond-async" in preferences
    return Wishes(
        timeout_s=_timeout_s(headers, config, is_job=is_async or key is not None),
        priority="batch" if priority == "batch" else "interactive",
        idempotency_key=key,
        is_async=is_async,
        raw_types=_raw_types(headers),
    )


def answer_within_s(headers: Headers) -> float | None:
    """Seconds from the start of any request after which Ray Serve might answer it in our stead; None: it will not."""
    limits = [seconds for seconds in map(_as_ray_reads, headers.getlist(RAY_TIMEOUT_HEADER)) if 0 < seconds < math.inf]
    if not limits:
        return None
    limit_s = min(limits)
    return limit_s - min(max(limit_s / 10, MIN_HEAD_START_S), MAX_HEAD_START_S, limit_s / 2)


def _as_ray_reads(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _timeout_s(headers: Headers, config: ServeConfig, *, is_job: bool) -> float:
    asked = []
    for name in (TIMEOUT_HEADER, RAY_TIMEOUT_HEADER):
        for text in headers.getlist(name):
            seconds = float(text) if _SECONDS.fullmatch(text) else math.nan
            if not MIN_TIMEOUT_S <= seconds <= MAX_TIMEOUT_S:
                raise _invalid(
                    name, f"is no number of seconds from {number_text(MIN_TIMEOUT_S)} to {number_text(MAX_TIMEOUT_S)}"
                )
            asked.append(seconds)
    # The openai client sends this unasked: after it nobody waits, but for a job, whose answer is fetched later. It is
    # the client's own business, so a strange value is no error.
    text = headers.get(READ_TIMEOUT_HEADER, "")
    if _SECONDS.fullmatch(text) and not is_job:
        asked.append(max(MIN_TIMEOUT_S, float(text)))
    return min([*asked, config.max_timeout_s]) if asked else min(config.default_timeout_s, config.max_timeout_s)


def _raw_types(headers: Headers) -> tuple[str, ...]:
    if "accept" not in headers:
        return ()
    accepted = [part.split(";")[0].strip().lower() for part in ",".join(headers.getlist("accept")).split(",")]
    if {"application/json", "text/event-stream", "application/*", "text/*", "*/*", ""} & {*accepted}:
        return ()
    raw_types = tuple(kind for kind in accepted if kind in RAW_TYPES or kind == "image/*")
    if not raw_types:
        raise EndpointError(
            "the answer can be JSON, events (with stream=true), or a PNG, JPEG or WebP picture", code="not_acceptable"
        )
    return raw_types


def _invalid(name: str, what: str) -> EndpointError:
    return EndpointError(f"the header {name} {what}", code="invalid_value", param=name.lower())
