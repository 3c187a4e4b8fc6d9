"""The tiny model's autoencoder: 64 px pictures to 16 x 16 x 4 latents and back.

Trained mostly on 32 px crops, which see twice as many birds a second as whole pictures.
"""

# N images, H height, W width, C channels

import logging
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from raygen.seeding import row_seed
from raygen.tiny.pictures import save_pairs, to_tensor_NCHW, to_uint8_NHWC
from raygen.tiny.processes import Clock, Process, load_state, save_state, warm_up_then_decay
from raygen.tiny.world import World, open_world

logger = logging.getLogger(__name__)

CROP_PX = 32
# Guesses that worked; larger rates made the first hundred steps stall.
LEARNING_RATE = 2.5e-3
CROPS_PER_STEP = 16
# The last part of the time sees whole pictures, as the statistics of group norm depend on the extent.
CROPPED_FRACTION = 0.85
KL_WEIGHT = 3e-7
SAVE_EVERY_S = 120


def build_autoencoder() -> AutoencoderKL:
    """Untrained autoencoder of 0.65 M parameters, 4 latent channels, stride 4.

    Group norm with one group, because several groups take away the mean colour of each; residual branches start at
    zero, so that the net begins as a chain of plain convolutions, which passes colours on.
    """
    autoencoder = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=1,
        sample_size=64,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    for module in autoencoder.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
    with torch.no_grad():  # start with a posterior so narrow that sampling from it does not drown the mean
        autoencoder.quant_conv.weight[4:] *= 0.1
        autoencoder.quant_conv.bias[4:] = -4
    return autoencoder


def train_autoencoder(process: Process, work: Path, *, minutes: float, seed: int) -> None:
    """Trains for `minutes`, folds the latents' statistics in, and saves the folder work/vae."""
    torch.manual_seed(seed)
    world = open_world(work / "world")
    autoencoder = build_autoencoder().to(process.device, memory_format=torch.channels_last)
    parameters = list(autoencoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0, betas=(0.9, 0.98), fused=True)
    checkpoint = work / "vae.pt"
    step, clock = 0, Clock(minutes * 60, spent_s=0)
    if checkpoint.exists():
        state = load_state(checkpoint)
        autoencoder.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, clock = state["step"], Clock(minutes * 60, spent_s=state["spent_s"])
    last_save_s, error = clock.spent_s, 0.01
    while (fraction := process.agree(clock.fraction)) < 1:
        rng = np.random.default_rng(row_seed(seed, f"vae/{step}/{process.rank}"))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm_up_then_decay(fraction, warm_up=0.03, hold=0.3)
        images_NCHW, weights_N1HW = _draw_batch(rng, world, cropped=fraction < CROPPED_FRACTION, device=process.device)
        torch.manual_seed(row_seed(seed, f"vae-noise/{step}/{process.rank}"))
        loss, squared_error = _reconstruction_loss(autoencoder, images_NCHW, weights_N1HW)
        optimizer.zero_grad()
        loss.backward()
        process.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, error = step + 1, 0.97 * error + 0.03 * squared_error
        if process.leads and step % 50 == 0:
            logger.info("vae step %d (%.0f%%): %.2f dB", step, 100 * fraction, 10 * np.log10(4 / error))
        if process.leads and clock.spent_s - last_save_s > SAVE_EVERY_S:
            last_save_s = clock.spent_s
            inner = {"model": autoencoder.state_dict(), "optimizer": optimizer.state_dict()}
            save_state(checkpoint, {**inner, "step": step, "spent_s": clock.spent_s})
            save_reconstructions(autoencoder, world, work / "vae.png")
    if process.leads:
        fold_latent_statistics(autoencoder, world)
        save_reconstructions(autoencoder, world, work / "vae.png")
        autoencoder.save_pretrained(work / "vae")


def _draw_batch(
    rng: np.random.Generator, world: World, *, cropped: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Pictures in [-1, 1] and per-pixel weights, three times as high on the bird.

    Both are crops of CROP_PX, or a quarter as many whole pictures.
    """
    num_images = CROPS_PER_STEP if cropped else CROPS_PER_STEP // 4
    images, weights = [], []
    for index in rng.integers(0, len(world), num_images):
        image_HWC, object_HW = world.images_NHWC[index], world.object_HW(index)
        if cropped:
            top, left = rng.integers(0, image_HWC.shape[0] - CROP_PX + 1, 2)
            window = (slice(top, top + CROP_PX), slice(left, left + CROP_PX))
            image_HWC, object_HW = image_HWC[window], object_HW[window]
        if rng.random() < 0.5:
            image_HWC, object_HW = image_HWC[:, ::-1], object_HW[:, ::-1]
        images.append(image_HWC)
        weights.append(1 + 2 * object_HW.astype(np.float32))
    return to_tensor_NCHW(np.stack(images), device=device), torch.from_numpy(np.stack(weights))[:, None].to(device)


def _reconstruction_loss(autoencoder: AutoencoderKL, images_NCHW: Tensor, weights_N1HW: Tensor) -> tuple[Tensor, float]:
    """Weighted absolute, squared and gradient error plus a little KL; and the plain mean squared error."""
    posterior = autoencoder.encode(images_NCHW).latent_dist
    decoded_NCHW = autoencoder.decode(posterior.sample()).sample
    error_NCHW = decoded_NCHW - images_NCHW
    # Differences of neighbours keep outlines sharp; a plain L1 or L2 blurs bills and necks away.
    edges = (error_NCHW.diff(dim=-1) * weights_N1HW[..., 1:]).abs().mean()
    edges = edges + (error_NCHW.diff(dim=-2) * weights_N1HW[..., 1:, :]).abs().mean()
    loss = 0.7 * (error_NCHW.abs() * weights_N1HW).mean() + 2 * (error_NCHW.square() * weights_N1HW).mean()
    loss = loss + 0.2 * edges + KL_WEIGHT * posterior.kl().mean()
    return loss, float(error_NCHW.detach().square().mean())


@torch.no_grad()
def fold_latent_statistics(autoencoder: AutoencoderKL, world: World, *, num_images: int = 512) -> None:
    """Folds each latent channel's mean and deviation into the 1x1 convolutions on both sides of the latent.

    Afterwards every channel has mean 0 and deviation 1, `scaling_factor` is 1, and decoding is unchanged. One factor
    for all channels would starve the weak ones: their deviations differ up to seven times.
    """
    indices = np.arange(num_images) * (len(world) // num_images) + np.arange(num_images) % 4
    device = autoencoder.device
    parts = [
        autoencoder.encode(to_tensor_NCHW(world.images_NHWC[part], device=device)).latent_dist.mean
        for part in np.array_split(np.minimum(indices, len(world) - 1), num_images // 32)
    ]
    latents_NCHW = torch.cat(parts)
    mean_C, std_C = latents_NCHW.mean((0, 2, 3)), latents_NCHW.std((0, 2, 3))
    logger.info("latent means %s, deviations %s", mean_C.tolist(), std_C.tolist())
    num_channels = len(mean_C)
    into, out_of = autoencoder.quant_conv, autoencoder.post_quant_conv
    into.bias[:num_channels] = (into.bias[:num_channels] - mean_C) / std_C
    into.weight[:num_channels] /= std_C[:, None, None, None]
    into.bias[num_channels:] -= 2 * std_C.log()  # the second half of the channels is a log-variance
    out_of.bias += out_of.weight[:, :, 0, 0] @ mean_C
    out_of.weight *= std_C[None, :, None, None]


@torch.no_grad()
def peak_signal_to_noise(autoencoder: AutoencoderKL, world: World, *, num_images: int) -> tuple[float, float]:
    """Mean PSNR in dB of encoding and decoding the first pictures: on whole pictures, and on the birds only."""
    squared, squared_bird, num_bird = 0.0, 0.0, 0.0
    for part in np.array_split(np.arange(num_images), max(1, num_images // 32)):
        images_NCHW = to_tensor_NCHW(world.images_NHWC[part], device=autoencoder.device)
        decoded_NCHW = autoencoder.decode(autoencoder.encode(images_NCHW).latent_dist.mode()).sample.clamp(-1, 1)
        objects_N1HW = torch.from_numpy(np.stack([world.object_HW(i) for i in part]))[:, None]
        error_NCHW = (decoded_NCHW - images_NCHW).square().cpu()
        squared += float(error_NCHW.mean()) * len(part)
        squared_bird += float((error_NCHW * objects_N1HW).sum())
        num_bird += 3 * float(objects_N1HW.sum())
    return 10 * float(np.log10(4 * num_images / squared)), 10 * float(np.log10(4 * num_bird / squared_bird))


@torch.no_grad()
def save_reconstructions(autoencoder: AutoencoderKL, world: World, path: Path) -> None:
    """Two pairs of rows: scenes above, what comes out of the autoencoder below."""
    images_NHWC = world.images_NHWC[:24]
    images_NCHW = to_tensor_NCHW(images_NHWC, device=autoencoder.device)
    decoded_NHWC = to_uint8_NHWC(autoencoder.decode(autoencoder.encode(images_NCHW).latent_dist.mode()).sample)
    save_pairs(path, images_NHWC, decoded_NHWC)
