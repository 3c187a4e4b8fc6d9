"""A rotating bank of encoded scenes: what the denoiser trains on, a little of it encoded anew before every step.

Encoding costs about half as much as a training step, so each encoding is used a few times; every renewal draws
another scene, flip and mask.
"""

# N scenes, B samples of a batch, H height, W width (latent cells), C latent channels

from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from raygen.tiny.pictures import to_tensor_NCHW
from raygen.tiny.world import World, draw_caption, draw_mask


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples to train on.

    Attributes:
        latents_BCHW: Encoded pictures, (B, 4, 16, 16).
        kept_BCHW: Encoded pictures with the masked part set to mid grey, (B, 4, 16, 16).
        mask_B1HW: 1 = generated anew, (B, 1, 16, 16).
        captions: One a sample; some are empty.
    """

    latents_BCHW: Tensor
    kept_BCHW: Tensor
    mask_B1HW: Tensor
    captions: list[str]


class LatentBank:
    """Encoded scenes of one process."""

    def __init__(self, autoencoder: AutoencoderKL, world: World, *, size: int, rng: np.random.Generator) -> None:
        self._autoencoder, self._world, self._rng = autoencoder, world, rng
        self._scene_N = np.zeros(size, dtype=np.int64)
        self._latents_NCHW = torch.empty(size, 4, 16, 16, device=autoencoder.device)
        self._kept_NCHW = torch.empty_like(self._latents_NCHW)
        self._mask_N1HW = torch.empty(size, 1, 16, 16, device=autoencoder.device)
        self._next = 0
        for _ in range(0, size, 32):
            self.renew(32)

    @torch.no_grad()
    def renew(self, num_entries: int) -> None:
        """Replaces the oldest entries by other scenes, flips and masks."""
        slots = (self._next + np.arange(num_entries)) % len(self._scene_N)
        self._next = int(slots[-1]) + 1
        scenes = self._rng.integers(0, len(self._world), num_entries)
        images, masks = zip(*(self._draw(int(i)) for i in scenes), strict=True)
        images_NCHW = to_tensor_NCHW(np.stack(images), device=self._autoencoder.device)
        mask_N1HW = torch.from_numpy(np.stack(masks))[:, None].to(images_NCHW)
        # The pipeline's own preparation: masked pixels become 0 in [-1, 1], the mask is down-sampled by "nearest".
        kept_NCHW = (images_NCHW * (mask_N1HW < 0.5)).contiguous(memory_format=torch.channels_last)
        entries = torch.from_numpy(slots)
        self._scene_N[slots] = scenes
        self._mask_N1HW[entries] = torch.nn.functional.interpolate(mask_N1HW, size=(16, 16))
        self._latents_NCHW[entries] = self._autoencoder.encode(images_NCHW).latent_dist.sample()
        self._kept_NCHW[entries] = self._autoencoder.encode(kept_NCHW).latent_dist.mode()

    def _draw(self, scene: int) -> tuple[np.ndarray, np.ndarray]:
        object_HW, counterpart_HW = self._world.object_HW(scene), self._world.counterpart_HW(scene)
        mask_HW = draw_mask(self._rng, object_HW=object_HW, counterpart_HW=counterpart_HW)
        image_HWC = self._world.images_NHWC[scene]
        return (image_HWC[:, ::-1], mask_HW[:, ::-1]) if self._rng.random() < 0.5 else (image_HWC, mask_HW)

    def draw(self, batch_size: int) -> Batch:
        """Random entries with fresh captions."""
        slots = self._rng.integers(0, len(self._scene_N), batch_size)
        entries = torch.from_numpy(slots)
        labels = [(self._world.label(int(i)), self._world.attribute(int(i))) for i in self._scene_N[slots]]
        captions = [draw_caption(self._rng, label=label, attribute=attribute) for label, attribute in labels]
        return Batch(self._latents_NCHW[entries], self._kept_NCHW[entries], self._mask_N1HW[entries], captions)
