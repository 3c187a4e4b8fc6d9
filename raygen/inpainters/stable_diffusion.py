"""Stable Diffusion inpainting, one step at a time.

A row is encoded, goes through UNet calls that it shares with other rows (each row with its own scheduler, timestep
and generator), and is decoded. The batch pool and the endpoint drive the same three calls. With one generator a row
and a fixed number of rows in each UNet call, a picture depends on its own inputs only.

The sampling is that of diffusers' `StableDiffusionInpaintPipeline` with a list of one generator per image: the same
draws in the same order (a test compares the two).
"""

# R rows of one UNet call, H height and W width of the picture, C colour channels, h and w of the latent

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raygen.errors import ConfigError, ModelError, ResourceError, RowError
from raygen.images import resize_image, resize_mask
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import check_model_folder, model_revision, resolve_model

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class InpaintRow:
    """One picture on its way through the sampler."""

    image_HWC: np.ndarray
    repaint_HW: np.ndarray
    generator: torch.Generator
    scheduler: Any
    timesteps: torch.Tensor
    latent_1Chw: torch.Tensor
    noise_1Chw: torch.Tensor
    mask_11hw: torch.Tensor
    masked_latent_1Chw: torch.Tensor | None
    image_latent_1Chw: torch.Tensor | None
    prompt_embedding_1TD: torch.Tensor
    num_done: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all steps are made and the row can be decoded."""
        return self.num_done >= len(self.timesteps)


@dataclass
class StableDiffusionInpainter:
    """A loaded inpainting model.

    Args:
        config: Model and sampling.
        num_rows: Rows of every UNet call; fewer are padded. Part of a result's fingerprint.
        device: "cpu" or "cuda".

    Attributes:
        model_id: What the config calls the model.
        model_revision: Hash of a local folder, or the revision of a hub id.
    """

    config: InpainterConfig
    num_rows: int
    device: str
    model_id: str = field(init=False)
    model_revision: str = field(init=False)

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ResourceError("the inpainter pool has num_gpus > 0, but this worker sees no CUDA device")
        name = resolve_model(self.config.model)
        is_local = Path(name).is_dir()
        if is_local:
            check_model_folder(Path(name))
        self.model_id = self.config.model
        self.model_revision = model_revision(Path(name)) if is_local else (self.config.revision or "main")
        self._pipe = _load_pipeline(name, self.config, self.device)
        self._dtype = self._pipe.unet.dtype
        self._channels = int(self._pipe.unet.config.in_channels)
        if self._channels not in (4, 9):
            raise ModelError(f"{name}: the UNet takes {self._channels} input channels; an inpainting model has 9 or 4")
        self.stride_px = int(self._pipe.vae_scale_factor)
        self.resolution_px = self.config.resolution_px or int(self._pipe.unet.config.sample_size) * self.stride_px
        self._embeddings: dict[str, torch.Tensor] = {}
        try:
            with torch.inference_mode():
                self._embed(self.config.negative_prompt)
        except RowError as error:
            raise ConfigError(f"inpainter.negative_prompt: {error}; make it shorter") from error
        takes = inspect.signature(self._pipe.scheduler.step).parameters
        self._scheduler_takes_generator = "generator" in takes

    @torch.inference_mode()
    def encode_row(self, image_HWC: np.ndarray, repaint_HW: np.ndarray, *, prompt: str, seed: int) -> InpaintRow:
        """A row ready for its first step.

        Args:
            image_HWC: Picture of any size, (H, W, 3) uint8 RGB; squashed to the model's square.
            repaint_HW: True = paint anew, (H, W) bool.
            prompt: What to paint.
            seed: Seed of this picture's own generator.

        Raises:
            RowError: The mask selects nothing, or nothing that survives sampling at every `stride_px`-th pixel; the
                prompt is longer than the text encoder reads.
        """
        if repaint_HW.shape != image_HWC.shape[:2]:
            raise RowError(f"the mask is {repaint_HW.shape}, the picture {image_HWC.shape[:2]}")
        if not repaint_HW.any():
            raise RowError("the repaint mask selects no pixel")
        side = self.resolution_px
        mask_HW = resize_mask(repaint_HW, height=side, width=side)
        if not latent_mask(mask_HW, self.stride_px).any():
            raise RowError(
                f"the repaint mask selects no latent cell (one pixel in {self.stride_px} x {self.stride_px}); dilate it"
            )
        generator = torch.Generator("cpu").manual_seed(seed)
        scheduler, timesteps = self._new_schedule()
        pixels = torch.from_numpy(resize_image(image_HWC, height=side, width=side).copy())
        image_1CHW = (pixels.permute(2, 0, 1)[None].float() / 255 * 2 - 1).to(self.device)
        mask_11HW = torch.from_numpy(mask_HW.astype(np.float32))[None, None].to(self.device)

        # diffusers' order of draws: the picture's latent (if it is needed), the noise, the masked picture's latent.
        from_noise = self.config.strength == 1.0
        needs_image = self._channels == 4 or not from_noise
        image_latent = self._encode(image_1CHW, generator) if needs_image else None
        shape = (
            1,
            int(self._pipe.vae.config.latent_channels),
            side // self.stride_px,
            side // self.stride_px,
        )
        noise = torch.randn(shape, generator=generator, dtype=self._dtype).to(self.device)
        if from_noise:
            latent = noise * scheduler.init_noise_sigma
        else:
            assert image_latent is not None
            latent = scheduler.add_noise(image_latent, noise, timesteps[:1])
        masked = self._encode(image_1CHW * (mask_11HW < 0.5), generator) if self._channels == 9 else None
        mask_11hw = torch.nn.functional.interpolate(mask_11HW, size=shape[2:]).to(self._dtype)
        return InpaintRow(
            image_HWC=image_HWC,
            repaint_HW=repaint_HW,
            generator=generator,
            scheduler=scheduler,
            timesteps=timesteps,
            latent_1Chw=latent,
            noise_1Chw=noise,
            mask_11hw=mask_11hw,
            masked_latent_1Chw=masked,
            image_latent_1Chw=image_latent,
            prompt_embedding_1TD=self._embed(prompt),
        )

    @torch.inference_mode()
    def step(self, slots: Sequence[InpaintRow | None]) -> None:
        """One denoising step of 1 to `num_rows` rows, in place, with one UNet call of a fixed number of rows.

        Args:
            slots: A row for each slot of the call; None, or fewer than `num_rows`, leaves slots empty: they repeat
                the first row's inputs.
        """
        rows = [row for row in slots if row is not None]
        assert rows, "no row to step"
        assert len(slots) <= self.num_rows, f"{len(slots)} slots in a call of {self.num_rows}"
        padded = [row or rows[0] for row in slots] + [rows[0]] * (self.num_rows - len(slots))
        inputs = torch.cat([self._unet_input(row) for row in padded])
        times = torch.stack([row.timesteps[row.num_done] for row in padded]).to(self.device)
        embeddings = torch.cat([row.prompt_embedding_1TD for row in padded])
        guidance = self.config.guidance_scale
        if guidance > 1:
            unconditional = self._embed(self.config.negative_prompt).expand(self.num_rows, -1, -1)
            inputs, times = torch.cat([inputs, inputs]), torch.cat([times, times])
            embeddings = torch.cat([unconditional, embeddings])
        predicted = self._pipe.unet(inputs, times, encoder_hidden_states=embeddings, return_dict=False)[0]
        if guidance > 1:
            without, with_prompt = predicted.chunk(2)
            predicted = without + guidance * (with_prompt - without)
        for i, row in enumerate(slots):
            if row is not None:
                self._advance(row, predicted[i : i + 1])

    @torch.inference_mode()
    def decode_row(self, row: InpaintRow) -> np.ndarray:
        """The painted picture in the size of the original, (H, W, 3) uint8 RGB.

        Raises:
            RowError: Non-finite numbers, or the model's safety checker blocked the picture.
        """
        assert row.is_done
        vae = self._pipe.vae
        decoded_1CHW = vae.decode(row.latent_1Chw / vae.config.scaling_factor, return_dict=False)[0]
        if not torch.isfinite(decoded_1CHW).all():
            raise RowError("the model gave non-finite numbers; try dtype float32")
        _, blocked = self._pipe.run_safety_checker(decoded_1CHW, self.device, self._dtype)
        if blocked is not None and any(blocked):
            raise RowError("blocked by the model's safety checker")
        image_CHW = (decoded_1CHW[0].float() / 2 + 0.5).clamp(0, 1)
        painted_HWC = (image_CHW * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        height, width = row.repaint_HW.shape
        painted_HWC = resize_image(painted_HWC, height=height, width=width)
        if self.config.composite:
            return np.where(row.repaint_HW[..., None], painted_HWC, row.image_HWC)
        return painted_HWC

    def _advance(self, row: InpaintRow, predicted_1Chw: torch.Tensor) -> None:
        time = row.timesteps[row.num_done]
        extra = {"generator": row.generator} if self._scheduler_takes_generator else {}
        row.latent_1Chw = row.scheduler.step(predicted_1Chw, time, row.latent_1Chw, return_dict=False, **extra)[0]
        row.num_done += 1
        if self._channels == 4:
            # DBB eq. (2): outside the mask the latent follows the picture's own noised latent.
            kept = row.image_latent_1Chw
            assert kept is not None
            if not row.is_done:
                kept = row.scheduler.add_noise(kept, row.noise_1Chw, row.timesteps[row.num_done][None])
            row.latent_1Chw = (1 - row.mask_11hw) * kept + row.mask_11hw * row.latent_1Chw

    def _unet_input(self, row: InpaintRow) -> torch.Tensor:
        # A padding row may repeat a row whose schedule is not to move: scale_model_input only reads the step index.
        scaled = row.scheduler.scale_model_input(row.latent_1Chw, row.timesteps[row.num_done])
        if row.masked_latent_1Chw is None:
            return scaled
        return torch.cat([scaled, row.mask_11hw, row.masked_latent_1Chw], dim=1)

    def _new_schedule(self) -> tuple[Any, torch.Tensor]:
        scheduler = type(self._pipe.scheduler).from_config(self._pipe.scheduler.config)
        scheduler.set_timesteps(self.config.num_inference_steps, device=self.device)
        num_steps = self.config.num_inference_steps
        first = max(num_steps - min(int(num_steps * self.config.strength), num_steps), 0) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        timesteps = scheduler.timesteps[first:]
        if not len(timesteps):
            raise RowError(f"strength {self.config.strength} leaves none of {num_steps} steps; raise either")
        return scheduler, timesteps

    def _encode(self, image_1CHW: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        posterior = self._pipe.vae.encode(image_1CHW.to(self._dtype)).latent_dist
        latent: torch.Tensor = posterior.sample(generator) * self._pipe.vae.config.scaling_factor
        return latent

    def _embed(self, prompt: str) -> torch.Tensor:
        if prompt not in self._embeddings:
            tokenizer = self._pipe.tokenizer
            num_tokens = len(tokenizer(prompt, truncation=False).input_ids)
            if num_tokens > tokenizer.model_max_length:
                raise RowError(
                    f"the prompt has {num_tokens} tokens; the model reads at most {tokenizer.model_max_length}"
                )
            embedding, _ = self._pipe.encode_prompt(prompt, self.device, 1, False)
            self._embeddings[prompt] = embedding
        return self._embeddings[prompt]


def latent_mask(mask_HW: np.ndarray, stride_px: int) -> np.ndarray:
    """The mask that the UNet sees: every `stride_px`-th pixel, as nearest-neighbour interpolation takes it."""
    return mask_HW[::stride_px, ::stride_px]


def _load_pipeline(name: str, config: InpainterConfig, device: str) -> Any:
    from diffusers import AutoPipelineForInpainting
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()
    dtype: torch.dtype = getattr(torch, config.dtype)
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if config.revision is not None:
        options["revision"] = config.revision
    if config.variant is not None:
        options["variant"] = config.variant
    try:
        pipe = AutoPipelineForInpainting.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"model '{name}' cannot be loaded as an inpainting pipeline: {error}. Give a local folder in Hugging Face "
            "layout, or a hub id that this machine can reach."
        ) from error
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=torch.channels_last)
    logger.info("loaded %s on %s as %s", name, device, config.dtype)
    return pipe
