"""Inpainters: pictures, repaint masks and prompts in, repainted pictures out."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raygen.config import Decides, Identity, Strict
from raygen.endpoint.edits import MAX_HTTP_GUIDANCE, MAX_HTTP_STEPS
from raygen.endpoint.urls import check_http_url, shown
from raygen.inpainters.schedulers import Scheduler
from raygen.model_files import TINY


def guided_steps(num_steps: int, start: float, stop: float) -> range:
    """Which of the denoising steps 0 to `num_steps` - 1 are guided, for an interval in fractions of them."""
    # As diffusers counts them.
    return range(int(start * num_steps), int(stop * num_steps))


class InpainterConfig(Strict, decides=Decides.RESULTS):
    """Which inpainting model, and how it samples.

    Attributes:
        kind: "stable_diffusion": any diffusers Stable Diffusion pipeline with a 9-channel (inpainting) or 4-channel
            UNet, run in this pool's own actors. "served": the pool's actors ask the endpoint at `url`.
        url: Of the endpoint: "http://host:8000" (its key in the environment variable RAYGEN_API_KEY), or
            "serve://raygen/engine", application and deployment, for a Ray Serve handle on the same cluster.
        model: "tiny" (ships with raygen), a local folder in Hugging Face layout, or a hub id; of an endpoint: the id
            that it serves the model by.
        revision: Commit, branch or tag of a hub id; pin it for results that are to be repeated.
        variant: File variant of the weights, such as "fp16".
        dtype: Numbers of the model: float32 on CPUs; float16 or bfloat16 on GPUs. With float16 the autoencoder
            stays in float32, unless its config says that it need not (`force_upcast`).
        num_inference_steps: Denoising steps at strength 1. The tiny model wants 12; Stable Diffusion 20 to 50.
        guidance_scale: Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598); 1 switches it off. Stable
            Diffusion's default is 7.5, the tiny model's 3.0.
        guidance_start: Guidance only from this fraction of the denoising steps on, in [0, 1); a step without it costs
            half. This and `guidance_stop` are the interval of Kynkäänniemi et al. 2024 (arXiv 2404.07724), counted in
            steps as diffusers counts `start` and `stop`: of n steps the i-th, from 0, is guided if
            int(start * n) <= i < int(stop * n).
        guidance_stop: Guidance only up to this fraction, in (0, 1].
        scheduler: Sampler, by the name of its diffusers class; null for the model's own. The model's noise schedule
            and kind of prediction are kept.
        strength: 1 paints the region from pure noise; less keeps something of what is there, in (0, 1].
        negative_prompt: What guidance steers away from.
        composite: Put the pixels outside the repaint mask back after decoding, so that they are equal to the bit.
            False leaves the autoencoder's round trip in them, as diffusers and the DBB paper do.
        resolution_px: Side of the square that the model paints; by default the model's own.
        safety_checker: Run the safety checker that the model brings along on each picture; what it blocks is a failed
            row. False leaves it out. An endpoint decides on its own.
        compile: Compile the UNet for its fixed shapes (torch.compile) when an actor starts, which takes it minutes; for
            GPUs. Sums are taken in another order, so the last bits of pictures differ from those without.
        on_out_of_memory: "stop": when a GPU's memory does not hold a UNet call of the configured rows, the run stops
            and says how many rows fit; "reduce": it goes on with as many, and the parts made so say it
            (`unet_rows` in their metadata), since another row count may change the last bits of a picture.
    """

    kind: Literal["stable_diffusion", "served"] = "stable_diffusion"
    url: Annotated[str | None, Decides.NOTHING] = None
    model: str = TINY
    revision: str | None = None
    variant: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    num_inference_steps: int = Field(12, ge=1, le=1000)
    guidance_scale: float = Field(3.0, ge=1, le=50)
    guidance_start: Annotated[float, Identity.ABSENT_BY_DEFAULT] = Field(0.0, ge=0, lt=1)
    guidance_stop: Annotated[float, Identity.ABSENT_BY_DEFAULT] = Field(1.0, gt=0, le=1)
    scheduler: Annotated[Scheduler | None, Identity.ABSENT_BY_DEFAULT] = None
    strength: float = Field(1.0, gt=0, le=1)
    negative_prompt: str = ""
    composite: bool = True
    resolution_px: int | None = Field(None, ge=8)
    safety_checker: bool = True
    compile: Annotated[bool, Identity.ABSENT_BY_DEFAULT] = False
    on_out_of_memory: Annotated[Literal["stop", "reduce"], Decides.NOTHING] = "stop"

    @field_validator("resolution_px")
    @classmethod
    def _divisible(cls, value: int | None) -> int | None:
        if value is not None and value % 8:
            raise ValueError("must be divisible by 8, the autoencoder's stride")
        return value

    @model_validator(mode="after")
    def _has_a_step(self) -> "InpainterConfig":
        # As diffusers counts them.
        if int(self.num_inference_steps * self.strength) < 1:
            raise ValueError(
                f"strength {self.strength:g} leaves none of the {self.num_inference_steps} num_inference_steps; "
                "raise either"
            )
        return self

    @model_validator(mode="after")
    def _guides_some_step(self) -> "InpainterConfig":
        num_steps = int(self.num_inference_steps * self.strength)
        if self.guidance_scale > 1 and not guided_steps(num_steps, self.guidance_start, self.guidance_stop):
            raise ValueError(
                f"guidance_start {self.guidance_start:g} and guidance_stop {self.guidance_stop:g} leave none of the "
                f"{num_steps} steps guided; widen them, or set guidance_scale to 1, which switches guidance off"
            )
        return self

    @model_validator(mode="after")
    def _asks_an_endpoint_for_what_it_offers(self) -> "InpainterConfig":
        names = ("guidance_start", "guidance_stop", "compile")
        others = [name for name in names if getattr(self, name) != type(self).model_fields[name].default]
        if self.kind == "served" and others:
            raise ValueError(f"{others[0]} is set, but an endpoint decides on that on its own; leave it out")
        return self

    @model_validator(mode="after")
    def _has_url_if_served(self) -> "InpainterConfig":
        if (self.kind == "served") != (self.url is not None):
            raise ValueError("url goes with kind=served, such as url=http://127.0.0.1:8000")
        if self.url is not None and not self.url.startswith("serve://"):
            if not self.url.startswith(("http://", "https://")):
                raise ValueError(
                    f"url is {shown(self.url)!r}; expected http://…, https://… or serve://application/deployment"
                )
            try:
                check_http_url(self.url)
            except ValueError as error:
                raise ValueError(f"url {error}") from error
            self._check_http_limits()
        return self

    def _check_http_limits(self) -> None:
        limits = {"num_inference_steps": MAX_HTTP_STEPS, "guidance_scale": MAX_HTTP_GUIDANCE}
        for name, limit in limits.items():
            if (value := getattr(self, name)) > limit:
                raise ValueError(f"{name} is {value:g}; an endpoint at an http address takes at most {limit}")
