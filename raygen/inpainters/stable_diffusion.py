"""Stable Diffusion inpainting, one step at a time.

A row is encoded, goes through UNet calls that it shares with other rows (each row with its own scheduler, timestep
and generator), and is decoded. The batch pool and the endpoint drive the same three calls. With one generator a row
and a fixed number of rows in each UNet call, a picture depends on its own inputs only.

The sampling is that of diffusers' `StableDiffusionInpaintPipeline` with a list of one generator per image: the same
draws in the same order (a test compares the two).
"""

# R rows of one UNet call, H height and W width of the picture, C colour channels, h and w of the latent

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from raygen.endpoint.edits import LearnedToken
from raygen.errors import BlockedError, ConfigError, ModelError, NonFiniteError, ResourceError, RowError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.compilation import check_device, compile_unet
from raygen.inpainters.latents import draw_latent, encode_picture
from raygen.inpainters.loading import load_pipeline
from raygen.inpainters.model_folder import check_model_folder, find_painter
from raygen.inpainters.prompts import PromptEncoder
from raygen.inpainters.row import EncodedPicture, InpaintRow, Sampling
from raygen.inpainters.schedulers import clean_estimate, new_scheduler, takes_generator
from raygen.inpainters.square import Square
from raygen.inpainters.token_files import check_widths


@dataclass
class StableDiffusionInpainter:
    """A loaded inpainting model.

    Args:
        config: Model, and the sampling of rows that ask for no other.
        num_rows: Rows of every UNet call; fewer are padded. Part of a result's fingerprint.
        device: "cpu" or "cuda".
        learned: Learned tokens that prompts may name, by name; with none, "<x>" in a prompt is plain text.

    Attributes:
        model_id: What the config calls the model.
        model_revision: Hash of a local folder, or the revision of a hub id.
        prompts: Tokenizer and text encoder.
        stride_px: Pixels of one latent cell.
        resolution_px: Side of the square that the model was made for.
        pipe: The pipeline of diffusers whose parts are used.
    """

    config: InpainterConfig
    num_rows: int
    device: str
    learned: Mapping[str, LearnedToken] = field(default_factory=dict)
    model_id: str = field(init=False)
    model_revision: str = field(init=False)

    def __post_init__(self) -> None:
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ResourceError("the inpainter pool has num_gpus > 0, but this worker sees no CUDA device")
        if self.config.compile:
            check_device(self.device)
        found = find_painter(self.config)
        name = found.name
        if found.folder is not None:
            check_model_folder(found.folder, variant=self.config.variant, safety_checker=self.config.safety_checker)
        self.model_id = self.config.model
        self.model_revision = found.revision or "main"
        self.pipe = load_pipeline(name, self.config, self.device)
        self._dtype = self.pipe.unet.dtype
        self._channels = int(self.pipe.unet.config.in_channels)
        if self._channels not in (4, 9):
            raise ModelError(f"{name}: the UNet takes {self._channels} input channels; an inpainting model has 9 or 4")
        self.stride_px = int(self.pipe.vae_scale_factor)
        self.resolution_px = self.config.resolution_px or int(self.pipe.unet.config.sample_size) * self.stride_px
        self.prompts = PromptEncoder(
            self.pipe.tokenizer,
            self.pipe.text_encoder,
            device=self.device,
            dtype=self._dtype,
            learned={name: token.vectors for name, token in self.learned.items()},
        )
        check_widths(self.learned, width=self.prompts.width, model=name)
        try:
            self._embed(self.config.negative_prompt)
        except RowError as error:
            raise ConfigError(f"inpainter.negative_prompt: {error}") from error
        if self.config.compile:
            compile_unet(self.pipe.unet, self.warm_up, backend="inductor")

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Makes one UNet call of each kind that the configured sampling has: with guidance, and without."""
        sampling, side_px = self._sampling(), self.resolution_px
        blank_HWC, everywhere_HW = np.zeros((side_px, side_px, 3), np.uint8), np.ones((side_px, side_px), bool)
        picture = self.encode_picture(blank_HWC, everywhere_HW, strength=sampling.strength)
        embedding_1TD = self._embed("")
        num_calls = len(self._new_schedule(sampling)[1])
        guided = sampling.guided(num_calls)
        for is_guided in {step in guided for step in range(num_calls)}:
            whole = replace(sampling, guidance_start=0.0, guidance_stop=1.0)
            row = self.start_row(
                picture,
                whole if is_guided else replace(whole, guidance_scale=1.0),
                prompt_embedding_1TD=embedding_1TD,
                negative_embedding_1TD=embedding_1TD,
                seed=0,
            )
            self.step([row])

    def encode_row(self, square: Square) -> InpaintRow:
        """A row of the configured sampling, ready for its first step.

        Args:
            square: What to paint, at the model's square.

        Raises:
            RowError: The prompt is longer than the text encoder reads; strength leaves no step.
        """
        sampling = self._sampling()
        return self.start_row(
            self.encode_picture(square.image_HWC, square.repaint_HW, strength=sampling.strength),
            sampling,
            prompt_embedding_1TD=self._embed(square.prompt),
            negative_embedding_1TD=self._embed(self.config.negative_prompt),
            seed=square.seed,
        )

    @torch.inference_mode()
    def encode_picture(self, canvas_HWC: np.ndarray, repaint_HW: np.ndarray, *, strength: float) -> EncodedPicture:
        """A canvas in latent space.

        Args:
            canvas_HWC: (H, W, 3) uint8 RGB, sides multiples of `stride_px`.
            repaint_HW: True = paint anew, (H, W) bool.
            strength: Below 1, rows start from the picture and its latent is needed.
        """
        return encode_picture(
            self.pipe.vae,
            canvas_HWC,
            repaint_HW,
            stride_px=self.stride_px,
            with_image=self._channels == 4 or strength < 1,
            with_masked=self._channels == 9,
            dtype=self._dtype,
        )

    @torch.inference_mode()
    def start_row(
        self,
        picture: EncodedPicture,
        sampling: Sampling,
        *,
        prompt_embedding_1TD: torch.Tensor,
        negative_embedding_1TD: torch.Tensor,
        seed: int,
    ) -> InpaintRow:
        """A row ready for its first step; everything that is drawn comes from its own generator.

        Raises:
            RowError: Strength leaves no step.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        scheduler, timesteps = self._new_schedule(sampling)
        # diffusers' order of draws: the picture's latent (if it is needed), the noise, the masked picture's latent.
        image_latent = None if picture.image is None else self._draw(picture.image, generator)
        shape = (1, int(self.pipe.vae.config.latent_channels), *picture.mask_11hw.shape[2:])
        noise = torch.randn(shape, generator=generator, dtype=self._dtype).to(self.device)
        masked_latent = None if picture.masked is None else self._draw(picture.masked, generator)
        if sampling.strength == 1.0:
            latent = noise * scheduler.init_noise_sigma
        else:
            assert image_latent is not None
            latent = scheduler.add_noise(image_latent, noise, timesteps[:1])
        return InpaintRow(
            generator=generator,
            scheduler=scheduler,
            timesteps=timesteps,
            guidance_scale=sampling.guidance_scale,
            guided=sampling.guided(len(timesteps)),
            latent_1Chw=latent,
            noise_1Chw=noise,
            mask_11hw=picture.mask_11hw,
            masked_latent_1Chw=masked_latent,
            image_latent_1Chw=image_latent,
            prompt_embedding_1TD=prompt_embedding_1TD,
            negative_embedding_1TD=negative_embedding_1TD,
        )

    @torch.inference_mode()
    def step(self, slots: Sequence[InpaintRow | None], *, num_rows: int | None = None) -> None:
        """One denoising step of 1 to `num_rows` rows, in place, with one UNet call of a fixed number of rows.

        The rows may be at different steps, with different guidance; at this step all guided, or none, and of one
        latent size.

        Args:
            slots: A row for each slot of the call; None, or fewer than `num_rows`, leaves slots empty: they repeat
                the first row's inputs.
            num_rows: Rows of this call, by default the model's.
        """
        num_rows = num_rows or self.num_rows
        rows = [row for row in slots if row is not None]
        assert rows, "no row to step"
        assert len(slots) <= num_rows, f"{len(slots)} slots in a call of {num_rows}"
        padded = [row or rows[0] for row in slots] + [rows[0]] * (num_rows - len(slots))
        guided = rows[0].is_guided
        assert all(row.is_guided == guided for row in rows), "guided rows share calls with their like only"
        inputs = torch.cat([self._unet_input(row) for row in padded])
        times = torch.stack([row.timesteps[row.num_done] for row in padded]).to(self.device)
        embeddings = torch.cat([row.prompt_embedding_1TD for row in padded])
        if guided:
            inputs, times = torch.cat([inputs, inputs]), torch.cat([times, times])
            embeddings = torch.cat([*(row.negative_embedding_1TD for row in padded), embeddings])
        predicted = self.pipe.unet(inputs, times, encoder_hidden_states=embeddings, return_dict=False)[0]
        for i, row in enumerate(slots):
            if row is None:
                continue
            predicted_1Chw = predicted[i : i + 1]
            if guided:
                with_prompt_1Chw = predicted[num_rows + i : num_rows + i + 1]
                predicted_1Chw = predicted_1Chw + row.guidance_scale * (with_prompt_1Chw - predicted_1Chw)
            self._advance(row, predicted_1Chw)

    @torch.inference_mode()
    def decode(self, latent_1Chw: torch.Tensor) -> np.ndarray:
        """A latent as a canvas, (H, W, 3) uint8 RGB.

        Raises:
            NonFiniteError: Non-finite numbers.
            BlockedError: The model's safety checker blocked the picture.
        """
        vae = self.pipe.vae
        latent_1Chw = (latent_1Chw / vae.config.scaling_factor).to(vae.dtype)
        decoded_1CHW = vae.decode(latent_1Chw, return_dict=False)[0]
        if not torch.isfinite(decoded_1CHW).all():
            raise NonFiniteError("the model gave non-finite numbers; try dtype float32")
        _, blocked = self.pipe.run_safety_checker(decoded_1CHW, self.device, self._dtype)
        if blocked is not None and any(blocked):
            raise BlockedError("blocked by the model's safety checker")
        image_CHW = (decoded_1CHW[0].float() / 2 + 0.5).clamp(0, 1)
        return np.asarray((image_CHW * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy())

    def _advance(self, row: InpaintRow, predicted_1Chw: torch.Tensor) -> None:
        time = row.timesteps[row.num_done]
        extra = {"generator": row.generator} if takes_generator(row.scheduler.__class__) else {}
        result = row.scheduler.step(predicted_1Chw, time, row.latent_1Chw, **extra)
        row.latent_1Chw = result.prev_sample
        row.estimate_1Chw = clean_estimate(row.scheduler, result)
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

    def _sampling(self) -> Sampling:
        config = self.config
        return Sampling(
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            guidance_start=config.guidance_start,
            guidance_stop=config.guidance_stop,
            strength=config.strength,
            scheduler=config.scheduler,
        )

    def _new_schedule(self, sampling: Sampling) -> tuple[Any, torch.Tensor]:
        scheduler = new_scheduler(self.pipe.scheduler, sampling.scheduler)
        num_steps = sampling.num_inference_steps
        scheduler.set_timesteps(num_steps, device=self.device)
        first = max(num_steps - min(int(num_steps * sampling.strength), num_steps), 0) * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        timesteps = scheduler.timesteps[first:]
        if not len(timesteps):
            raise RowError(f"strength {sampling.strength} leaves none of {num_steps} steps; raise either")
        return scheduler, timesteps

    def _draw(self, posterior: Any, generator: torch.Generator) -> torch.Tensor:
        return draw_latent(self.pipe.vae, posterior, generator, dtype=self._dtype)

    def _embed(self, prompt: str) -> torch.Tensor:
        unknown = [name for name, _ in self.prompts.token_names(prompt) if name not in self.learned]
        if unknown:  # it would be read as plain letters
            raise RowError(
                f"the prompt names {unknown[0]}, which the model's tokenizer does not have and which is none of the "
                f"learned tokens {sorted(self.learned)}"
            )
        embedding = self.prompts.encode_plain(prompt)
        if embedding is None:
            tokenized = self.prompts.tokenize(prompt)
            raise RowError(
                f"the prompt has {len(tokenized.ids)} tokens; the model reads at most {tokenized.max_length}; "
                "shorten it"
            )
        return embedding
