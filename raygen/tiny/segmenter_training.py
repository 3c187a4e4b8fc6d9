"""Training of the tiny CLIPSeg on rendered scenes and their object masks."""

# B scenes of a batch, P prompts of a batch (two a scene), H height, W width

import copy
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from raygen.seeding import row_seed
from raygen.tiny.muon import Muon
from raygen.tiny.pictures import save_grid, to_tensor_NCHW
from raygen.tiny.processes import Clock, Process, load_state, save_state, warm_up_then_decay
from raygen.tiny.segmenter import (
    GENERIC_WORDS,
    build_segmenter,
    build_segmenter_tokenizer,
    draw_prompts,
    save_segmenter,
)
from raygen.tiny.world import World, open_world

logger = logging.getLogger(__name__)

BATCH_SIZE = 16  # scenes, per process
# Guesses that worked.
MUON_LEARNING_RATE, ADAM_LEARNING_RATE = 5e-3, 2e-3
WEIGHT_DECAY = 0.01
EMA_DECAY = 0.99
# The dice term looks at the mask as a whole, as IoU does; cross entropy alone is content with thin parts missing.
DICE_WEIGHT = 0.5
CHECKPOINT_EVERY_S, EXPORT_EVERY_S, FIRST_EXPORT_STEP = 120, 240, 100
EXPORT_NAME = "segmenter_latest"


def train_segmenter(process: Process, work: Path, *, minutes: float, seed: int) -> None:
    """Trains for `minutes`, saves the averaged weights as work/segmenter_latest, and marks work/segmenter.done."""
    torch.manual_seed(seed)
    training, world = Training(process, work / "segmenter.pt", budget_s=minutes * 60), open_world(work / "world")
    parameters = list(training.segmenter.parameters())
    if process.leads:
        logger.info("segmenter: %.2f M parameters", sum(p.numel() for p in parameters) / 1e6)
    mean_loss, first_step = 0.0, training.step
    last_checkpoint_s = last_export_s = training.clock.spent_s
    while (fraction := process.agree(training.clock.fraction)) < 1:
        rng = np.random.default_rng(row_seed(seed, f"segmenter/{training.step}/{process.rank}"))
        loss = mask_loss(training.segmenter, training.tokenizer, world, rng)
        training.segmenter.zero_grad()
        loss.backward()
        process.average_gradients(parameters)
        training.update(warm_up_then_decay(fraction, warm_up=0.03, hold=0.4))
        if not process.leads:
            continue
        keep = min(0.98, (training.step - first_step - 1) / (training.step - first_step))
        mean_loss = keep * mean_loss + (1 - keep) * float(loss.detach())
        if training.step % 50 == 0:
            logger.info("segmenter step %d (%.1f%%): loss %.4f", training.step, 100 * fraction, mean_loss)
        if training.clock.spent_s - last_checkpoint_s > CHECKPOINT_EVERY_S:
            last_checkpoint_s = training.clock.spent_s
            training.save()
        if training.step == FIRST_EXPORT_STEP or training.clock.spent_s - last_export_s > EXPORT_EVERY_S:
            last_export_s = training.clock.spent_s
            _export(work, training, world)
    if process.leads:
        training.save()
        _export(work, training, world)
        (work / "segmenter.done").write_text(f"{training.step} steps\n")


class Training:
    """A training's state: the model, its averaged twin, optimizers, steps and time.

    Args:
        process: Whose it is.
        checkpoint: Where it is saved, and taken from if it is there.
        budget_s: Processor time to spend.
    """

    def __init__(self, process: Process, checkpoint: Path, *, budget_s: float) -> None:
        self._checkpoint = checkpoint
        self.tokenizer = build_segmenter_tokenizer()
        self.segmenter = build_segmenter(self.tokenizer).to(process.device)
        self.average = copy.deepcopy(self.segmenter).eval().requires_grad_(False)
        self._optimizers = _build_optimizers(self.segmenter, process)
        self.step, self.clock = 0, Clock(budget_s, spent_s=0)
        if checkpoint.exists():
            state = load_state(checkpoint)
            self.segmenter.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, inner in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(inner)
            self.step, self.clock = state["step"], Clock(budget_s, spent_s=state["spent_s"])

    def update(self, rate: float) -> None:
        """One step along the gradients, with all learning rates times `rate`."""
        parameters = list(self.segmenter.parameters())
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * rate
            optimizer.step()
        self.step += 1
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), [p.detach() for p in parameters], 1 - decay)

    def save(self) -> None:
        """Writes the checkpoint."""
        state = {
            "model": self.segmenter.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "step": self.step,
            "spent_s": self.clock.spent_s,
        }
        save_state(self._checkpoint, state)


def mask_loss(
    segmenter: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, world: World, rng: np.random.Generator
) -> Tensor:
    """Cross entropy of every pixel, plus dice on the masks that are not empty, for two prompts a scene."""
    images, masks, texts = [], [], []
    for index in rng.integers(0, len(world), BATCH_SIZE):
        image_HWC, object_HW = world.images_NHWC[index], world.object_HW(index)
        if rng.random() < 0.5:
            image_HWC, object_HW = image_HWC[:, ::-1], object_HW[:, ::-1]
        images.append(image_HWC)
        for prompt in draw_prompts(rng, label=world.label(int(index))):
            texts.append(prompt.text)
            masks.append(object_HW & prompt.is_present)
    masks_PHW = torch.from_numpy(np.stack(masks)).to(segmenter.device).float()
    logits_PHW = prompt_logits(segmenter, tokenizer, np.stack(images), texts)
    overlap_P = (logits_PHW.sigmoid() * masks_PHW).sum((1, 2))
    total_P = (logits_PHW.sigmoid() + masks_PHW).sum((1, 2))
    dice_P = (1 - 2 * overlap_P / total_P) * masks_PHW.amax((1, 2))
    return F.binary_cross_entropy_with_logits(logits_PHW, masks_PHW) + DICE_WEIGHT * dice_P.mean()


def prompt_logits(
    segmenter: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, images_NHWC: np.ndarray, texts: list[str]
) -> Tensor:
    """Logits of len(texts) / N prompts a picture, in the pictures' order, (P, 64, 64).

    The model's own forward pass trains its decoder only: it runs CLIP without gradients.
    """
    images_NCHW = to_tensor_NCHW(images_NHWC, device=segmenter.device)
    hidden = segmenter.clip.vision_model(pixel_values=images_NCHW, output_hidden_states=True).hidden_states
    repeats = len(texts) // len(images_NHWC)
    activations = [hidden[layer + 1].repeat_interleave(repeats, dim=0) for layer in segmenter.extract_layers]
    tokens = tokenizer(texts, padding="max_length", return_tensors="pt").to(segmenter.device)
    embeddings_PC = segmenter.clip.get_text_features(**tokens).pooler_output
    logits_PHW: Tensor = segmenter.decoder(activations, embeddings_PC).logits
    return logits_PHW


def _build_optimizers(segmenter: CLIPSegForImageSegmentation, process: Process) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for embeddings, norms, biases, the first and the last convolution."""
    outer = {id(m.weight) for m in segmenter.modules() if isinstance(m, nn.Embedding | nn.Conv2d | nn.ConvTranspose2d)}
    inside = [p for p in segmenter.parameters() if p.ndim > 1 and id(p) not in outer]
    ids = {id(p) for p in inside}
    rest = [p for p in segmenter.parameters() if id(p) not in ids]
    shared: dict[str, Any] = {"rank": process.rank, "num_processes": process.num_processes, "add_up": process.add_up}
    optimizers: list[torch.optim.Optimizer] = [
        Muon(inside, lr=MUON_LEARNING_RATE, momentum=0.95, weight_decay=WEIGHT_DECAY, **shared),
        torch.optim.AdamW(rest, lr=ADAM_LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98), fused=True),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


@torch.no_grad()
def _export(work: Path, training: Training, world: World) -> None:
    """Saves the averaged weights as a model folder, and a sheet: scenes above, below what it marks as "bird"."""
    save_segmenter(work / EXPORT_NAME, training.average, training.tokenizer)
    num_columns = 12
    images_NHWC = np.array(world.images_NHWC[: 2 * num_columns])
    texts = [GENERIC_WORDS[0]] * len(images_NHWC)
    logits_NHW = prompt_logits(training.average, training.tokenizer, images_NHWC, texts).cpu().numpy()
    objects_NHW = np.stack([world.object_HW(i) for i in range(len(images_NHWC))])
    found_NHW = logits_NHW > 0
    overlap = (found_NHW & objects_NHW).sum((1, 2)) / (found_NHW | objects_NHW).sum((1, 2))
    logger.info("segmenter: mean IoU %.3f on %d training scenes", overlap.mean(), len(overlap))
    marked_NHWC = np.where(found_NHW[..., None], images_NHWC, images_NHWC // 4)
    rows = [a[i : i + num_columns] for i in (0, num_columns) for a in (images_NHWC, marked_NHWC)]
    save_grid(work / "segmenter.png", np.concatenate(rows), num_columns=num_columns)
