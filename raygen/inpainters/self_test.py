"""Whether a row's bits depend on the other rows of its UNet call: asked of the machine itself, at start-up."""

import numpy as np
import torch

from raygen.inpainters.row import InpaintRow, Sampling
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter

NUM_MATE_SETS = 4


def rows_are_independent(inpainter: StableDiffusionInpainter, num_rows: int) -> bool:
    """Whether one step gives a row the same bits at every position of a call, beside any mates.

    It does on CPUs with one thread; on a GPU it depends on the kernels that its libraries choose. Calls with guidance
    have twice as many rows as those without: where only some steps are guided, both are tried.

    Args:
        inpainter: The loaded model.
        num_rows: Rows of the call.
    """
    config = inpainter.config
    has_both = config.guidance_scale > 1 and (config.guidance_start, config.guidance_stop) != (0, 1)
    scales = (config.guidance_scale, 1.0) if has_both else (config.guidance_scale,)
    return all(_are_independent(inpainter, num_rows, guidance_scale) for guidance_scale in scales)


def _are_independent(inpainter: StableDiffusionInpainter, num_rows: int, guidance_scale: float) -> bool:
    rng = np.random.default_rng(0)
    side = inpainter.resolution_px
    image_HWC = rng.integers(256, size=(side, side, 3), dtype=np.uint8)
    repaint_HW = np.zeros((side, side), dtype=bool)
    repaint_HW[: side // 2] = True
    picture = inpainter.encode_picture(image_HWC, repaint_HW, strength=1.0)
    embedding = inpainter.prompts.encode(inpainter.prompts.tokenize("a photo"))

    def row(seed: int, num_steps: int) -> InpaintRow:
        sampling = Sampling(num_inference_steps=num_steps, guidance_scale=guidance_scale)
        return inpainter.start_row(
            picture, sampling, prompt_embedding_1TD=embedding, negative_embedding_1TD=embedding, seed=seed
        )

    def stepped(slots: list[InpaintRow], position: int) -> torch.Tensor:
        inpainter.step(slots, num_rows=num_rows)
        return slots[position].latent_1Chw

    expected = stepped([row(0, 10)], 0)
    for mates in range(NUM_MATE_SETS):
        for position in range(num_rows):
            seeds = [1 + mates * num_rows + i for i in range(num_rows)]
            slots = [row(seed, 5 + seed % 20) for seed in seeds]
            slots[position] = row(0, 10)
            if not torch.equal(stepped(slots, position), expected):
                return False
    return True
