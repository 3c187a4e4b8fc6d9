"""What the endpoint serves and to whom: the `args` of serve/config.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raygen.config import PositiveInt, Strict
from raygen.inpainters import InpainterConfig

Scope = Literal["edit", "admin"]


class ServedModelConfig(Strict):
    """One model and its replicas.

    Attributes:
        id: Its name in `/v1/models` and in the field `model`.
        inpainter: The model, its dtype, and what a request gets that does not ask for other sampling: steps, guidance
            scale and its interval, strength, negative prompt, scheduler. `composite` and `resolution_px` are the
            request's, not the model's; `compile` is for the pools, whose pictures all have one size.
        bucket: Rows of every UNet call, shared by requests. "auto": one on a CPU, where more gain nothing; on a GPU
            `auto_bucket`, if a test at the start finds that a picture's bits do not depend on its neighbours, else one.
        auto_bucket: See `bucket`.
        min_replicas: Fewest replicas; 0 frees the GPU when nobody asks, and the next request waits for the model.
        max_replicas: Most replicas.
        downscale_to_zero_delay_s: With `min_replicas` 0, how long nobody has to ask until the last replica goes; Ray
            Serve looks at the mean of half a minute, so it is that much later. Its own default, ten minutes.
        target_ongoing_requests: Requests a replica should have at once; above it, replicas are added.
        num_cpus: Logical CPUs of a replica.
        num_gpus: GPUs of a replica; a fraction shares one.
        num_threads: Torch threads of a replica, whatever `num_cpus` is. On a CPU it decides the last bits.
        max_queue: Requests that may wait at a replica; more are refused with 503.
        max_pixels: Largest picture that this model's GPU can paint.
        stall_s: A replica whose model has not answered for so long is replaced.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
    inpainter: InpainterConfig = InpainterConfig()
    bucket: Literal["auto"] | PositiveInt = "auto"
    auto_bucket: PositiveInt = 4
    min_replicas: int = Field(1, ge=0)
    max_replicas: PositiveInt = 1
    downscale_to_zero_delay_s: float = Field(600, ge=0)
    target_ongoing_requests: float = Field(4, gt=0)
    num_cpus: float = Field(1, ge=0)
    num_gpus: float = Field(0, ge=0)
    num_threads: PositiveInt = 1
    max_queue: PositiveInt = 32
    max_pixels: int = Field(4_194_304, ge=64 * 64)
    stall_s: float = Field(300, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> "ServedModelConfig":
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas is {self.min_replicas}, above max_replicas ({self.max_replicas})")
        return self

    @model_validator(mode="after")
    def _not_compiled(self) -> "ServedModelConfig":
        if self.inpainter.compile:
            raise ValueError(
                "inpainter.compile is for pools: pictures of requests have any size, and each would wait for minutes "
                "until it is compiled; leave it out"
            )
        return self

    @property
    def device(self) -> str:
        """Where the model runs, "cpu" or "cuda"."""
        return "cuda" if self.num_gpus > 0 else "cpu"


class KeyConfig(Strict):
    """Somebody who may use the endpoint.

    Attributes:
        name: Who; for logs and messages to the operator.
        sha256: SHA-256 of the key, 64 hex digits; `raygen key` makes both. The key itself is kept nowhere.
        scopes: "edit" to paint and read, "admin" to store and delete learned tokens too.
        requests_per_minute: Most requests in a minute; null for no limit.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[Scope, ...] = ("edit",)
    requests_per_minute: PositiveInt | None = None


class ServeConfig(Strict):
    """The endpoint.

    Attributes:
        models: What is served; the first is the default.
        keys: Who may use it; none: everybody who reaches it, which only a loopback address allows.
        num_ingress: Processes that speak HTTP; with two, one can die without anybody noticing.
        default_timeout_s: Deadline of a request that names none.
        max_timeout_s: Longest deadline that a request may ask for.
        tokens_folder: Where learned tokens are stored; on a cluster, a folder that all nodes share.
        job_ttl_s: How long results of jobs and of idempotency keys are kept.
        max_stored_bytes: Most memory for these results; the oldest go first.
    """

    models: Annotated[tuple[ServedModelConfig, ...], Field(min_length=1)] = (ServedModelConfig(id="tiny"),)
    keys: tuple[KeyConfig, ...] = ()
    num_ingress: PositiveInt = 2
    default_timeout_s: float = Field(300, gt=0)
    max_timeout_s: float = Field(1800, gt=0)
    tokens_folder: Path = Path("~/.cache/raygen/tokens")
    job_ttl_s: float = Field(24 * 3600, gt=0)
    max_stored_bytes: int = Field(512 << 20, ge=0)

    @field_validator("models")
    @classmethod
    def _distinct(cls, models: tuple[ServedModelConfig, ...]) -> tuple[ServedModelConfig, ...]:
        ids = [model.id for model in models]
        if len({*ids}) < len(ids):
            raise ValueError(f"two models have the same id: {ids}")
        return models

    def model_named(self, model_id: str | None) -> ServedModelConfig | None:
        """The model with that id, the default one without an id, None if there is none."""
        if model_id is None:
            return self.models[0]
        return next((model for model in self.models if model.id == model_id), None)
