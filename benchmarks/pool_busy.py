"""Busy share of a model in the synthesis pass, when decoding and encoding have one CPU core.

The model is a stub that sleeps like a GPU (it leaves Python's lock) and paints its region grey, so a busy share says
how long a GPU would wait for pictures. All that runs (Ray, the driver, the actors of all three pools) is pinned to one
core. The plain alternative is the loop that is written first: decode a call's pictures, paint, encode, go on.

    python benchmarks/pool_busy.py                              # 512 px, 125 ms a picture, 8 and 16 rows a call
    python benchmarks/pool_busy.py --ms 60 --rows 16 --turns 1  # a model twice as fast
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _passes import DONE, calls_in, note_call, plan_of, watch, write_data
from _ratios import Ratio, add_arguments, in_turn, report

from raygen.datasets.rows import RowIndex
from raygen.images import decode_image, decode_mask, encode_image, encode_mask
from raygen.inpainters import InpainterConfig
from raygen.inpainters.square import Square
from raygen.pools import pipeline
from raygen.pools.config import PoolConfig, PoolsConfig
from raygen.pools.units import Pass
from raygen.schema import CANDIDATE
from raygen.stages.inpaint import InpaintStage, Painted
from raygen.stages.mask import MaskStage
from raygen.stages.prune import PruneStage
from raygen.stages.spec import StageSpec
from raygen.storage.parts import Parts

UNIT_ROWS, NUM_PICTURES = 64, 16


class SleepingPainter:
    """Paints grey, as slowly as told, and notes when it began and ended.

    Args:
        seconds: Of a square.
        side_px: Of the squares.
        num_rows: Rows of a call; empty slots take their time too, as on a GPU.
        notes: Folder for the times of each call.
    """

    model_revision = "stub"
    stride_px = 8

    def __init__(self, *, seconds: float, side_px: int, num_rows: int, notes: Path) -> None:
        self.side_px, self.num_rows = side_px, num_rows
        self._seconds, self._notes = seconds, notes

    def paint(self, squares: Sequence[Square | None]) -> Painted:
        """Grey in the masks."""
        start = time.monotonic()
        time.sleep(self._seconds * self.num_rows)
        note_call(self._notes, os.getpid(), start)
        return [
            None if square is None else np.where(square.repaint_HW[..., None], np.uint8(128), square.image_HWC)
            for square in squares
        ]


class SleepingInpaint(InpaintStage):
    """The inpainter's stage with that model; made in the actor.

    Args:
        stub: Arguments of `SleepingPainter`.
    """

    def __init__(self, *, stub: dict[str, Any]) -> None:
        super().__init__(
            inpainter=InpainterConfig().model_dump(mode="json"),
            num_rows=stub["num_rows"],
            device="cpu",
            painter=SleepingPainter(**stub),
        )


def main() -> None:
    """Measures each number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--ms", type=float, default=125, help="of the model, for a picture")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--rows", type=int, nargs="+", help="of a call; default: 8 16, in the short set 16")
    parser.add_argument("--units", type=int, help=f"of {UNIT_ROWS} rows; default: 6, in the short set 2")
    parser.add_argument("--turns", type=int, help="default: 3, in the short set 2")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # what a measured process does
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.units = arguments.units or (2 if arguments.short else 6)
    if arguments.run is not None:
        psutil.Process().cpu_affinity(psutil.Process().cpu_affinity()[:1])
        (plainly if arguments.plain else synthesize)(arguments.run, arguments)
        return
    for num_rows in arguments.rows or ([16] if arguments.short else [8, 16]):
        with tempfile.TemporaryDirectory() as scratch:
            compare(Path(scratch), num_rows, arguments)


def compare(folder: Path, num_rows: int, arguments: argparse.Namespace) -> None:
    """The pool and the plain loop in turns, on the same pictures."""
    num_pictures = arguments.units * UNIT_ROWS
    write_data(folder, pictures_like_photographs(arguments.side), num_pictures, classifier_px=224)
    turn = itertools.count()
    numbers: dict[str, list[float]] = {"ms a picture": [], "CPU ms a picture": []}

    def busy(*options: str) -> float:
        notes = folder / f"turn{next(turn)}"
        notes.mkdir()
        sizes = ["--ms", str(arguments.ms), "--side", str(arguments.side), "--units", str(arguments.units)]
        command = [sys.executable, __file__, "--run", str(notes), *sizes, "--rows", str(num_rows), *options]
        seen = watch(command, notes, num_workers=1)
        calls = calls_in(notes)
        seconds = max(call.end for call in calls) - min(call.start for call in calls)
        if not options:
            numbers["ms a picture"].append(1000 * seconds / num_pictures)
            numbers["CPU ms a picture"].append(1000 * seen.usage.cpu_seconds / num_pictures)
        return sum(call.end - call.start for call in calls) / seconds

    turns = arguments.turns or (2 if arguments.short else 3)
    found = in_turn({"pool": busy, "plain": lambda: busy("--plain")}, turns=turns)
    middle = {name: statistics.median(values) for name, values in numbers.items()}
    claim = f"stub model of {arguments.ms:g} ms a {arguments.side} px picture, {num_rows} rows a call, one core: busy"
    others = {"plain loop, busy": statistics.median(found["plain"]), **middle}
    report(Ratio(claim, found["pool"], at_least=0.95, numbers=others), into=arguments.into)


def pictures_like_photographs(side: int) -> list[tuple[bytes, bytes]]:
    """Pictures as hard to compress as photographs, and a mask in their middle."""
    rng = np.random.default_rng(0)
    y_HW, x_HW = np.mgrid[:side, :side]
    object_png = encode_mask(np.hypot(y_HW - side / 2, x_HW - side / 2) < side / 4)
    pictures = []
    for i in range(NUM_PICTURES):
        waves_HWC = np.stack([np.sin(x_HW / (30 + i) + c) + np.cos(y_HW / 23 * c) for c in (1, 2, 3)], axis=2)
        noise_HWC = rng.normal(0, 6, (side, side, 3))
        picture_HWC = (100 + 50 * waves_HWC + noise_HWC).clip(0, 255).astype(np.uint8)
        pictures.append((encode_image(picture_HWC), object_png))
    return pictures


def stub(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the painter."""
    return {
        "seconds": arguments.ms / 1000,
        "side_px": arguments.side,
        "num_rows": arguments.rows[0],
        "notes": folder,
    }


def synthesize(folder: Path, arguments: argparse.Namespace) -> None:
    """The synthesis pass over the whole dataset, on a Ray of its own."""
    import ray

    # More CPUs than there are, in Ray's books only: every process is pinned to the one core.
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    index = RowIndex(folder.parent / "data")
    plan = plan_of(index.table.select(["image_id", "label"]))
    classifier = str(folder.parent / "classifier")
    masks = {"masker": {"name": "truth", "dilation_px": 8}, "classifier_folder": classifier}
    specs = [
        StageSpec(MaskStage, "masker", masks),
        StageSpec(SleepingInpaint, "inpainter", {"stub": stub(folder, arguments)}),
        StageSpec(PruneStage, "pruner", {"classifier_folder": classifier, "attribution": "exact"}),
    ]
    pools = PoolsConfig(inpainter=PoolConfig(batch_size=arguments.rows[0]))
    out = folder / "candidates"
    out.mkdir()
    parts = Parts(out, CANDIDATE, "benchmark", plan.num_rows, 0.0)
    work = Pass(plan, index, ("image_png", "object_png"), specs, pools, UNIT_ROWS, parts)
    counts = pipeline.run(work, engine="ray")
    (folder / DONE).touch()
    assert counts["ok"] == plan.num_rows, counts


def plainly(folder: Path, arguments: argparse.Namespace) -> None:
    """The pictures in a plain loop; the mask is the object's, and nothing is pruned."""
    index = RowIndex(folder.parent / "data")
    painter = SleepingPainter(**stub(folder, arguments))
    ids = index.table["image_id"].to_pylist()
    for start in range(0, len(ids), arguments.rows[0]):
        table = index.fetch(ids[start : start + arguments.rows[0]], ["image_png", "object_png"])
        rows = zip(table["image_png"].to_pylist(), table["object_png"].to_pylist(), strict=True)
        squares = [Square(decode_image(image), decode_mask(mask), "a bird", 0) for image, mask in rows]
        for i, painted in enumerate(painter.paint(squares)):
            assert isinstance(painted, np.ndarray)
            (folder / f"{start + i}.png").write_bytes(encode_image(painted))
    (folder / DONE).touch()


if __name__ == "__main__":
    main()
