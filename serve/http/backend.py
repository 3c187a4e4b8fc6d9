"""What the HTTP layer needs behind it: engines, stored tokens and the ledger of jobs.

`serve.ray_backend` implements it on Ray Serve handles.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from raygen.endpoint.edits import EditEvent, EditRequest, EditResult, LearnedToken
from raygen.inpainters.model_folder import ModelFacts
from serve.http.errors import ErrorObject

OutputFormat = Literal["png", "jpeg", "webp"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class MaskFacts(TypedDict):
    """What was understood of a request's mask; the box is left, top, right, bottom."""

    mode: str
    edited_fraction: Annotated[float, Field(gt=0, le=1)]
    bbox: Annotated[list[int], Field(min_length=4, max_length=4)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """How a result is written as a response body; a part of the request that no engine needs.

    Attributes:
        output_format: Of the pictures.
        output_compression: 0 to 100: quality of JPEG and WebP; 100 is lossless WebP.
        size: Width and height of the pictures.
        mask: What was understood of the mask.
        warnings: What was accepted and has no effect, in words.
    """

    output_format: OutputFormat
    output_compression: int
    size: tuple[int, int]
    mask: MaskFacts
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as its owner sees it.

    Attributes:
        id: "job_" and 32 hex digits.
        status: Where it stands.
        queue_position: Requests before it; None unless it is queued.
        step: Steps made.
        steps: Of how many; 0 before it runs.
        created_at: Unix seconds.
        deadline_at: Unix seconds.
        body: The JSON body of its 200 response, once it succeeded.
        headers: The generation's own response headers (x-raygen-seed, x-raygen-queue-ms, openai-processing-ms).
        error: The error object, once it failed.
        error_status: HTTP status of that error.
    """

    id: str
    status: JobStatus
    queue_position: int | None
    step: int
    steps: int
    created_at: int
    deadline_at: int
    body: bytes | None = None
    headers: dict[str, str] | None = None
    error: ErrorObject | None = None
    error_status: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What a key may still do in this minute.

    Attributes:
        limit: Requests a minute.
        remaining: Of them left, after this one; -1: this one is refused.
        reset_s: Seconds until one more is allowed.
    """

    limit: int
    remaining: int
    reset_s: float


class Backend(Protocol):
    """Everything that the HTTP layer asks for. All errors are `raygen.errors.EndpointError`."""

    async def edit(self, model_id: str, request: EditRequest) -> EditResult:
        """Paints; sends the request again when a replica dies. Cancelling the call stops the work within a step."""
        ...

    def stream(self, model_id: str, request: EditRequest) -> AsyncGenerator[EditEvent, None]:
        """Paints, with each preview and picture as soon as it is there; closing the iterator stops the work."""
        ...

    async def not_ready(self, model_id: str) -> str | None:
        """Why the model cannot paint now, or None if it just did (a one-step picture through the same queue)."""
        ...

    async def facts(self, model_id: str) -> ModelFacts:
        """What is known of a model from its folder; does not wake one that is scaled to zero."""
        ...

    async def tokens(self, model_id: str) -> list[LearnedToken]:
        """The stored learned tokens, by name."""
        ...

    async def put_token(self, model_id: str, name: str, data: bytes) -> LearnedToken:
        """Stores a learned token from the bytes of a safetensors file.

        Raises:
            EndpointError: invalid_token: not safetensors, not one tensor, too many vectors, wrong width, not finite.
        """
        ...

    async def delete_token(self, model_id: str, name: str) -> bool:
        """Whether there was one."""
        ...

    async def submit(
        self,
        model_id: str,
        request: EditRequest,
        rendering: Rendering,
        *,
        owner: str,
        idempotency_key: str | None,
        body_digest: str,
    ) -> Job:
        """Starts a job, or joins the one that the same owner started with the same idempotency key.

        Raises:
            EndpointError: idempotency_key_reused: that key came with another body.
        """
        ...

    async def job(self, job_id: str, *, owner: str, wait_s: float) -> Job:
        """The job, at once when it is over, else after at most `wait_s` seconds.

        Raises:
            EndpointError: job_not_found (none, or another owner's), job_expired.
        """
        ...

    async def cancel_job(self, job_id: str, *, owner: str) -> Job:
        """Stops a job; one that is over stays as it is."""
        ...

    async def spend(self, key_name: str, *, requests_per_minute: int) -> Allowance:
        """Counts one request of a key."""
        ...
