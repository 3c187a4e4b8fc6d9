"""Pictures a second and peak memory of Stable Diffusion 2 inpainting at its true size, beside diffusers' own pipeline.

Without --model, weights are random: neither time nor memory depends on their values. One line for each number of rows
of a UNet call; ours and the plain pipeline paint the same pictures in turns, in one process, from one loaded model.

    python benchmarks/real_size.py                                          # 512 px, bfloat16; needs a CUDA device
    python benchmarks/real_size.py --model /models/sd2-inpainting --out real_size.md
    python benchmarks/real_size.py --device cpu --dtype float32 --side 64 --rows 1 --steps 2   # slow; to try the script
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import psutil
import torch
from PIL import Image

from raygen.errors import RowError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from real_architectures import SD2_INPAINTING, save_architecture

GIB = 2**30
PROMPT, GUIDANCE = "a photo of a landbird", 7.5


def main() -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of an inpainting model; default: random weights")
    parser.add_argument("--variant", help="of its weight files, such as fp16")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="also write the table to this Markdown file")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing to measure (--device cpu tries the script)")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.model
        if folder is None:
            print("making random weights …", flush=True)
            folder = save_architecture(SD2_INPAINTING, Path(scratch) / "sd2", dtype=torch.bfloat16)
        config = InpainterConfig(
            model=str(folder),
            variant=arguments.variant,
            dtype=arguments.dtype,
            num_inference_steps=arguments.steps,
            guidance_scale=GUIDANCE,
            resolution_px=arguments.side,
            composite=False,
        )
        model = StableDiffusionInpainter(config, 1, arguments.device)
        lines = header(arguments, model)
        print("\n".join(lines), flush=True)
        for num_rows in arguments.rows:
            lines.append(line_of(model, num_rows, arguments))
            print(lines[-1], flush=True)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def header(arguments: argparse.Namespace, model: StableDiffusionInpainter) -> list[str]:
    """What is measured on what, and the table's head."""
    on = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU, 1 thread"
    name = arguments.model.name if arguments.model else "Stable Diffusion 2 inpainting (random weights)"
    parts = [part for part in model.pipe.components.values() if isinstance(part, torch.nn.Module)]
    size = sum(weights.numel() * weights.element_size() for part in parts for weights in part.parameters()) / GIB
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    return [
        f"{name}, {arguments.side} px, {arguments.steps} steps, guidance {GUIDANCE}, {arguments.dtype}, {on}; "
        f"{versions}; weights {size:.1f} GiB; median of {arguments.repeats}.",
        "",
        "| rows a call | s/picture | pictures/s | peak GiB | diffusers s/picture | peak GiB | ours / diffusers |",
        "|---|---|---|---|---|---|---|",
    ]


def line_of(model: StableDiffusionInpainter, num_rows: int, arguments: argparse.Namespace) -> str:
    """One line of the table."""
    rng = np.random.default_rng(0)
    images = list(rng.integers(256, size=(num_rows, arguments.side, arguments.side, 3), dtype=np.uint8))
    mask_HW = np.zeros((arguments.side, arguments.side), dtype=bool)
    mask_HW[arguments.side // 4 : arguments.side // 2, arguments.side // 8 : arguments.side // 2] = True
    model.num_rows = num_rows

    def ours() -> None:
        painted = inpaint(model, images, [mask_HW] * num_rows, prompts=[PROMPT] * num_rows, seeds=range(num_rows))
        failed = [result for result in painted if isinstance(result, RowError)]
        assert not failed, failed[0]

    def plain() -> None:
        pipe: Any = model.pipe
        pipe(
            prompt=[PROMPT] * num_rows,
            image=[Image.fromarray(image) for image in images],
            mask_image=[Image.fromarray(mask_HW)] * num_rows,
            height=arguments.side,
            width=arguments.side,
            num_inference_steps=arguments.steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in range(num_rows)],
        )

    ours_s, ours_gib, plain_s, plain_gib = [], 0.0, [], 0.0
    try:
        for repeat in range(arguments.repeats + 1):
            seconds, gib = measured(ours, arguments.device)
            other_seconds, other_gib = measured(plain, arguments.device)
            if repeat:  # the first warms up
                ours_s.append(seconds / num_rows)
                plain_s.append(other_seconds / num_rows)
                ours_gib, plain_gib = max(ours_gib, gib), max(plain_gib, other_gib)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return f"| {num_rows} | out of memory | | | | | |"
    a, b = statistics.median(ours_s), statistics.median(plain_s)
    return f"| {num_rows} | {a:.2f} | {1 / a:.3f} | {ours_gib:.1f} | {b:.2f} | {plain_gib:.1f} | {a / b:.2f} |"


def measured(paint: Callable[[], None], device: str) -> tuple[float, float]:
    """Seconds, and GiB: the GPU's peak, or on a CPU what the process holds afterwards."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    paint()
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter() - start, torch.cuda.max_memory_allocated() / GIB
    return time.perf_counter() - start, psutil.Process().memory_info().rss / GIB


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
