"""Rho by the exact difference against captum's integrated gradients, and integrated gradients that stop at a tolerance.

On the candidates of finished runs of `dbb`: seconds, the largest difference of rho, and what the thresholds decide.
Composited pictures for the exact difference; for the tolerance the same rows painted anew without compositing, where
only a path tells what lies inside the mask.

    python benchmarks/attribution.py                     # of runs/sampling/runs, or of a small run that it makes
    python benchmarks/attribution.py runs/demo --pictures 512
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a pruning actor's

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from _ratios import Ratio, add_arguments, in_turn, report
from _runs import run
from sampling import ROWS, call, planned

from raygen import synthesis
from raygen.classifier import Classifier, load_frozen
from raygen.classifier.framing import preprocess
from raygen.config import load_yaml
from raygen.images import decode_image, decode_mask
from raygen.pruners import verdicts
from raygen.pruners.attribution import integrated_gradients, integrated_gradients_to_tolerance, logit_difference
from raygen.pruners.confidence import label_probability
from raygen.recipes import make_config
from raygen.stages.inpaint import InpaintStage
from raygen.storage.parts import read_parts

# N pictures, H height, W width, C colour channels

STEPS = (50, 200)
TOLERANCES = (0.05, 0.01)
TURNS = 3


@dataclass(frozen=True, slots=True)
class Pictures:
    """Rows of one call of the pruner, in the classifier's frame, and the run that they are of."""

    folder: Path
    classifier: Classifier
    generated_NCHW: torch.Tensor
    original_NCHW: torch.Tensor
    repaint_NHW: torch.Tensor
    source_N: np.ndarray
    target_N: torch.Tensor


Scores = tuple[np.ndarray, np.ndarray]  # rho and the completeness error, (N,) each
Way = Callable[[Pictures], Scores]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="run folders of dbb; default: runs/sampling/runs/12_steps_*")
    parser.add_argument("--pictures", type=int, default=256, help="of all runs together")
    add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folders, num_pictures = arguments.runs, arguments.pictures
        if arguments.short:
            folders, num_pictures = [small_run(Path(scratch))], 3 * ROWS
        folders = folders or sorted(Path("runs/sampling/runs").glob("12_steps_[0-9]*"))
        folders = folders or [small_run(Path("runs/attribution"))]
        each = num_pictures // len(folders)
        as_they_are, anew = (
            [one for folder in folders for one in pictures(folder, each, composite=composite)]
            for composite in (True, False)
        )
        measure_exact(as_they_are, arguments.into)
        measure_tolerance(anew, arguments.into)


def small_run(out: Path) -> Path:
    """A run of a minute, where there is no larger one."""
    settings = ["dataset.scale=0.25", "synthesis.k=24", "engine=local", "controls=[]", "algorithm.epochs=1"]
    run(["dbb", "--dataset", "scenes"], out / "small", settings=[*settings, "fit.num_threads=1"])
    return out / "small"


def pictures(folder: Path, num: int, *, composite: bool) -> list[Pictures]:
    """Calls of candidates of a run, as they are or painted anew without compositing."""
    rows = planned(folder, num)
    classifier = load_frozen(folder / "erm", "cpu")
    fields = {**load_yaml(folder / "config.yaml")["inpainter"], "composite": composite}
    painter = None if composite else InpaintStage(inpainter=fields, num_rows=ROWS, device="cpu")
    return [of_call(folder, rows, start, classifier, painter) for start in range(0, rows.num_rows, ROWS)]


def of_call(folder: Path, rows: pa.Table, start: int, classifier: Classifier, painter: InpaintStage | None) -> Pictures:
    frame = classifier.frame
    part = rows.slice(start, ROWS)
    painted = part["generated_png"].to_pylist() if painter is None else painter(call(rows, start))["generated_png"]
    masks = [decode_mask(data) for data in part["repaint_png"].to_pylist()]
    return Pictures(
        folder=folder,
        classifier=classifier,
        generated_NCHW=preprocess([decode_image(data) for data in painted], frame),
        original_NCHW=preprocess([decode_image(data) for data in part["image_png"].to_pylist()], frame),
        repaint_NHW=torch.from_numpy(np.stack([frame.mask(mask) for mask in masks])),
        source_N=part["source_label"].to_numpy(),
        target_N=torch.from_numpy(part["target_label"].to_numpy()).long(),
    )


def exact(one: Pictures) -> Scores:
    rho_N = logit_difference(one.classifier, one.generated_NCHW, one.original_NCHW, target_N=one.target_N)
    return rho_N, np.zeros_like(rho_N)


def by_path(one: Pictures, *, num_steps: int, tolerance: float | None = None) -> Scores:
    """By captum as it is, or with a tolerance."""
    way = integrated_gradients if tolerance is None else partial(integrated_gradients_to_tolerance, tolerance=tolerance)
    return way(
        one.classifier,
        one.generated_NCHW,
        one.original_NCHW,
        repaint_NHW=one.repaint_NHW,
        target_N=one.target_N,
        num_steps=num_steps,
    )


def measure_exact(calls: Sequence[Pictures], into: Path | None) -> None:
    """The exact difference against captum."""
    ways: dict[str, Way] = {"exact": exact, **{f"IG {n}": partial(by_path, num_steps=n) for n in STEPS}}
    times, scores = measured(ways, calls)
    for steps in STEPS:
        name = f"IG {steps}"
        at_least = 20 if steps == max(STEPS) else None
        claim = f"attribution: CPU seconds, captum's integrated gradients of {steps} steps / exact difference"
        numbers = compared(calls, times, scores, "exact", name)
        report(Ratio(claim, ratios(times, name, "exact"), at_least=at_least, numbers=numbers), into=into)


def measure_tolerance(calls: Sequence[Pictures], into: Path | None) -> None:
    """Stopping at a tolerance against captum with all of the steps."""
    whole = f"IG {max(STEPS)}"
    ways: dict[str, Way] = {whole: partial(by_path, num_steps=max(STEPS))}
    ways |= {f"IG to {value:g}": partial(by_path, num_steps=max(STEPS), tolerance=value) for value in TOLERANCES}
    times, scores = measured(ways, calls)
    for value in TOLERANCES:
        name = f"IG to {value:g}"
        claim = f"attribution, not composited: CPU seconds, captum's {max(STEPS)} steps / to a tolerance of {value:g}"
        report(Ratio(claim, ratios(times, whole, name), numbers=compared(calls, times, scores, name, whole)), into=into)


def ratios(times: dict[str, list[float]], slow: str, fast: str) -> list[float]:
    return [before / after for before, after in zip(times[slow], times[fast], strict=True)]


def compared(
    calls: Sequence[Pictures], times: dict[str, list[float]], scores: dict[str, Scores], ours: str, theirs: str
) -> dict[str, float]:
    """Times, differences, and the shares of pictures that the default thresholds keep by both rhos, and by one.

    The thresholds are worked out from each rho anew, as a run would.
    """
    kept = [np.concatenate(kept_by(calls, scores[name][0])) for name in (ours, theirs)]
    return {
        **{f"{name}, ms a picture": 1000 * statistics.median(times[name]) for name in (ours, theirs)},
        **{f"{name}, largest completeness error, logits": float(scores[name][1].max()) for name in (ours, theirs)},
        "largest difference of rho, logits": float(np.abs(scores[ours][0] - scores[theirs][0]).max()),
        "pictures": len(kept[0]),
        "kept by both": int((kept[0] & kept[1]).sum()),
        "kept by one": int((kept[0] ^ kept[1]).sum()),
    }


def measured(ways: dict[str, Way], calls: Sequence[Pictures]) -> tuple[dict[str, list[float]], dict[str, Scores]]:
    """CPU seconds a picture in each turn, and the scores, by way; every way sees each picture once."""
    parts = np.array_split(np.arange(len(calls)), min(TURNS, len(calls)))
    for way in ways.values():
        way(calls[0])  # the first call of a process is slow
    done: dict[str, list[Scores]] = {name: [] for name in ways}
    turns = {name: iter(parts) for name in ways}

    def seconds(name: str) -> float:
        mine = [calls[i] for i in next(turns[name])]
        start_s = time.process_time()
        found = [ways[name](one) for one in mine]
        spent_s = time.process_time() - start_s
        done[name] += found
        return spent_s / sum(len(rho_N) for rho_N, _ in found)

    times = in_turn({name: partial(seconds, name) for name in ways}, turns=len(parts))
    joined = {name: tuple(map(np.concatenate, zip(*found, strict=True))) for name, found in done.items()}
    return times, {name: (rho_N, error_N) for name, (rho_N, error_N) in joined.items()}


def kept_by(calls: Sequence[Pictures], rho_N: np.ndarray) -> list[np.ndarray]:
    """Which pictures of each run its config keeps."""
    kept, start = [], 0
    for folder in dict.fromkeys(one.folder for one in calls):
        mine = [one for one in calls if one.folder == folder]
        config = make_config(load_yaml(folder / "config.yaml"), [], where=str(folder)).synthesis
        assert config is not None
        with torch.inference_mode():
            psi = [label_probability(one.classifier(one.generated_NCHW).numpy(), one.source_N) for one in mine]
        size = sum(map(len, psi))
        table = pa.table(
            {
                "status": ["ok"] * size,
                "source_label": np.concatenate([one.source_N for one in mine]),
                "target_label": np.concatenate([one.target_N.numpy() for one in mine]),
                "source_probability": np.concatenate(psi),
                "attribution_inside": rho_N[start : start + size],
            }
        )
        limits = synthesis.of(config).thresholds(config, read_parts(folder / "scores"), table)
        kept.append(verdicts(table, limits)[0])
        start += size
    return kept


if __name__ == "__main__":
    main()
