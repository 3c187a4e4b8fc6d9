"""Training of the denoiser and the text encoder on encoded scenes."""

# B samples of a batch, T tokens, H height, W width (latent cells), C latent channels

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from torch import Tensor, nn
from transformers import CLIPTokenizer

from raygen.datasets.scene_rendering import CLASS_NAMES
from raygen.seeding import row_seed
from raygen.tiny.latents import Batch, LatentBank
from raygen.tiny.model import build_text_encoder, build_training_scheduler, build_unet, load_model, save_model
from raygen.tiny.muon import Muon
from raygen.tiny.pictures import save_grid
from raygen.tiny.processes import Clock, Process, load_state, save_state, warm_up_then_decay
from raygen.tiny.repaint import repaint
from raygen.tiny.tokenizer import MAX_TOKENS, build_tokenizer
from raygen.tiny.world import TEMPLATES, World, dilate, open_world

logger = logging.getLogger(__name__)

BATCH_SIZE = 32  # per process
MUON_LEARNING_RATE, ADAM_LEARNING_RATE = 2.5e-3, 1.5e-3
WEIGHT_DECAY = 0.01
# Every entry of the bank is used BATCH_SIZE / RENEWALS_PER_STEP = 4 times on average.
BANK_SIZE, RENEWALS_PER_STEP = 1536, 8
# Outside the mask the picture is put back afterwards; a little weight there keeps the seams fitting.
WEIGHT_OUTSIDE_MASK = 0.15
EMA_DECAY = 0.996
CHECKPOINT_EVERY_S, EXPORT_EVERY_S, FIRST_EXPORT_STEP = 240, 480, 100


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
    average = copy.deepcopy(denoiser).requires_grad_(False)
    optimizers = build_optimizers(denoiser, process)
    checkpoint = work / "unet.pt"
    step, clock = _resume(checkpoint, denoiser, average, optimizers, budget_s=minutes * 60)
    bank_rng = np.random.default_rng(row_seed(seed, f"bank/{step}/{process.rank}"))
    bank = LatentBank(autoencoder, world, size=BANK_SIZE, rng=bank_rng)
    if process.leads:
        logger.info("bank is filled; %.2f M parameters", sum(p.numel() for p in denoiser.parameters()) / 1e6)
    parameters, scheduler = list(denoiser.parameters()), build_training_scheduler()
    first_step, mean_loss, last_checkpoint_s, last_export_s = step, 0.0, clock.spent_s, clock.spent_s
    while (fraction := process.agree(clock.fraction)) < 1:
        torch.manual_seed(row_seed(seed, f"unet/{step}/{process.rank}"))
        bank.renew(RENEWALS_PER_STEP)
        _set_learning_rate(optimizers, warm_up_then_decay(fraction, warm_up=0.02, hold=0.35))
        loss = velocity_loss(denoiser, scheduler, bank.draw(BATCH_SIZE))
        denoiser.zero_grad()
        loss.backward()
        process.average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        _update_average(average, denoiser, decay=min(EMA_DECAY, (1 + step) / (10 + step)))
        if not process.leads:
            continue
        keep = min(0.98, (step - first_step - 1) / (step - first_step))
        mean_loss = keep * mean_loss + (1 - keep) * float(loss.detach())
        if step % 25 == 0:
            logger.info("unet step %d (%.1f%%): loss %.4f, %.0f s", step, 100 * fraction, mean_loss, clock.spent_s)
        if clock.spent_s - last_checkpoint_s > CHECKPOINT_EVERY_S:
            last_checkpoint_s = clock.spent_s
            save_state(checkpoint, _state(denoiser, average, optimizers, step=step, clock=clock))
        if step == FIRST_EXPORT_STEP or clock.spent_s - last_export_s > EXPORT_EVERY_S:
            last_export_s = clock.spent_s
            _export(work, autoencoder, average, tokenizer, world)
    if process.leads:
        save_state(checkpoint, _state(denoiser, average, optimizers, step=step, clock=clock))
        _export(work, autoencoder, average, tokenizer, world)
        (work / "unet.done").write_text(f"{step} steps\n")


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


def build_optimizers(denoiser: Denoiser, process: Process) -> list[torch.optim.Optimizer]:
    """Muon for the weights inside, AdamW for embeddings, norms, biases, the first and the last convolution."""
    outer = {id(p) for m in (denoiser.unet.conv_in, denoiser.unet.conv_out) for p in m.parameters()}
    outer |= {id(m.weight) for m in denoiser.modules() if isinstance(m, nn.Embedding)}
    inside = [p for p in denoiser.parameters() if p.ndim > 1 and id(p) not in outer]
    ids = {id(p) for p in inside}
    rest = [p for p in denoiser.parameters() if id(p) not in ids]
    shared: dict[str, Any] = {"rank": process.rank, "num_processes": process.num_processes, "add_up": process.add_up}
    return [
        Muon(inside, lr=MUON_LEARNING_RATE, momentum=0.95, weight_decay=WEIGHT_DECAY, **shared),
        torch.optim.AdamW(rest, lr=ADAM_LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98), fused=True),
    ]


def _set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = group["initial_lr"] * factor


@torch.no_grad()
def _update_average(average: nn.Module, denoiser: nn.Module, *, decay: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(denoiser.parameters()), 1 - decay)


def _state(
    denoiser: nn.Module,
    average: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    *,
    step: int,
    clock: Clock,
) -> dict[str, Any]:
    return {
        "model": denoiser.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "spent_s": clock.spent_s,
    }


def _resume(
    checkpoint: Path,
    denoiser: nn.Module,
    average: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    *,
    budget_s: float,
) -> tuple[int, Clock]:
    if not checkpoint.exists():
        return 0, Clock(budget_s, spent_s=0)
    state = load_state(checkpoint)
    denoiser.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for optimizer, inner in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(inner)
    return state["step"], Clock(budget_s, spent_s=state["spent_s"])


def _export(work: Path, autoencoder: AutoencoderKL, average: Denoiser, tokenizer: CLIPTokenizer, world: World) -> None:
    """Saves the averaged weights as a pipeline, and a sheet: scenes above, repainted as the other class below."""
    folder = work / "export_latest"
    parts = {"text_encoder": average.text_encoder, "unet": average.unet}
    save_model(folder, autoencoder=autoencoder, tokenizer=tokenizer, **parts)
    num_columns = 12
    scenes = range(2 * num_columns)
    images_NHWC = np.asarray(world.images_NHWC[: 2 * num_columns])
    masks_NHW = np.stack([dilate(world.counterpart_HW(i), 8) for i in scenes])
    prompts = [TEMPLATES[0].format(CLASS_NAMES[1 - world.label(i)]) for i in scenes]
    painted_NHWC = repaint(load_model(folder, device="cpu"), images_NHWC, masks_NHW, prompts, seed=0)
    rows = [a[i : i + num_columns] for i in (0, num_columns) for a in (images_NHWC, painted_NHWC)]
    save_grid(work / "unet.png", np.concatenate(rows), num_columns=num_columns)
