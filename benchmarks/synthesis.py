"""Synthesis on Ray with two inpainting actors of one thread, beside the best plain loop, on the same pictures.

The plain loop is one process: CLIPSeg, diffusers' own `StableDiffusionInpaintPipeline`, softmax and logit difference,
PNG. Its batch size and threads are the best of a few, found first. Both paint the scenes with the tiny model; every
picture is compared. The floor is counted: operations of all four networks for a picture, at the speed that this machine
reaches, in the same run, on a large matrix product with all cores.

Rates of the pass are from when both actors have painted a call; what comes before is told apart as its start.

    python benchmarks/synthesis.py                # 512 pictures, three turns: some ten minutes on two idle cores
    python benchmarks/synthesis.py --pictures 256 --turns 1
"""

import argparse
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _passes import DONE, note_call, plan_of, watch, write_data
from _ratios import Ratio, add_arguments, in_turn, report, used
from PIL import Image

from raygen.classifier import Classifier, load_frozen
from raygen.classifier.framing import Frame, preprocess
from raygen.datasets.rows import RowIndex
from raygen.datasets.scene_rendering import render_scene
from raygen.images import decode_image, encode_image, encode_mask
from raygen.inpainters import InpainterConfig
from raygen.inpainters.model_folder import find_painter
from raygen.maskers import load_masker
from raygen.maskers.base import Repaint
from raygen.maskers.clipseg import ClipsegConfig
from raygen.maskers.language import LanguageConfig
from raygen.pools import pipeline
from raygen.pools.config import PoolConfig, PoolsConfig
from raygen.pools.units import Pass
from raygen.schema import CANDIDATE
from raygen.stages.inpaint import InpaintStage
from raygen.stages.mask import MaskStage
from raygen.stages.prune import PruneStage
from raygen.stages.spec import Prepared, StageSpec
from raygen.storage.parts import Parts, read_parts

SIDE_PX, UNIT_ROWS, CALL, NUM_SCENES = 64, 64, 16, 64
ACTORS = 2
MASKER = LanguageConfig(finder=ClipsegConfig(), texts=("bird", "bird"))
INPAINTER = InpainterConfig(num_inference_steps=12, guidance_scale=3.0)
# Of the plain loop, tried first.
BATCHES, THREADS = (8, 16, 32), (1, 2)
MATRIX = 4096


class NotingInpaint(InpaintStage):
    """The inpainter's stage, which notes its calls.

    Args:
        notes: Folder for the notes.
        options: Of the stage.
    """

    def __init__(self, *, notes: Path, **options: Any) -> None:
        super().__init__(**options)
        self._notes = notes

    def work(self, prepared: Prepared[Any]) -> Any:
        """As ever."""
        start = time.monotonic()
        outputs = super().work(prepared)
        note_call(self._notes, os.getpid(), start)
        return outputs


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--pictures", type=int, help="default: 512, in the short set 256")
    parser.add_argument("--turns", type=int, help="default: 3, in the short set 1")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # what a measured process does
    arguments = parser.parse_args()
    if arguments.run is not None:
        synthesize(arguments.run)
        return
    num_pictures = arguments.pictures or (256 if arguments.short else 512)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        scenes = [render_scene(i, label=i % 2, attribute=i // 2 % 2) for i in range(NUM_SCENES)]
        pictures = [(encode_image(scene.image_HWC), encode_mask(scene.object_HW)) for scene in scenes]
        write_data(folder, pictures, num_pictures, classifier_px=SIDE_PX)
        compare(folder, arguments.turns or (1 if arguments.short else 3), arguments.into)


def compare(folder: Path, turns: int, into: Path | None) -> None:
    """Both in turns; then the floor."""
    plain = Plain(folder)
    batch, threads = plain.best()
    turn, starts = itertools.count(), list[float]()
    cpu: dict[str, list[float]] = {"ours": [], "plain": []}

    def ours() -> float:
        notes = folder / f"turn{next(turn)}"
        notes.mkdir()
        seen = watch([sys.executable, __file__, "--run", str(notes)], notes, num_workers=ACTORS)
        rows = len(plain.ids) - CALL * seen.before
        starts.append(seen.flows - seen.begun)
        cpu["ours"].append(seen.usage.cpu_seconds / rows)
        return rows / seen.usage.seconds

    def plainly() -> float:
        with used() as usage:
            plain.run(plain.ids, batch=batch, threads=threads)
        cpu["plain"].append(usage.cpu_seconds / len(plain.ids))
        return len(plain.ids) / usage.seconds

    found = in_turn({"ours": ours, "plain": plainly}, turns=turns)
    different = plain.compared(folder / "turn0" / "candidates")
    numbers = {f"{name}, images/s": statistics.median(rates) for name, rates in found.items()}
    numbers |= {"plain loop's batch": batch, "plain loop's threads": threads}
    numbers |= {"start of the pass, s": statistics.median(starts), "most that a pixel differs, of 255": different}
    rates = [a / b for a, b in zip(found["ours"], found["plain"], strict=True)]
    name = "synthesis of scenes, two actors on Ray / best plain loop"
    report(Ratio(f"{name}: images/s", rates, at_least=1.0, numbers=numbers), into=into)
    costs = [a / b for a, b in zip(cpu["ours"], cpu["plain"], strict=True)]
    numbers = {f"{name}, CPU ms a picture": 1000 * statistics.median(values) for name, values in cpu.items()}
    report(Ratio(f"{name}: CPU seconds a picture", costs, at_most=1.15, numbers=numbers), into=into)
    floor, numbers = plain.floor()
    shares = [rate / floor for rate in found["ours"]]
    report(
        Ratio("synthesis of scenes, two actors on Ray / the floor", shares, at_least=0.9, numbers=numbers), into=into
    )


def synthesize(notes: Path) -> None:
    """The pass over the whole dataset."""
    folder = notes.parent
    index = RowIndex(folder / "data")
    plan = plan_of(index.split("train").select(["image_id", "label"]))
    classifier = str(folder / "classifier")
    masks = {"masker": MASKER.model_dump(mode="json"), "classifier_folder": classifier}
    paints = {"inpainter": INPAINTER.model_dump(mode="json"), "num_rows": CALL, "device": "cpu", "notes": notes}
    specs = [
        StageSpec(MaskStage, "masker", masks),
        StageSpec(NotingInpaint, "inpainter", paints),
        StageSpec(PruneStage, "pruner", {"classifier_folder": classifier, "attribution": "exact"}),
    ]
    pools = PoolsConfig(inpainter=PoolConfig(actors=ACTORS, batch_size=CALL))
    out = notes / "candidates"
    out.mkdir()
    parts = Parts(out, CANDIDATE, "benchmark", plan.num_rows, 0.0)
    counts = pipeline.run(Pass(plan, index, ("image_png", "object_png"), specs, pools, UNIT_ROWS, parts), engine="ray")
    (notes / DONE).touch()
    assert counts["ok"] == plan.num_rows, counts


class Plain:
    """The plain loop, with its models loaded.

    Args:
        folder: Has data/ and classifier/.

    Attributes:
        ids: All pictures.
        painted: The last run's pictures, PNG, by key.
    """

    def __init__(self, folder: Path) -> None:
        from diffusers import StableDiffusionInpaintPipeline

        self._index = RowIndex(folder / "data")
        plan = plan_of(self._index.split("train").select(["image_id", "label"]))
        self._plan = {row["image_id"]: row for row in plan.to_pylist()}
        self.ids: list[str] = plan["image_id"].to_pylist()
        self._masker = load_masker(MASKER, str(folder / "classifier"))
        self._pipe: Any = StableDiffusionInpaintPipeline.from_pretrained(
            find_painter(INPAINTER).name, dtype=torch.float32
        )
        self._pipe.set_progress_bar_config(disable=True)
        self._classifier: Classifier = load_frozen(folder / "classifier", "cpu")
        self.painted: dict[str, bytes] = {}

    def best(self) -> tuple[int, int]:
        """Batch size and threads of the quickest of a few runs over some pictures."""
        some = self.ids[: 2 * max(BATCHES)]
        self.run(some[: min(BATCHES)], batch=min(BATCHES), threads=1)  # the first call sets up
        seconds = {}
        for batch, threads in itertools.product(BATCHES, THREADS):
            start = time.monotonic()
            self.run(some, batch=batch, threads=threads)
            seconds[batch, threads] = time.monotonic() - start
        return min(seconds, key=seconds.__getitem__)

    def run(self, ids: list[str], *, batch: int, threads: int) -> None:
        """Paints and scores."""
        torch.set_num_threads(threads)
        for start in range(0, len(ids), batch):
            self._call([self._plan[image_id] for image_id in ids[start : start + batch]])

    def _call(self, rows: list[dict[str, Any]]) -> None:
        table = self._index.fetch([row["image_id"] for row in rows], ["image_png"])
        images = [decode_image(data) for data in table["image_png"].to_pylist()]
        found = self._masker(images, [None] * len(rows), [row["source_label"] for row in rows])
        masks = [repaint.mask_HW for repaint in found if isinstance(repaint, Repaint)]
        assert len(masks) == len(rows)
        painted = self._pipe(
            prompt=[row["prompt"] for row in rows],
            image=[Image.fromarray(image_HWC) for image_HWC in images],
            mask_image=[Image.fromarray(mask_HW) for mask_HW in masks],
            height=SIDE_PX,
            width=SIDE_PX,
            num_inference_steps=INPAINTER.num_inference_steps,
            guidance_scale=INPAINTER.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(row["seed"]) for row in rows],
        ).images
        results = [
            np.where(mask_HW[..., None], np.asarray(picture), image_HWC)
            for picture, mask_HW, image_HWC in zip(painted, masks, images, strict=True)
        ]
        self.scores = self._scores(results, images, rows)
        for row, result_HWC in zip(rows, results, strict=True):
            png = io.BytesIO()
            Image.fromarray(result_HWC).save(png, "PNG", compress_level=1)
            self.painted[row["key"]] = png.getvalue()

    @torch.inference_mode()
    def _scores(self, results: list[np.ndarray], images: list[np.ndarray], rows: list[dict[str, Any]]) -> Any:
        after_NC = self._classifier(preprocess(results, Frame(SIDE_PX)))
        before_NC = self._classifier(preprocess(images, Frame(SIDE_PX)))
        source_N, target_N = (torch.tensor([row[name] for row in rows]) for name in ("source_label", "target_label"))
        psi_N = after_NC.softmax(dim=1).gather(1, source_N[:, None])
        return psi_N, (after_NC - before_NC).gather(1, target_N[:, None])

    def compared(self, candidates: Path) -> float:
        """The most that a pixel of the pass's pictures differs from the loop's, of 255."""
        table = read_parts(candidates, columns=["key", "generated_png"])
        return max(
            float(np.abs(decode_image(ours).astype(int) - decode_image(self.painted[key]).astype(int)).max())
            for key, ours in zip(table["key"].to_pylist(), table["generated_png"].to_pylist(), strict=True)
        )

    def floor(self) -> tuple[float, dict[str, float]]:
        """Pictures a second that the machine could make, and what that is made of."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.run(self.ids[:CALL], batch=CALL, threads=1)
        flops = counter.get_total_flops() / CALL
        speed = matrix_flops()
        numbers = {
            "floor, images/s": speed / flops,
            "GFLOP a picture": flops / 1e9,
            "GFLOP/s of this machine": speed / 1e9,
        }
        return speed / flops, numbers


def matrix_flops() -> float:
    """FLOP/s of a large matrix product on all cores, the best of some."""
    torch.set_num_threads(os.cpu_count() or 1)
    matrix = torch.randn(MATRIX, MATRIX)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / min(seconds)


if __name__ == "__main__":
    main()
