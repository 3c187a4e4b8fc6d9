"""Oracles: small classifiers that say which kind of bird a picture shows, to judge what the model draws.

The shape oracle learns from birds whose colours say nothing about the class, so only drawn necks, bills and tails
convince it. The colour oracle learns from the benchmark's plumage and can be convinced by a blob of a typical colour:
its number alone says little about the pictures.
"""

# N images, H height, W width, C classes or channels

import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from raygen.datasets.scene_rendering import CLASS_NAMES, Plumage
from raygen.seeding import row_seed
from raygen.tiny.pictures import to_tensor_NCHW
from raygen.tiny.processes import Process
from raygen.tiny.world import World, open_world

logger = logging.getLogger(__name__)

ORACLES: dict[str, Plumage] = {"shape": "independent", "colour": "hinted"}
NUM_TRAINING_SCENES, NUM_HELD_OUT_SCENES = 9_600, 1_600
NUM_EPOCHS, BATCH_SIZE, LEARNING_RATE, MAX_SHIFT_PX = 10, 64, 3e-3, 4


class Block(nn.Module):
    """Two convolutions and a shortcut; halves the extent."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=2)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """The block's output."""
        inner_NCHW = F.relu(self.first_norm(self.first(x_NCHW)))
        return F.relu(self.second_norm(self.second(inner_NCHW)) + self.shortcut(x_NCHW))


class Oracle(nn.Module):
    """Logits over the kinds of bird, (N, 2), from pictures in [-1, 1], (N, 3, 64, 64)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            Block(width, width),
            Block(width, 2 * width),
            Block(2 * width, 4 * width),
        )
        self.head = nn.Linear(4 * width, len(CLASS_NAMES))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits, (N, 2)."""
        logits_NC: Tensor = self.head(self.blocks(images_NCHW).mean((2, 3)))
        return logits_NC


def world_folder(work: Path, name: str) -> Path:
    """Folder of the scenes that an oracle is trained on."""
    return work / f"world_{name}"


def held_out_scenes() -> range:
    """Indices of the scenes of an oracle's world that it does not learn from."""
    return range(NUM_TRAINING_SCENES, NUM_TRAINING_SCENES + NUM_HELD_OUT_SCENES)


def train_oracles(process: Process, work: Path, *, seed: int, num_epochs: int = NUM_EPOCHS) -> None:
    """Trains the oracles that are not there yet, one a process at a time; saves work/oracle_{name}.safetensors."""
    for name in list(ORACLES)[process.rank :: process.num_processes]:
        path = work / f"oracle_{name}.safetensors"
        if not path.exists():
            world, oracle_seed = open_world(world_folder(work, name)), row_seed(seed, name)
            oracle = _train(world, device=process.device, seed=oracle_seed, num_epochs=num_epochs)
            save_file({key: tensor.contiguous() for key, tensor in oracle.state_dict().items()}, path)


def load_oracle(work: Path, name: str) -> Oracle:
    """A trained oracle, in evaluation mode."""
    oracle = Oracle()
    oracle.load_state_dict(load_file(work / f"oracle_{name}.safetensors"))
    return oracle.eval()


@torch.no_grad()
def predict(oracle: Oracle, images_NHWC: np.ndarray) -> np.ndarray:
    """Class that the oracle sees in each picture, (N,) int."""
    device = oracle.head.weight.device
    parts = np.array_split(images_NHWC, max(1, len(images_NHWC) // 64))
    return np.concatenate([oracle(to_tensor_NCHW(part, device=device)).argmax(1).cpu().numpy() for part in parts])


def _train(world: World, *, device: torch.device, seed: int, num_epochs: int) -> Oracle:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    oracle = Oracle().to(device).to(memory_format=torch.channels_last)
    num_steps = NUM_TRAINING_SCENES // BATCH_SIZE
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_epochs * num_steps)
    for epoch in range(num_epochs):
        oracle.train()
        for indices in rng.permutation(NUM_TRAINING_SCENES).reshape(num_steps, BATCH_SIZE):
            images_NCHW = _augment(rng, to_tensor_NCHW(world.images_NHWC[indices], device=device))
            labels_N = torch.tensor([world.label(int(i)) for i in indices], device=device)
            loss = F.cross_entropy(oracle(images_NCHW), labels_N)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        oracle.eval()
        logger.info("oracle epoch %d: held-out accuracy %.3f", epoch + 1, accuracy(oracle, world))
    return oracle


def accuracy(oracle: Oracle, world: World) -> float:
    """Fraction of the held-out scenes whose class the oracle finds."""
    scenes = held_out_scenes()
    predicted_N = predict(oracle, world.images_NHWC[scenes.start : scenes.stop])
    return float(np.mean(predicted_N == [world.label(i) for i in scenes]))


def _augment(rng: np.random.Generator, images_NCHW: Tensor) -> Tensor:
    """Flips half of the batch and shifts all of it by the same few pixels; edges are repeated."""
    images_NCHW = torch.where(
        torch.from_numpy(rng.random(len(images_NCHW)) < 0.5).to(images_NCHW.device)[:, None, None, None],
        images_NCHW.flip(-1),
        images_NCHW,
    )
    top, left = (int(v) for v in rng.integers(0, 2 * MAX_SHIFT_PX + 1, 2))
    padded_NCHW = F.pad(images_NCHW, (MAX_SHIFT_PX,) * 4, mode="replicate")
    height, width = images_NCHW.shape[2:]
    return padded_NCHW[:, :, top : top + height, left : left + width]
