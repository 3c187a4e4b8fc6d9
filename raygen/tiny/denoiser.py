"""Training of the denoiser and the text encoder on encoded scenes."""

# B samples of a batch, T tokens, H height, W width (latent cells), C latent channels

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor, nn
from transformers import CLIPTokenizer

from raygen.datasets.scene_rendering import CLASS_NAMES
from raygen.seeding import row_seed
from raygen.tiny.latents import Batch, LatentBank
from raygen.tiny.model import build_text_encoder, build_training_scheduler, build_unet, load_model, save_model
from raygen.tiny.pictures import save_pairs
from raygen.tiny.processes import Process
from raygen.tiny.repaint import repaint
from raygen.tiny.tokenizer import MAX_TOKENS, build_tokenizer
from raygen.tiny.training import Plan, Training
from raygen.tiny.world import TEMPLATES, World, dilate, open_world

BATCH_SIZE = 32  # per process
# Every entry of the bank is used BATCH_SIZE / RENEWALS_PER_STEP = 4 times on average.
BANK_SIZE, RENEWALS_PER_STEP = 1536, 8
# Outside the mask the picture is put back afterwards; a little weight there keeps the seams fitting.
WEIGHT_OUTSIDE_MASK = 0.15


class Denoiser(nn.Module):
    """UNet and text encoder as one module, with the captions' tokens cached."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet = build_unet()
        self.text_encoder = build_text_encoder(tokenizer)
        self._tokenizer = tokenizer
        self._tokens: dict[str, list[int]] = {}

    def forward(self, latents_BCHW: Tensor, times_B: Tensor, captions: list[str]) -> Tensor:
        """Predicted velocity, (B, 4, 16, 16), from noisy latent, mask and kept latent, (B, 9, 16, 16)."""
        ids_BT = torch.tensor([self._tokenize(caption) for caption in captions], device=latents_BCHW.device)
        latents_BCHW = latents_BCHW.contiguous(memory_format=torch.channels_last)
        states_BTC = self.text_encoder(ids_BT).last_hidden_state
        predicted: Tensor = self.unet(latents_BCHW, times_B, states_BTC).sample
        return predicted

    def _tokenize(self, caption: str) -> list[int]:
        if caption not in self._tokens:
            ids = self._tokenizer(caption, padding="max_length", max_length=MAX_TOKENS, truncation=True)["input_ids"]
            self._tokens[caption] = ids
        return self._tokens[caption]


def train_denoiser(process: Process, work: Path, *, minutes: float, seed: int) -> None:
    """Trains for `minutes`, saves the averaged weights as the model work/export_latest, and marks work/unet.done."""
    torch.manual_seed(seed)
    tokenizer, world = build_tokenizer(), open_world(work / "world")
    autoencoder = AutoencoderKL.from_pretrained(work / "vae").to(process.device, memory_format=torch.channels_last)
    autoencoder.requires_grad_(False)
    denoiser = Denoiser(tokenizer).to(process.device).to(memory_format=torch.channels_last)
    outer = [denoiser.unet.conv_in, denoiser.unet.conv_out]
    outer += [module for module in denoiser.modules() if isinstance(module, nn.Embedding)]
    plan = Plan(
        "unet",
        minutes,
        muon_rate=2.5e-3,
        adam_rate=1.5e-3,
        warm_up=0.02,
        hold=0.35,
        ema_decay=0.996,
        log_every=25,
        save_every_s=240,
        export_every_s=480,
    )
    training = Training(process, denoiser, outer, work / "unet.pt", plan)
    bank_rng = np.random.default_rng(row_seed(seed, f"bank/{training.step}/{process.rank}"))
    bank = LatentBank(autoencoder, world, size=BANK_SIZE, rng=bank_rng)
    scheduler = build_training_scheduler()

    def next_loss() -> Tensor:
        torch.manual_seed(row_seed(seed, f"unet/{training.step}/{process.rank}"))
        bank.renew(RENEWALS_PER_STEP)
        return velocity_loss(denoiser, scheduler, bank.draw(BATCH_SIZE))

    training.run(next_loss, lambda: _export(work, autoencoder, training.average, tokenizer, world))


def velocity_loss(denoiser: nn.Module, scheduler: DDPMScheduler, batch: Batch) -> Tensor:
    """Squared error of the predicted velocity, mostly inside the masks."""
    latents_BCHW = batch.latents_BCHW
    noise_BCHW = torch.randn_like(latents_BCHW)
    # Stratified times: one from each of B equal parts of [0, 1000), which makes the loss less noisy.
    num_times, num_samples = scheduler.config.num_train_timesteps, len(latents_BCHW)
    places_B = (torch.arange(num_samples) + torch.rand(num_samples)) / num_samples
    # Half uniform, half logit-normal (Esser et al. 2024, arXiv 2403.03206): shapes are settled at middle noise.
    middle_B = torch.sigmoid(torch.special.ndtri(places_B.clamp(1e-4, 1 - 1e-4)))
    places_B = torch.where(torch.rand(num_samples) < 0.5, middle_B, places_B)
    times_B = (places_B * num_times).long().clamp(max=num_times - 1).to(latents_BCHW.device)
    noisy_BCHW = scheduler.add_noise(latents_BCHW, noise_BCHW, times_B)
    velocity_BCHW = scheduler.get_velocity(latents_BCHW, noise_BCHW, times_B)
    inputs_BCHW = torch.cat([noisy_BCHW, batch.mask_B1HW, batch.kept_BCHW], dim=1)
    predicted_BCHW = denoiser(inputs_BCHW, times_B, batch.captions)
    weights_B1HW = WEIGHT_OUTSIDE_MASK + (1 - WEIGHT_OUTSIDE_MASK) * batch.mask_B1HW
    error_BCHW = (predicted_BCHW - velocity_BCHW).square() * weights_B1HW
    return error_BCHW.sum() / (weights_B1HW.sum() * latents_BCHW.shape[1])


def _export(work: Path, autoencoder: AutoencoderKL, average: Denoiser, tokenizer: CLIPTokenizer, world: World) -> None:
    """Saves the averaged weights as a pipeline, and a sheet: scenes above, repainted as the other class below."""
    folder = work / "export_latest"
    parts = {"text_encoder": average.text_encoder, "unet": average.unet}
    save_model(folder, autoencoder=autoencoder, tokenizer=tokenizer, **parts)
    scenes = range(24)
    images_NHWC = np.asarray(world.images_NHWC[:24])
    masks_NHW = np.stack([dilate(world.counterpart_HW(i), 8) for i in scenes])
    prompts = [TEMPLATES[0].format(CLASS_NAMES[1 - world.label(i)]) for i in scenes]
    painted_NHWC = repaint(load_model(folder, device="cpu"), images_NHWC, masks_NHW, prompts, seed=0)
    save_pairs(work / "unet.png", images_NHWC, painted_NHWC)
