"""The synthesis pool on a GPU beside bare diffusers: Stable Diffusion 2 inpainting at its true size, random weights.

The pool is the real one (Ray, masker, inpainter, pruner, parts); the plain alternative is diffusers' own
`StableDiffusionInpaintPipeline` in a loop that decodes the pictures, paints them and writes PNG files, at the best of
some batch sizes. Neither time nor memory depends on the values of weights. Busy is the share of the time, from the
first call to the end of the last, in which the model is at work; beside it stands what nvidia-smi says, where there is
one.

    python benchmarks/gpu_pool.py                     # needs a CUDA device; some four minutes on a fast one
    python benchmarks/gpu_pool.py --device cpu --side 64 --narrow --pictures 32 --steps 4 --rows 4 8   # to try it
"""

import argparse
import io
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _passes import DONE, calls_in, plan_of, watch, write_data
from _ratios import Ratio, add_arguments, report
from PIL import Image
from pool_busy import pictures_like_photographs
from real_size import GUIDANCE
from synthesis import NotingInpaint

from raygen.datasets.rows import RowIndex
from raygen.images import decode_image, decode_mask
from raygen.inpainters import InpainterConfig
from raygen.pools import pipeline
from raygen.pools.config import PoolConfig, PoolsConfig
from raygen.pools.units import Pass
from raygen.schema import CANDIDATE
from raygen.stages.mask import MaskStage
from raygen.stages.prune import PruneStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import Parts

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from real_architectures import SD2_INPAINTING, narrowed, save_architecture

UNIT_CALLS = 4


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--dtype", help="default: bfloat16, on a CPU float32")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rows", type=int, nargs="+", default=[8, 16, 32], help="batch sizes that are tried")
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--narrow", action="store_true", help="a tenth of the channels")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # what a measured process does
    arguments = parser.parse_args()
    arguments.dtype = arguments.dtype or ("bfloat16" if arguments.device == "cuda" else "float32")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing to measure (--device cpu tries the script)")
        return
    if arguments.run is not None:
        synthesize(arguments.run, arguments)
        return
    with tempfile.TemporaryDirectory() as scratch:
        compare(Path(scratch), arguments)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    """First the loop, whose best batch size the pool takes too, then the pool, then the loop again."""
    print("making random weights and pictures …", flush=True)
    architecture = narrowed(SD2_INPAINTING, sample_size=arguments.side // 8) if arguments.narrow else SD2_INPAINTING
    save_architecture(architecture, folder / "sd2", dtype=getattr(torch, arguments.dtype))
    write_data(folder, pictures_like_photographs(arguments.side), arguments.pictures, classifier_px=224)
    plain = Plain(folder, arguments)
    num_rows = plain.best(arguments.rows)
    before = plain.rate(num_rows)
    plain.leave_memory()
    notes = folder / "pool"
    notes.mkdir()
    sizes = ["--side", str(arguments.side), "--steps", str(arguments.steps), "--rows", str(num_rows)]
    kind = ["--device", arguments.device, "--dtype", arguments.dtype]
    with GpuWatch() as gpu:
        seen = watch([sys.executable, __file__, "--run", str(notes), *sizes, *kind], notes, num_workers=1)
    calls = calls_in(notes)
    rows = arguments.pictures - num_rows * seen.before
    rate = rows / seen.usage.seconds
    first, last = min(call.start for call in calls), max(call.end for call in calls)
    busy = sum(call.end - call.start for call in calls) / (last - first)
    after = Plain(folder, arguments).rate(num_rows)
    size = f"{arguments.side} px, {arguments.steps} steps, {arguments.dtype}, {arguments.device}"
    numbers = {"pool, images/s": rate, "diffusers, images/s": statistics.mean([before, after]), "rows a call": num_rows}
    numbers |= {"start of the pass, s": seen.flows - seen.begun}
    claim = f"Stable Diffusion 2 inpainting ({size}): pool / diffusers at its best batch"
    report(Ratio(claim, [rate / before, rate / after], at_least=1.1, numbers=numbers), into=arguments.into)
    watched = gpu.between(first, last)
    numbers = {} if watched is None else {"nvidia-smi, %": watched}
    claim = f"Stable Diffusion 2 inpainting ({size}): busy"
    report(Ratio(claim, [busy], at_least=0.95, numbers=numbers), into=arguments.into)


class Plain:
    """diffusers' pipeline in a loop.

    Args:
        folder: Has data/ and sd2/.
        arguments: Of the program.
    """

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        from diffusers import StableDiffusionInpaintPipeline

        dtype = getattr(torch, arguments.dtype)
        self._pipe: Any = StableDiffusionInpaintPipeline.from_pretrained(folder / "sd2", dtype=dtype)
        self._pipe.to(arguments.device)
        self._pipe.set_progress_bar_config(disable=True)
        index = RowIndex(folder / "data")
        table = index.fetch(index.table["image_id"].to_pylist(), ["image_png", "object_png"])
        self._pictures = list(zip(table["image_png"].to_pylist(), table["object_png"].to_pylist(), strict=True))
        self._arguments, self._out = arguments, folder / "plain"
        self._out.mkdir(exist_ok=True)

    def best(self, sizes: list[int]) -> int:
        """The batch size of most pictures a second, of those that fit in memory."""
        rates: dict[int, float] = {}
        for num_rows in sizes:
            try:
                self.rate(num_rows, most=num_rows)  # sets up
                rates[num_rows] = self.rate(num_rows, most=num_rows)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            print(f"diffusers, {num_rows} rows a call: {rates[num_rows]:.2f} images/s", flush=True)
        return max(rates, key=rates.__getitem__)

    def rate(self, num_rows: int, *, most: int | None = None) -> float:
        """Pictures a second."""
        pictures = self._pictures[:most]
        start = time.monotonic()
        for first in range(0, len(pictures), num_rows):
            self._call(pictures[first : first + num_rows], first)
        return len(pictures) / (time.monotonic() - start)

    def leave_memory(self) -> None:
        """Gives the GPU to others."""
        del self._pipe
        if self._arguments.device == "cuda":
            torch.cuda.empty_cache()

    def _call(self, pictures: list[tuple[bytes, bytes]], first: int) -> None:
        side = self._arguments.side
        painted = self._pipe(
            prompt=["a photo of a landbird"] * len(pictures),
            image=[Image.fromarray(decode_image(image)) for image, _ in pictures],
            mask_image=[Image.fromarray(decode_mask(mask)) for _, mask in pictures],
            height=side,
            width=side,
            num_inference_steps=self._arguments.steps,
            guidance_scale=GUIDANCE,
            generator=[torch.Generator("cpu").manual_seed(first + i) for i in range(len(pictures))],
        ).images
        for i, picture in enumerate(painted):
            png = io.BytesIO()
            picture.save(png, "PNG", compress_level=1)
            (self._out / f"{first + i}.png").write_bytes(png.getvalue())


class GpuWatch:
    """What nvidia-smi says of the GPU's use, five times a second; nothing where there is none."""

    def __enter__(self) -> "GpuWatch":
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
        self._process: subprocess.Popen[str] | None = None
        self._begun = time.monotonic()
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return self
        return self

    def __exit__(self, *_: object) -> None:
        self._lines: list[str] = []
        if self._process is not None:
            self._process.terminate()
            self._lines = self._process.communicate()[0].split()
        self._ended = time.monotonic()

    def between(self, start: float, end: float) -> float | None:
        """Mean use in percent between two moments."""
        moments = np.linspace(self._begun, self._ended, max(1, len(self._lines)))
        inside = [float(line) for line, moment in zip(self._lines, moments, strict=False) if start <= moment <= end]
        return statistics.mean(inside) if inside else None


def synthesize(notes: Path, arguments: argparse.Namespace) -> None:
    """The pass over the whole dataset."""
    folder, num_rows = notes.parent, arguments.rows[0]
    index = RowIndex(folder / "data")
    plan = plan_of(index.table.select(["image_id", "label"]))
    classifier = str(folder / "classifier")
    config = InpainterConfig(
        model=str(folder / "sd2"),
        dtype=arguments.dtype,
        num_inference_steps=arguments.steps,
        guidance_scale=GUIDANCE,
        resolution_px=arguments.side,
    )
    paints = {"inpainter": config.model_dump(mode="json"), "num_rows": num_rows, "device": arguments.device}
    masks = {"masker": {"name": "truth", "dilation_px": 8}, "classifier_folder": classifier}
    specs = [
        StageSpec(MaskStage, "masker", masks),
        StageSpec(NotingInpaint, "inpainter", {**paints, "notes": notes}),
        StageSpec(PruneStage, "pruner", {"classifier_folder": classifier, "attribution": "exact"}),
    ]
    num_gpus = 1 if arguments.device == "cuda" else 0
    pools = PoolsConfig(inpainter=PoolConfig(batch_size=num_rows, num_gpus=num_gpus))
    out = notes / "candidates"
    out.mkdir()
    parts = Parts(out, CANDIDATE, "benchmark", plan.num_rows, 0.0)
    work = Pass(plan, index, ("image_png", "object_png"), specs, pools, UNIT_CALLS * num_rows, parts)
    counts = pipeline.run(work, engine="ray")
    (notes / DONE).touch()
    assert counts["ok"] == plan.num_rows, counts


if __name__ == "__main__":
    main()
