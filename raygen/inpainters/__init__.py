"""Inpainters: pictures, repaint masks and prompts in, repainted pictures out."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raygen.config import Decides, Strict
from raygen.endpoint.edits import MAX_HTTP_GUIDANCE, MAX_HTTP_STEPS
from raygen.endpoint.urls import check_http_url, shown
from raygen.model_files import TINY


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
        strength: 1 paints the region from pure noise; less keeps something of what is there, in (0, 1].
        negative_prompt: What guidance steers away from.
        composite: Put the pixels outside the repaint mask back after decoding, so that they are equal to the bit.
            False leaves the autoencoder's round trip in them, as diffusers and the DBB paper do.
        resolution_px: Side of the square that the model paints; by default the model's own.
        safety_checker: Run the safety checker that the model brings along on each picture; what it blocks is a failed
            row. False leaves it out. An endpoint decides on its own.
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
    strength: float = Field(1.0, gt=0, le=1)
    negative_prompt: str = ""
    composite: bool = True
    resolution_px: int | None = Field(None, ge=8)
    safety_checker: bool = True
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
