"""Measures the finished model and writes its card."""

# N images, H height, W width, C colour channels

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline

from raygen.datasets.scene_rendering import CLASS_NAMES
from raygen.seeding import row_seed
from raygen.storage.writing import write_text
from raygen.tiny.autoencoder import peak_signal_to_noise
from raygen.tiny.model import load_model
from raygen.tiny.oracle import ORACLES, accuracy, held_out_scenes, load_oracle, predict, world_folder
from raygen.tiny.pictures import CARD_COLUMNS, pairs, save_for_card
from raygen.tiny.repaint import GUIDANCE_SCALE, NUM_INFERENCE_STEPS, repaint
from raygen.tiny.world import TEMPLATES, World, dilate, draw_cam_like_mask, open_world

logger = logging.getLogger(__name__)

DILATION_PX = 8
NUM_REPAINTED = 400


@dataclass(frozen=True, slots=True)
class Repainted:
    """Held-out scenes repainted as the other class; the i-th source has class i % 2.

    Attributes:
        sources_NHWC: The scenes, (N, 64, 64, 3) uint8.
        painted_NHWC: The results, (N, 64, 64, 3) uint8.
        asked_N: Class asked for, (N,) int.
        images_per_s: Throughput of the pipeline.
    """

    sources_NHWC: np.ndarray
    painted_NHWC: np.ndarray
    asked_N: np.ndarray
    images_per_s: float

    def agreement(self, predicted_N: np.ndarray) -> list[float]:
        """Fraction of the pictures in which an oracle sees the class asked for, for each class."""
        return [float(np.mean(predicted_N[self.asked_N == c] == c)) for c in range(len(CLASS_NAMES))]


def write_card(folder: Path, work: Path, *, seed: int) -> None:
    """Measures the model in `folder` and writes its README.md and birds.png.

    The scenes are those of the colour oracle's world (the benchmark's plumage) that no training has seen.
    """
    pipeline = load_model(folder, device="cpu")
    world = open_world(world_folder(work, "colour"))
    scenes = held_out_scenes()[:NUM_REPAINTED]
    # The bird that is there, widened: what the recipe `dbb` repaints. Its shape speaks for the *old* class, if at all.
    own_NHW = np.stack([dilate(world.object_HW(i), DILATION_PX) for i in scenes])
    # The silhouettes of both classes together: their union is the same whichever of the two is there.
    both_NHW = np.stack([dilate(world.object_HW(i) | world.counterpart_HW(i), DILATION_PX) for i in scenes])
    rng = np.random.default_rng(row_seed(seed, "card"))
    holes_NHW = np.stack([draw_cam_like_mask(rng) for _ in scenes])
    by_mask = {
        f"the bird's own silhouette, dilated by {DILATION_PX} px": _repaint(pipeline, world, own_NHW, scenes, seed),
        f"both classes' silhouettes, dilated by {DILATION_PX} px": _repaint(pipeline, world, both_NHW, scenes, seed),
        "all but a few blobs (50 to 92% anew)": _repaint(pipeline, world, holes_NHW, scenes, seed),
    }
    own, _, holes = by_mask.values()
    rows_NHWC = [pairs(kind.sources_NHWC, kind.painted_NHWC, num_columns=CARD_COLUMNS) for kind in (own, holes)]
    save_for_card(folder / "birds.png", np.concatenate(rows_NHWC))
    rows = []
    for mask, repainted in by_mask.items():
        for name in ORACLES:
            shares = repainted.agreement(predict(load_oracle(work, name), repainted.painted_NHWC))
            rows.append(f"| {mask} | {name} | {shares[0]:.1%} | {shares[1]:.1%} |")
            logger.info(rows[-1])
    psnr, psnr_bird = peak_signal_to_noise(pipeline.vae, world, num_images=512)
    lines = [
        *(
            f"Accuracy of the {n} oracle on held-out scenes: "
            f"{accuracy(load_oracle(work, n), open_world(world_folder(work, n))):.1%}."
            for n in ORACLES
        ),
        f"Autoencoder, encode and decode: {psnr:.1f} dB on whole pictures, {psnr_bird:.1f} dB on the birds.",
        f"Speed: {next(iter(by_mask.values())).images_per_s:.1f} images/s at {NUM_INFERENCE_STEPS} steps with guidance "
        f"{GUIDANCE_SCALE}, batches of 32, {torch.get_num_threads()} CPU threads.",
    ]
    logger.info(" ".join(lines))
    size_mb = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e6
    text = _CARD.format(rows="\n".join(rows), lines="\n".join(f"- {line}" for line in lines), size_mb=size_mb)
    write_text(folder / "README.md", text)


def _repaint(
    pipeline: StableDiffusionInpaintPipeline, world: World, masks_NHW: np.ndarray, scenes: range, seed: int
) -> Repainted:
    sources_NHWC = np.asarray(world.images_NHWC[scenes.start : scenes.stop])
    asked_N = np.array([1 - world.label(i) for i in scenes])
    prompts = [TEMPLATES[0].format(CLASS_NAMES[label]) for label in asked_N]
    start_s = time.perf_counter()
    painted_NHWC = repaint(pipeline, sources_NHWC, masks_NHW, prompts, seed=seed)
    return Repainted(sources_NHWC, painted_NHWC, asked_N, len(scenes) / (time.perf_counter() - start_s))


_CARD = """# The tiny inpainting model

A `StableDiffusionInpaintPipeline` of {size_mb:.1f} MB (half precision) that draws 64 px birds: autoencoder 0.65 M,
denoiser 4.75 M, text encoder 0.1 M parameters, v-prediction, DPM-Solver++. It exists so that raygen's recipes run
with real diffusion on a laptop, without a download. It draws nothing but these birds and is of no other use.

Made by `python -m raygen.tiny.train` from nothing but rendered scenes (`raygen.datasets.scenes`): both kinds of bird
on both backgrounds equally often, with seeds that no split of the benchmark uses. Captions: "a photo of a landbird",
"a photo of a waterbird", "a photo of a bird", variants, and sometimes the place ("on water").

## Measured

Held-out scenes, {{num}} for each kind of mask, each repainted as the *other* class. An oracle is a classifier trained
on real scenes; the *shape* oracle knows birds whose colour says nothing about the class, the *colour* oracle knows the
benchmark's plumage. Share of the pictures in which it sees the class asked for:

| mask | oracle | landbird asked | waterbird asked |
| --- | --- | --- | --- |
{rows}

{lines}

![sources above, results below](birds.png)

Odd rows: sources; even rows: results. Rows 1 to 4: the first kind of mask; rows 5 to 8: the last.

## Limits

- Pictures are softer than the scenes; thin parts (bills, legs) are the first to suffer.
- With the last kind of mask, parts of the old bird can stay in the picture; then the result can be neither class.
- Outside the mask a picture is kept by compositing; the autoencoder alone would not keep it.
""".replace("{{num}}", str(NUM_REPAINTED))
