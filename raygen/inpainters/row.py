"""One picture on its way through the sampler, and what it starts from."""

# H height and W width of the canvas, C channels, h and w of the latent, T tokens, D their width

from dataclasses import dataclass
from typing import Any

import torch

from raygen.inpainters import guided_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How one row is sampled.

    Attributes:
        num_inference_steps: Denoising steps at strength 1.
        guidance_scale: Classifier-free guidance; 1 or less switches it off.
        guidance_start: Fraction of the steps from which on guidance is on.
        guidance_stop: Fraction of the steps up to which it is.
        strength: In (0, 1]; 1 starts from pure noise.
        scheduler: One of `schedulers.SCHEDULERS`, or None for the model's own.
    """

    num_inference_steps: int
    guidance_scale: float
    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    strength: float = 1.0
    scheduler: str | None = None

    def guided(self, num_steps: int) -> range:
        """Which of the steps 0 to `num_steps` - 1 are guided."""
        steps = guided_steps(num_steps, self.guidance_start, self.guidance_stop)
        return steps if self.guidance_scale > 1 else range(0)


@dataclass(frozen=True, slots=True)
class EncodedPicture:
    """A canvas in latent space; every row of a request starts from the same one.

    Attributes:
        image: Posterior of the picture; None where no row needs it.
        masked: Posterior of the picture with its repaint region blanked; None for 4-channel models.
        mask_11hw: The repaint mask at latent size.
    """

    image: Any
    masked: Any
    mask_11hw: torch.Tensor


@dataclass(slots=True)
class InpaintRow:
    """One picture on its way through the sampler."""

    generator: torch.Generator
    scheduler: Any
    timesteps: torch.Tensor
    guidance_scale: float
    guided: range
    latent_1Chw: torch.Tensor
    noise_1Chw: torch.Tensor
    mask_11hw: torch.Tensor
    masked_latent_1Chw: torch.Tensor | None
    image_latent_1Chw: torch.Tensor | None
    prompt_embedding_1TD: torch.Tensor
    negative_embedding_1TD: torch.Tensor
    num_done: int = 0
    estimate_1Chw: torch.Tensor | None = None

    @property
    def is_done(self) -> bool:
        """Whether all steps are made and the row can be decoded."""
        return self.num_done >= len(self.timesteps)

    @property
    def is_guided(self) -> bool:
        """Whether guidance is on at the next step: such rows only share calls with their like."""
        return self.num_done in self.guided
