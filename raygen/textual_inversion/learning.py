"""Textual inversion: one token learned against a frozen model (Gal et al. 2022, arXiv 2208.01618, eq. 2).

DBB, arXiv 2503.17226, eq. (1): the token's embedding is what best explains a few images to the denoiser. Only that
vector has a gradient. diffusers' script trains the whole embedding table and puts the other rows back after every
step; here the vector stands in the token's place as in `prompts.py`, and there is no other row to put back. AdamW works
coordinate by coordinate, so both do the same.

Everything that is drawn for one image of one step has its own generator, seeded by its name: a fit that was interrupted
draws the same, and so do any number of workers.
"""

# B images of a step, D width of the text encoder, C channels, h and w of the latent, H height and W width of a picture

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from raygen.errors import DataError, ResourceError, RowError, StageError
from raygen.inpainters.latents import draw_latent, encode_picture
from raygen.inpainters.loading import load_pipeline
from raygen.inpainters.model_folder import FoundPainter
from raygen.inpainters.prompts import PromptEncoder, TokenizedPrompt
from raygen.inpainters.row import EncodedPicture
from raygen.inpainters.square import squash
from raygen.seeding import row_seed
from raygen.storage.writing import write_bytes
from raygen.textual_inversion.class_tokens import ClassToken, check_prediction, initializer_id
from raygen.textual_inversion.config import TextualInversionConfig
from raygen.worker import CHECKPOINT, Worker


@dataclass(frozen=True, slots=True)
class TokenPicture:
    """An image to learn from.

    Attributes:
        image_id: Its id.
        image_HWC: (H, W, 3) uint8 RGB.
        region_HW: What the token has to explain, (H, W) bool.
    """

    image_id: str
    image_HWC: np.ndarray
    region_HW: np.ndarray


@dataclass(frozen=True, slots=True)
class NoisyRow:
    """One picture as the denoiser gets it, and what it should say.

    Attributes:
        inputs_1Chw: The UNet's input, of 4 or 9 channels.
        time_1: The time step.
        target_1Chw: The noise or the velocity.
        region_11hw: Where the error counts.
    """

    inputs_1Chw: torch.Tensor
    time_1: torch.Tensor
    target_1Chw: torch.Tensor
    region_11hw: torch.Tensor


class FrozenDenoiser:
    """A pipeline's parts, none of which learns.

    Args:
        found: The model; see `class_tokens.trained_model`.
        device: "cpu" or "cuda".

    Attributes:
        prompts: Tokenizer and text encoder.
        resolution_px: Side of the square that pictures are brought to.

    Raises:
        ModelError: It cannot be loaded, or predicts something else than noise or velocity.
    """

    def __init__(self, found: FoundPainter, *, device: str) -> None:
        from diffusers import DDPMScheduler

        pipe = load_pipeline(found.name, found.config, device)
        # The gradient needs no channels_last, and oneDNN's of narrow convolutions is unsafe in that layout (see
        # `raygen.classifier.ClassifierConfig.width`).
        self.unet = pipe.unet.to(memory_format=torch.contiguous_format).requires_grad_(False).eval()
        self.vae = pipe.vae.requires_grad_(False).eval()
        self.text_encoder = pipe.text_encoder.float().requires_grad_(False).eval()
        self.tokenizer = pipe.tokenizer
        self._predicts = check_prediction(dict(pipe.scheduler.config), model=found.name)
        self._noise = DDPMScheduler.from_config(pipe.scheduler.config)
        self._has_mask = int(self.unet.config.in_channels) == 9
        self._stride_px = int(pipe.vae_scale_factor)
        self.resolution_px = found.config.resolution_px or int(self.unet.config.sample_size) * self._stride_px
        self._device = device
        self.prompts = PromptEncoder(self.tokenizer, self.text_encoder, device=device, dtype=self.unet.dtype)

    def initial_vector(self, token: ClassToken) -> torch.Tensor:
        """The embedding of a token's initializer, (1, D) float32; see `initializer_id`."""
        table_ND = self.text_encoder.get_input_embeddings().weight
        return table_ND[initializer_id(token, self.tokenizer)][None].detach().clone().float()

    @torch.no_grad()
    def encode(self, picture: TokenPicture, *, flipped: bool) -> EncodedPicture:
        """A picture in latent space, mirrored if so wanted.

        Raises:
            DataError: Its region selects nothing that the model would see.
        """
        image_HWC, region_HW = picture.image_HWC, picture.region_HW
        if flipped:
            image_HWC, region_HW = image_HWC[:, ::-1], region_HW[:, ::-1]
        try:
            canvas_HWC, canvas_region_HW = squash(
                np.ascontiguousarray(image_HWC),
                np.ascontiguousarray(region_HW),
                side_px=self.resolution_px,
                stride_px=self._stride_px,
            )
        except RowError as error:
            raise DataError(f"a token cannot be learned from image '{picture.image_id}': {error}") from error
        return encode_picture(
            self.vae,
            canvas_HWC,
            canvas_region_HW,
            stride_px=self._stride_px,
            with_image=True,
            with_masked=self._has_mask,
            dtype=self.unet.dtype,
        )

    @torch.no_grad()
    def noisy_row(self, picture: EncodedPicture, generator: torch.Generator) -> NoisyRow:
        """A picture at a random time with random noise, all from one generator."""
        num_times = int(self._noise.config.num_train_timesteps)
        time_1 = torch.randint(num_times, (1,), generator=generator).to(self._device)
        latent = draw_latent(self.vae, picture.image, generator, dtype=self.unet.dtype)
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        noisy = self._noise.add_noise(latent, noise, time_1)
        target = noise if self._predicts == "epsilon" else self._noise.get_velocity(latent, noise, time_1)
        inputs = [noisy]
        if self._has_mask:
            masked = draw_latent(self.vae, picture.masked, generator, dtype=self.unet.dtype)
            inputs += [picture.mask_11hw, masked]
        return NoisyRow(torch.cat(inputs, dim=1).to(self.unet.dtype), time_1, target.float(), picture.mask_11hw.float())

    def losses_B(self, rows: Sequence[NoisyRow], prompts: Sequence[TokenizedPrompt]) -> torch.Tensor:
        """Mean squared error of what the denoiser predicts inside each row's region, (B,) float32; eq. (1)."""
        predicted_BChw = self.unet(
            torch.cat([row.inputs_1Chw for row in rows]),
            torch.cat([row.time_1 for row in rows]),
            encoder_hidden_states=self.prompts.embed(prompts),
            return_dict=False,
        )[0].float()
        region_B1hw = torch.cat([row.region_11hw for row in rows])
        error_BChw = (predicted_BChw - torch.cat([row.target_1Chw for row in rows])).square() * region_B1hw
        num_cells_B = region_B1hw.sum(dim=(1, 2, 3)) * predicted_BChw.shape[1]
        losses_B: torch.Tensor = error_BChw.sum(dim=(1, 2, 3)) / num_cells_B
        return losses_B


@dataclass
class Learned:
    """How far the learning of one token is.

    Attributes:
        vector: Its embedding, (1, D) float32.
        optimizer: State of its optimizer; empty at the start and at the end.
        step: Steps made.
        history: Mean loss of every `log_every` steps: "step" and "loss".
    """

    vector: torch.Tensor
    optimizer: dict[str, Any] = field(default_factory=dict)
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def learn_tokens(
    denoiser: FrozenDenoiser,
    tokens: Sequence[tuple[ClassToken, Sequence[TokenPicture]]],
    settings: TextualInversionConfig,
    *,
    seed: int,
    worker: Worker,
) -> dict[str, Learned]:
    """Learns one token after the other; goes on from the checkpoint in the worker's folder.

    Args:
        denoiser: What they are learned against.
        tokens: Each with the images to learn from, in order of their ids.
        settings: Steps and rates.
        seed: Of what is drawn.
        worker: Where this runs.

    Raises:
        DataError: An image's region selects nothing.
        StageError: A loss is not finite.
        ResourceError: A GPU's memory does not hold a UNet call.
    """
    progress = _read_checkpoint(worker)
    for token, pictures in tokens:
        learned = progress.setdefault(token.name, Learned(denoiser.initial_vector(token)))
        if learned.step < settings.num_steps:
            _Learning(denoiser, token, pictures, settings, seed, worker).run(learned, progress)
    return progress


class _Learning:
    """The learning of one token."""

    def __init__(
        self,
        denoiser: FrozenDenoiser,
        token: ClassToken,
        pictures: Sequence[TokenPicture],
        settings: TextualInversionConfig,
        seed: int,
        worker: Worker,
    ) -> None:
        self._denoiser, self._token, self._pictures = denoiser, token, pictures
        self._settings, self._seed, self._worker = settings, seed, worker
        self._encoded: dict[tuple[int, bool], EncodedPicture] = {}

    def run(self, learned: Learned, progress: dict[str, Learned]) -> None:
        settings = self._settings
        vector_1D = torch.nn.Parameter(learned.vector.to(self._worker.device))
        optimizer = torch.optim.AdamW([vector_1D], lr=settings.learning_rate, weight_decay=settings.weight_decay)
        if learned.optimizer:
            optimizer.load_state_dict(learned.optimizer)
        total = 0.0
        for step in range(learned.step, settings.num_steps):
            optimizer.zero_grad()
            total += self._add_gradient(step, vector_1D)
            optimizer.step()
            done = step + 1
            if done % settings.log_every and done < settings.num_steps:
                continue
            num_steps = (done - 1) % settings.log_every + 1
            learned.history.append({"step": done, "loss": total / num_steps})
            line = f"{self._token.name}: step {done}/{settings.num_steps}: loss {total / num_steps:.4f}"
            total = 0.0
            learned.vector, learned.step = vector_1D.detach().cpu().clone(), done
            learned.optimizer = optimizer.state_dict() if done < settings.num_steps else {}
            if self._worker.leads:
                _write_checkpoint(self._worker, progress)
                self._worker.tell(line)

    def _add_gradient(self, step: int, vector_1D: torch.nn.Parameter) -> float:
        """Adds one step's gradient to the vector's; gives back the loss of the whole batch."""
        settings, worker = self._settings, self._worker
        rows = range(settings.batch_size)[worker.rank :: worker.world_size]
        vector_1D.grad = torch.zeros_like(vector_1D)
        total = torch.zeros(1, device=vector_1D.device)
        size = settings.rows_per_call or max(1, len(rows))
        for start in range(0, len(rows), size):
            drawn = [self._draw(step, row, vector_1D) for row in rows[start : start + size]]
            try:
                losses_B = self._denoiser.losses_B([row for row, _ in drawn], [prompt for _, prompt in drawn])
                loss = losses_B.sum() / settings.batch_size
                loss.backward()
            except torch.OutOfMemoryError as error:
                raise ResourceError(
                    f"learning {self._token.name} ran out of memory with {len(drawn)} images in a UNet call; set "
                    f"textual_inversion.rows_per_call={max(1, len(drawn) // 2)}, or dtype=bfloat16"
                ) from error
            total += loss.detach()
        if worker.world_size > 1:
            torch.distributed.all_reduce(vector_1D.grad)
            torch.distributed.all_reduce(total)
        value = float(total)
        if not math.isfinite(value):
            raise StageError(
                f"the loss of {self._token.name} at step {step + 1} is {value}; lower textual_inversion.learning_rate "
                f"(now {settings.learning_rate:g}) or take dtype=float32"
            )
        return value

    def _draw(self, step: int, row: int, vector_1D: torch.Tensor) -> tuple[NoisyRow, TokenizedPrompt]:
        """Image, mirroring, text, time and noise of one row of one step."""
        key = f"textual_inversion/{self._token.name}/{step}/{row}"
        generator = torch.Generator("cpu").manual_seed(row_seed(self._seed, key))
        image = int(torch.randint(len(self._pictures), (1,), generator=generator))
        templates = self._settings.all_templates
        template = templates[int(torch.randint(len(templates), (1,), generator=generator))]
        flipped = bool(torch.rand(1, generator=generator) < self._settings.flip_fraction)
        if (image, flipped) not in self._encoded:
            self._encoded[image, flipped] = self._denoiser.encode(self._pictures[image], flipped=flipped)
        noisy = self._denoiser.noisy_row(self._encoded[image, flipped], generator)
        text = self._token.fill(template)
        return noisy, self._denoiser.prompts.tokenize(text, {self._token.name: vector_1D})


def _read_checkpoint(worker: Worker) -> dict[str, Learned]:
    path = worker.folder / CHECKPOINT
    if not path.is_file():
        return {}
    state = torch.load(path, weights_only=True, map_location="cpu")
    return {name: Learned(**fields) for name, fields in state.items()}


def _write_checkpoint(worker: Worker, progress: dict[str, Learned]) -> None:
    # By way of memory, so that a full disk is an OSError with its number: torch's own writer hides it.
    buffer = io.BytesIO()
    torch.save({name: vars(learned) for name, learned in progress.items()}, buffer)
    write_bytes(worker.folder / CHECKPOINT, buffer.getvalue())
