"""Training of the tiny CLIPSeg on rendered scenes and their object masks."""

# B scenes of a batch, P prompts of a batch (two a scene), H height, W width

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer

from raygen.seeding import row_seed
from raygen.tiny.pictures import save_pairs, to_tensor_NCHW
from raygen.tiny.processes import Process
from raygen.tiny.segmenter import (
    GENERIC_WORDS,
    build_segmenter,
    build_segmenter_tokenizer,
    draw_prompts,
    save_segmenter,
)
from raygen.tiny.training import Plan, Training
from raygen.tiny.world import World, open_world

logger = logging.getLogger(__name__)

BATCH_SIZE = 16  # scenes, per process
# The dice term looks at the mask as a whole, as IoU does; cross entropy alone is content with thin parts missing.
DICE_WEIGHT = 0.5
EXPORT_NAME = "segmenter_latest"


def train_segmenter(process: Process, work: Path, *, minutes: float, seed: int) -> None:
    """Trains for `minutes`, saves the averaged weights as work/segmenter_latest, and marks work/segmenter.done."""
    torch.manual_seed(seed)
    world, tokenizer = open_world(work / "world"), build_segmenter_tokenizer()
    segmenter = build_segmenter(tokenizer).to(process.device)
    outer = [m for m in segmenter.modules() if isinstance(m, nn.Embedding | nn.Conv2d | nn.ConvTranspose2d)]
    plan = Plan(
        "segmenter",
        minutes,
        muon_rate=5e-3,  # guesses that worked, as Adam's
        adam_rate=2e-3,
        warm_up=0.03,
        hold=0.4,
        ema_decay=0.99,
        log_every=50,
        save_every_s=120,
        export_every_s=240,
    )
    training = Training(process, segmenter, outer, work / "segmenter.pt", plan)

    def next_loss() -> Tensor:
        rng = np.random.default_rng(row_seed(seed, f"segmenter/{training.step}/{process.rank}"))
        return mask_loss(segmenter, tokenizer, world, rng)

    training.run(next_loss, lambda: _export(work, training.average, tokenizer, world))


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


@torch.no_grad()
def _export(work: Path, average: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer, world: World) -> None:
    """Saves the averaged weights as a model folder, and a sheet: scenes above, below what it marks as "bird"."""
    save_segmenter(work / EXPORT_NAME, average, tokenizer)
    images_NHWC = np.array(world.images_NHWC[:24])
    texts = [GENERIC_WORDS[0]] * len(images_NHWC)
    logits_NHW = prompt_logits(average, tokenizer, images_NHWC, texts).cpu().numpy()
    objects_NHW = np.stack([world.object_HW(i) for i in range(len(images_NHWC))])
    found_NHW = logits_NHW > 0
    overlap = (found_NHW & objects_NHW).sum((1, 2)) / (found_NHW | objects_NHW).sum((1, 2))
    logger.info("segmenter: mean IoU %.3f on %d training scenes", overlap.mean(), len(overlap))
    save_pairs(work / "segmenter.png", images_NHWC, np.where(found_NHW[..., None], images_NHWC, images_NHWC // 4))
