"""Steps, sampler and guidance interval of the tiny model: what they cost, and what becomes of the pictures.

The curve repaints the same planned images of the scenes with every setting: how often the oracles see the class that
was asked for, psi, rho, the share that the thresholds of the run with 12 guided steps keep, and the CPU seconds. Then
the best settings go through the whole recipe (`--effect`), seed by seed beside those 12 steps. What is there is not
made again.

    python benchmarks/sampling.py                          # the curve, three seeds; about an hour on two cores
    python benchmarks/sampling.py --effect '8 steps' '8 steps, guided 0 to 0.5'
    python benchmarks/sampling.py --short                  # seconds a picture only: a part of `make bench`
"""

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one actor's share; CPU seconds are of one thread then

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from _ratios import Ratio, add_arguments, in_turn, report
from _runs import percent, run, spread

from raygen.datasets.rows import RowIndex
from raygen.datasets.scene_rendering import CLASS_NAMES, render_scene
from raygen.images import decode_image, encode_image, encode_mask
from raygen.pruners import PruneThresholds, verdicts
from raygen.seeding import row_seed
from raygen.stages.inpaint import InpaintStage
from raygen.stages.prune import PruneStage
from raygen.stages.spec import Batch, object_column
from raygen.storage.parts import read_parts
from raygen.storage.writing import atomic
from raygen.tiny.oracle import ORACLES, load_oracle, predict
from raygen.tiny.processes import Start
from raygen.tiny.train import make_oracles
from raygen.tiny.world import TEMPLATES, dilate

# N pictures

ROWS = 16  # of a UNet call, as in the pool
DILATION_PX = 8
BASE = "12 steps"
IMAGES_PER_CLASS = 500  # those of `raygen demo`


def setting(steps: int, start: float = 0.0, stop: float = 1.0, scheduler: str | None = None) -> dict[str, Any]:
    """Fields of the inpainter's config."""
    interval = {"guidance_start": start, "guidance_stop": stop}
    return {"num_inference_steps": steps, **interval, "scheduler": scheduler}


SETTINGS: dict[str, dict[str, Any]] = {
    **{f"{steps} steps": setting(steps) for steps in (12, 10, 8, 6, 5, 4)},
    **{
        f"{steps} steps, guided {start:g} to {stop:g}": setting(steps, start, stop)
        for steps in (12, 8, 6)
        for start, stop in ((0, 0.5), (0.25, 0.75), (0.25, 1), (0.5, 1))
    },
    **{
        f"{steps} steps, {name}": setting(steps, scheduler=f"{name}Scheduler")
        for name, steps in (
            ("UniPCMultistep", 8),
            ("UniPCMultistep", 6),
            ("DDIM", 12),
            ("DDIM", 8),
            ("EulerDiscrete", 8),
            ("HeunDiscrete", 6),
        )
    },
    "12 steps, not guided": {**setting(12), "guidance_scale": 1.0},
}


def main() -> None:
    """Measures what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sampling"), help="also where the oracles are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=192, help="of a seed and setting, for the curve")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--effect", nargs="+", choices=SETTINGS, metavar="NAME", help="settings for the whole recipe")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override a field of every run")
    add_arguments(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.short:
        short(arguments.into)
        return
    if arguments.effect:
        text = effect(arguments.effect, arguments)
        name = "effect.md"
    else:
        text = curve(arguments.settings, arguments)
        name = "curve.md"
    (arguments.out / name).write_text(text, encoding="utf-8")
    print(text)


# --- The curve ---


@dataclass(frozen=True, slots=True)
class Painted:
    """What became of the pictures of one setting and seed, (N,) each; `seconds` is CPU time a picture."""

    right: Mapping[str, np.ndarray]
    psi_N: np.ndarray
    rho_N: np.ndarray
    kept_N: np.ndarray
    seconds: float


def curve(names: Sequence[str], arguments: argparse.Namespace) -> str:
    """Markdown: one row a setting."""
    bases = [recipe(BASE, seed, arguments) for seed in range(arguments.seeds)]
    files: dict[str, list[Path]] = {name: [] for name in [BASE, *(name for name in names if name != BASE)]}
    for base in bases:
        for name, paths in files.items():
            paths.append(arguments.out / "curve" / base.name / f"{name.replace(' ', '_')}_{arguments.pictures}.npz")
            if not paths[-1].is_file():
                paint(SETTINGS[name], base, arguments.pictures, into=paths[-1])
    oracles = arguments.out / "oracle"
    make_oracles(oracles, Start(oracles, num_processes=1, device="cpu"), seed=0)
    found = {name: [load(path, oracles) for path in paths] for name, paths in files.items()}
    lines = [
        "| setting | CPU s a picture | 12 steps / this | "
        + " | ".join(f"{name} oracle, %" for name in ORACLES)
        + " | of the shape oracle, less 12 steps | psi, quartiles | rho, quartiles | kept, % |",
        "|---" * (8 + len(ORACLES)) + "|",
    ]
    for name, painted in found.items():
        lines.append(row(name, painted, found[BASE]))
    return "\n".join([*lines, ""])


def row(name: str, painted: Sequence[Painted], base: Sequence[Painted]) -> str:
    right = {oracle: np.concatenate([one.right[oracle] for one in painted]) for oracle in ORACLES}
    ratios = [one.seconds / other.seconds for one, other in zip(base, painted, strict=True)]
    before = np.concatenate([one.right["shape"] for one in base])
    cells = [name, f"{statistics.median(one.seconds for one in painted):.3f}"]
    cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    cells += [f"{100 * right_N.mean():.1f}" for right_N in right.values()]
    cells.append(difference(right["shape"], before))
    for field in ("psi_N", "rho_N"):
        quartiles = np.quantile(np.concatenate([getattr(one, field) for one in painted]), (0.25, 0.5, 0.75))
        cells.append(" ".join(f"{value:.3g}" for value in quartiles))
    kept_N = np.concatenate([one.kept_N for one in painted])
    cells.append(f"{100 * kept_N.mean():.1f}")
    return f"| {' | '.join(cells)} |"


def difference(after_N: np.ndarray, before_N: np.ndarray) -> str:
    """Points of a share over that of the same pictures before, with its 95% interval over pictures."""
    gained_N = 100 * (after_N.astype(float) - before_N)
    half = 1.96 * gained_N.std(ddof=1) / len(gained_N) ** 0.5
    return f"{gained_N.mean():+.1f} ± {half:.1f}"


def load(path: Path, oracles: Path) -> Painted:
    """What `paint` has written, as the oracles see it."""
    columns = dict(np.load(path))
    right = {name: predict(load_oracle(oracles, name), columns["pictures"]) == columns["target"] for name in ORACLES}
    return Painted(right, columns["psi"], columns["rho"], columns["kept"], float(columns["seconds"]))


def paint(fields: Mapping[str, Any], base: Path, num_pictures: int, *, into: Path) -> None:
    """Of a finished run, the first planned images of each class painted with a setting and judged."""
    rows = planned(base, num_pictures)
    painter = InpaintStage(inpainter=fields, num_rows=ROWS, device="cpu")
    judge = PruneStage(classifier_folder=str(base / "erm"), attribution="exact")
    calls = [call(rows, start) for start in range(0, rows.num_rows, ROWS)]
    painter(calls[0])  # the first call of a process is slow
    start_s = time.process_time()
    painted = [painter(one) for one in calls]
    seconds = (time.process_time() - start_s) / rows.num_rows
    scored = [judge(one) for one in painted]
    table = pa.table({name: np.concatenate([one[name] for one in scored]).tolist() for name in JUDGED})
    columns = {
        "pictures": np.stack([decode_image(data) for one in painted for data in one["generated_png"]]),
        "target": np.array(table["target_label"].to_pylist()),
        "psi": np.array(table["source_probability"].to_pylist()),
        "rho": np.array(table["attribution_inside"].to_pylist()),
        "kept": verdicts(table, limits_of(base))[0],
        "seconds": np.array(seconds),
    }
    into.parent.mkdir(parents=True, exist_ok=True)
    with atomic(into) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **columns)
    rho, kept = np.median(columns["rho"]), columns["kept"].mean()
    print(f"{into.name}: {1000 * seconds:.0f} ms a picture, rho {rho:.2f}, {kept:.1%} kept", flush=True)


JUDGED = ("status", "source_label", "target_label", "source_probability", "attribution_inside")


def limits_of(base: Path) -> PruneThresholds:
    return PruneThresholds.model_validate_json((base / "fit" / "thresholds.json").read_text(encoding="utf-8"))


def planned(base: Path, num_pictures: int) -> pa.Table:
    """Candidates of a run with their sources, equally many of each class, whole calls of them."""
    table = read_parts(base / "candidates")
    table = table.filter(pc.equal(table["status"], "ok"))
    label_N = table["source_label"].to_numpy()
    each = num_pictures // len(CLASS_NAMES)
    chosen = np.concatenate([np.flatnonzero(label_N == label)[:each] for label in range(len(CLASS_NAMES))])
    table = table.take(chosen[: len(chosen) // ROWS * ROWS])
    pictures = RowIndex(base / "data").fetch(table["image_id"].to_pylist(), ("image_png",))
    return table.append_column("image_png", pictures["image_png"])


def call(rows: pa.Table, start: int) -> Batch:
    """Rows of one model call, as a pool hands them over."""
    part = rows.slice(start, ROWS)
    names = ("key", "image_id", "image_png", "repaint_png", "prompt", "status", "error")
    numbers = {name: part[name].to_numpy() for name in ("seed", "source_label", "target_label")}
    return {**{name: object_column(part[name].to_pylist()) for name in names}, **numbers}


# --- The effect ---


def effect(names: Sequence[str], arguments: argparse.Namespace) -> str:
    """Markdown: worst group of the whole recipe by setting, and its difference from 12 steps, seed by seed."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in dict.fromkeys([BASE, *names])}
    for seed in range(arguments.seeds):
        for name, summaries in found.items():
            recipe(name, seed, arguments, into=summaries)
    lines = [
        "| setting | dbb: worst group, % | less 12 steps | not pruned: worst group, % | less 12 steps | average, % |",
        "|---|---|---|---|---|---|",
    ]
    for name, summaries in found.items():
        cells = [name]
        for result in ("dbb", "dbb_unpruned"):
            worst, before = (percent(these, result) for these in (summaries, found[BASE]))
            gained = [after - value for after, value in zip(worst, before, strict=True)]
            cells += [spread(worst), "" if name == BASE else f"{spread(gained)} ({values(gained)})"]
        cells.append(spread(percent(summaries, "dbb", "average")))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def values(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:+.1f}" for number in numbers)


def recipe(name: str, seed: int, arguments: argparse.Namespace, into: list[dict[str, Any]] | None = None) -> Path:
    """The folder of a finished run of `dbb` with a setting; runs of one seed share what is the same in them."""
    out = arguments.out / "runs"
    fields = {key: value for key, value in SETTINGS[name].items() if value is not None}
    settings = [f"inpainter.{key}={value}" for key, value in fields.items()]
    settings += [f"synthesis.k={IMAGES_PER_CLASS}", "unpruned=true", "controls=[]", f"seed={seed}"]
    folder = out / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}"
    summary = run(
        ["dbb", "--dataset", "scenes"],
        folder,
        settings=[*settings, *arguments.overrides],
        reuse=sorted(out.glob(f"*_{seed}")),
    )
    if into is not None:
        into.append(summary)
    return folder


# --- Seconds a picture ---

CHOSEN = "8 steps"


def short(into: Path | None) -> None:
    """12 guided steps and the chosen setting in turns, on the same pictures."""
    calls = [rendered(start) for start in range(0, 4 * ROWS, ROWS)]
    painters = {name: InpaintStage(inpainter=SETTINGS[name], num_rows=ROWS, device="cpu") for name in (BASE, CHOSEN)}

    def seconds(name: str) -> float:
        start_s = time.process_time()
        for one in calls:
            painters[name](one)
        return (time.process_time() - start_s) / (len(calls) * ROWS)

    for painter in painters.values():
        painter(calls[0])  # the first call of a process is slow
    found = in_turn({name: partial(seconds, name) for name in painters}, turns=4)
    ratios = [before / after for before, after in zip(found[BASE], found[CHOSEN], strict=True)]
    numbers = {f"{name}, CPU ms a picture": 1000 * statistics.median(times) for name, times in found.items()}
    claim = f"sampling: CPU seconds a picture, {BASE} guided / {CHOSEN}"
    report(Ratio(claim, ratios, at_least=1.5, numbers=numbers), into=into)


def rendered(start: int) -> Batch:
    """Scenes whose bird is to be repainted as the other kind, without a run."""
    scenes = [
        render_scene(row_seed(0, f"sampling/{i}"), label=i % 2, attribute=i // 2 % 2, plumage="hinted")
        for i in range(start, start + ROWS)
    ]
    return {
        "key": object_column([f"{i}" for i in range(ROWS)]),
        "image_id": object_column([f"{i}" for i in range(ROWS)]),
        "image_png": object_column([encode_image(scene.image_HWC) for scene in scenes]),
        "repaint_png": object_column([encode_mask(dilate(scene.object_HW, DILATION_PX)) for scene in scenes]),
        "prompt": object_column([TEMPLATES[0].format(CLASS_NAMES[1 - i % 2]) for i in range(ROWS)]),
        "seed": np.arange(start, start + ROWS),
        "status": object_column(["ok"] * ROWS),
        "error": object_column([None] * ROWS),
    }


if __name__ == "__main__":
    main()
