"""One edit of a picture: the request and the result that the endpoint, its clients and the `served` inpainter share.

Plain arrays and numbers; not for HTTP's fields (`serve.http.fields`), nor for painting (`stable_diffusion.py`).
"""

# H height and W width of the picture, C colour channels

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from raygen.errors import EndpointError, number_text

Priority = Literal["interactive", "batch"]
MAX_SEED = 2**63 - 1
# Of a request over HTTP; a handle's caller knows what it does.
MAX_HTTP_STEPS, MAX_HTTP_GUIDANCE = 150, 30


@dataclass(frozen=True, slots=True, kw_only=True)
class EditRequest:
    """What to paint. What is None is the served model's default.

    Attributes:
        image_HWC: Picture, (H, W, 3) uint8 RGB.
        repaint_HW: True = paint anew, (H, W) bool.
        prompt: What to paint.
        seeds: One picture is painted for each, in [0, 2**63).
        num_inference_steps: Denoising steps at strength 1.
        guidance_scale: Classifier-free guidance; 1 or less switches it off.
        strength: In (0, 1]; 1 paints from pure noise.
        negative_prompt: What guidance steers away from.
        scheduler: Name of a diffusers scheduler class, one of `schedulers.SCHEDULERS`.
        preserve_unmasked: Put the pixels outside the repaint mask back, equal to the bit.
        mask_blur: Radius in pixels of the Gaussian that widens the edge of what is pasted.
        padding_mask_crop: Paint only the mask's box with so many pixels around it, at the picture's full resolution.
        prompt_overflow: What happens to a prompt that is longer than the text encoder reads.
        literal_tokens: Read `<x>` as plain text, not as a learned token.
        num_partial_images: Previews of each picture on the way.
        priority: "interactive" goes before "batch".
        timeout_s: Seconds from the moment the engine gets it until it is given up.
        request_id: For logs.
    """

    image_HWC: np.ndarray
    repaint_HW: np.ndarray
    prompt: str
    seeds: tuple[int, ...]
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    strength: float | None = None
    negative_prompt: str | None = None
    scheduler: str | None = None
    preserve_unmasked: bool = True
    mask_blur: int = 0
    padding_mask_crop: int | None = None
    prompt_overflow: Literal["error", "truncate"] = "error"
    literal_tokens: bool = False
    num_partial_images: int = 0
    priority: Priority = "batch"
    timeout_s: float = 600.0
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditedImage:
    """One painted picture.

    Attributes:
        index: Which of the request's seeds.
        seed: That seed.
        image_HWC: (H, W, 3) uint8 RGB; None if it was blocked.
        flagged: The model's safety checker blocked it.
        num_prompt_tokens: See `EditResult`: a stream hands a picture over before its result.
        provenance: See `EditResult`.
    """

    index: int
    seed: int
    image_HWC: np.ndarray | None
    flagged: bool = False
    num_prompt_tokens: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialImage:
    """A preview of a picture that is not done.

    Attributes:
        index: Which of the request's seeds.
        number: 0, 1 … of this picture's previews.
        image_HWC: (H, W, 3) uint8 RGB, decoded from the present estimate.
    """

    index: int
    number: int
    image_HWC: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a request is.

    Attributes:
        queue_position: Requests before it; 0 once it runs.
        step: Denoising steps made, over all its pictures.
        steps: Of how many.
    """

    queue_position: int
    step: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """The pictures of a request and how they were made.

    Attributes:
        images: In the order of the request's seeds.
        num_inference_steps: Steps that were asked for, or the model's default.
        num_prompt_tokens: Tokens of the prompt, its start and end left out.
        provenance: model, digest, tokens (digest by name), determinism ("strict" or "fast"), bucket (rows of a UNet
            call), dtype: what, with the request, decides every byte.
        warnings: What was done other than asked, in words.
        queue_s: Seconds until its first step.
        generation_s: Seconds from then on.
    """

    images: tuple[EditedImage, ...]
    num_inference_steps: int
    num_prompt_tokens: int
    provenance: dict[str, Any]
    warnings: tuple[str, ...] = ()
    queue_s: float = 0.0
    generation_s: float = 0.0

    def with_images(self, images: Mapping[int, EditedImage]) -> "EditResult":
        """A stream's result with the pictures that came before it, by index."""
        return replace(self, images=tuple(images[index] for index in sorted(images)))


# A stream of an edit: previews and progress as they come, each picture once it is done, the result (its `images` left
# empty) at the end.
EditEvent = Progress | PartialImage | EditedImage | EditResult


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedToken:
    """A learned token (textual inversion): a word of its own whose embedding was trained.

    Attributes:
        name: "<bird-1>".
        digest: "sha256:" and the hash of its file.
        vectors: Its embeddings, (V, D) float32.
        loaded_at: Unix seconds when it was stored.
    """

    name: str
    digest: str
    vectors: np.ndarray = field(repr=False)
    loaded_at: int = 0


def check_strength(steps: int, strength: float) -> None:
    """Checks that a strength leaves a denoising step to make.

    Raises:
        EndpointError: out_of_range.
    """
    if int(steps * strength) < 1:
        raise EndpointError(
            f"strength {number_text(strength)} leaves none of {steps} steps; raise either",
            code="out_of_range",
            param="strength",
        )


def too_late(request: EditRequest) -> EndpointError:
    """The error of a request whose time has passed."""
    return EndpointError(
        f"the deadline of {number_text(request.timeout_s)} seconds passed before the pictures were done",
        code="deadline_exceeded",
    )
