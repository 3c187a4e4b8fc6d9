"""Whether a pass takes as long for a row however many there are, and what a million rows cost before and after it.

- seconds a row: 2,000 rows and many more through one pool on Ray, with a stub that does next to nothing, so that what
  is measured is the pass: reading, units, blocks, notes of attempts, parts. From the first part to the end.
- planning and resume: a dataset, scores and candidates of a million rows, whose pictures are a few bytes. Measured are
  choosing what to generate, and going on with a pass of which half is done up to the point where units are handed to
  Ray; then reading all candidates' scores, the verdicts on them, and the end of the pass with its manifest.

There is no other program to compare with: the ratios are to the time of fewer rows, to a minute, and to 2 GB.

    python benchmarks/pool_scaling.py                       # 2,000 and 200,000 rows; a million
    python benchmarks/pool_scaling.py --rows 2000 20000 --planned 100000
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _ratios import Ratio, add_arguments, in_turn, report

from raygen import synthesis
from raygen.datasets.rows import RowIndex
from raygen.datasets.table import INFO_FILE, ROWS_PER_GROUP, ROWS_PER_SHARD
from raygen.pools import pipeline
from raygen.pools.config import PoolsConfig
from raygen.pools.units import Pass, cut, num_units
from raygen.pruners import verdicts
from raygen.schema import CANDIDATE, SCORE, SOURCE, cast
from raygen.stages.spec import Batch, StageSpec, object_column
from raygen.storage.parts import CANDIDATE_SCORES, Parts, read_parts
from raygen.storage.run_folder import Step
from raygen.storage.writing import write_json
from raygen.synthesis.dbb import DbbConfig

UNIT_ROWS, PICTURE = 64, b"\x89PNG, as far as anybody looks"
FEATURES, CLASSES = 128, ("landbird", "waterbird")
MINUTE_S, GB = 60.0, 1e9


class Nothing:
    """A stage that only says that it was there."""

    reads: ClassVar = frozenset({"image_png", "status", "error"})
    writes: ClassVar = frozenset({"model_id", "model_revision"})

    def __call__(self, batch: Batch) -> Batch:
        """The rows, with a name."""
        names = object_column(["stub"] * len(batch["status"]))
        return {**batch, "model_id": names, "model_revision": names}


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rows", type=int, nargs=2, help="default: 2000 200000, in the short set 2000 10000")
    parser.add_argument("--turns", type=int, default=2, help="of the first claim")
    parser.add_argument("--planned", type=int, help="default: 1000000, in the short set 100000")
    parser.add_argument("--do", choices=[*MEASURED], help=argparse.SUPPRESS)  # what a measured process does
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do is not None:
        start, cpu_start = time.monotonic(), time.process_time()
        extra = MEASURED[arguments.do](arguments.folder)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        cpu_seconds = time.process_time() - cpu_start
        print(json.dumps({"seconds": time.monotonic() - start, "CPU": cpu_seconds, "peak": peak, **extra}))
        return
    with tempfile.TemporaryDirectory() as scratch:
        measure_rows(Path(scratch), arguments)
    with tempfile.TemporaryDirectory() as scratch:
        measure_plan(Path(scratch), arguments)


def measure_rows(scratch: Path, arguments: argparse.Namespace) -> None:
    """Seconds a row of many rows / of few."""
    few, many = arguments.rows or ([2_000, 10_000] if arguments.short else [2_000, 200_000])
    for num_rows in (few, many):
        write_dataset(scratch / str(num_rows) / "data", num_rows)

    numbers: dict[str, float] = {}

    def seconds_a_row(num_rows: int) -> float:
        folder = scratch / str(num_rows)
        shutil.rmtree(folder / "candidates", ignore_errors=True)
        done = measured("pass", folder)
        numbers[f"ms a row of {num_rows:,}"] = 1000 * done["seconds_a_row"]
        numbers[f"first part of {num_rows:,} rows after, s"] = done["first_part"]
        numbers[f"driver with {num_rows:,} rows, peak MB"] = done["peak"] / 1e6
        return done["seconds_a_row"]

    found = in_turn({"few": lambda: seconds_a_row(few), "many": lambda: seconds_a_row(many)}, turns=arguments.turns)
    ratios = [b / a for a, b in zip(found["few"], found["many"], strict=True)]
    report(
        Ratio(f"pass with a stub: seconds a row of {many:,} / of {few:,}", ratios, at_most=1.1, numbers=numbers),
        into=arguments.into,
    )


def measure_plan(scratch: Path, arguments: argparse.Namespace) -> None:
    """What many rows cost where no picture is made."""
    num_rows = arguments.planned or (100_000 if arguments.short else 1_000_000)
    share = num_rows / 1_000_000
    write_dataset(scratch / "data", num_rows)
    write_scores(scratch / "scores", num_rows)
    steps = {"plan": measured("plan", scratch)}
    measured("make_half", scratch)
    steps["resume"] = measured("resume", scratch)
    measured("make_other_half", scratch)
    steps["end"] = measured("end", scratch)
    seconds = sum(step["seconds"] for step in steps.values())
    numbers = {f"{name}, s": step["seconds"] for name, step in steps.items()}
    numbers |= {f"{name}, CPU s": step["CPU"] for name, step in steps.items()}
    numbers |= {f"{name}, peak MB": step["peak"] / 1e6 for name, step in steps.items()}
    claim = f"planning, resume and end of {num_rows:,} rows"
    report(
        Ratio(f"{claim}: seconds / {MINUTE_S * share:g}", [seconds / MINUTE_S / share], at_most=1, numbers=numbers),
        into=arguments.into,
    )
    peak = max(step["peak"] for step in steps.values())
    report(Ratio(f"{claim}: peak bytes / 2 GB", [peak / 2 / GB], at_most=1), into=arguments.into)


def measured(what: str, folder: Path) -> dict[str, float]:
    """One of `MEASURED`, in a process of its own."""
    command = [sys.executable, __file__, "--do", what, "--folder", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def pass_of(folder: Path, table: pa.Table) -> Pass:
    """The synthesis of a table."""
    out = folder / "candidates"
    out.mkdir(exist_ok=True)
    parts = Parts(out, CANDIDATE, "benchmark", table.num_rows, 0.0)
    index = RowIndex(folder / "data")
    return Pass(table, index, ("image_png",), [StageSpec(Nothing, "masker")], PoolsConfig(), UNIT_ROWS, parts)


def run_pass(folder: Path) -> dict[str, float]:
    """All rows on Ray."""
    ids = RowIndex(folder / "data").table["image_id"]
    work = pass_of(folder, fake_plan(ids))
    begun = time.time()
    counts = pipeline.run(work, engine="ray")
    ended = time.time()
    assert counts["ok"] == len(ids), counts
    written = sorted(path.stat().st_mtime for path in work.parts.folder.glob("part-*.parquet"))
    later = sum(moment > written[0] for moment in written)
    return {"seconds_a_row": (ended - written[0]) / (later * UNIT_ROWS), "first_part": written[0] - begun}


def plan_all(folder: Path) -> dict[str, float]:
    """From scores to a plan of as many rows."""
    info = RowIndex(folder / "data").dataset
    config = DbbConfig(k=1.0)
    scores = read_parts(folder / "scores", columns=config.score_columns())
    table = synthesis.of(config).select(config, scores, dataset=info, run_seed=0)
    pq.write_table(table, folder / "plan.parquet")
    return {"rows": table.num_rows}


def resume(folder: Path) -> dict[str, float]:
    """A pass of which every other part is there, up to its first unit."""
    work = pass_of(folder, pq.read_table(folder / "plan.parquet"))
    done = work.parts.open()
    units = cut(work, [number for number in range(num_units(work)) if number not in done])
    return {"units": len(units)}


def end(folder: Path) -> dict[str, float]:
    """All parts are there."""
    work = pass_of(folder, pq.read_table(folder / "plan.parquet"))
    counts = work.parts.close(range(num_units(work)))
    Step(work.parts.folder, {}).finish(counts)
    config = DbbConfig()
    table = read_parts(work.parts.folder, columns=CANDIDATE_SCORES)
    scores = read_parts(folder / "scores", columns=config.score_columns())
    kept_N, _ = verdicts(table, synthesis.of(config).thresholds(config, scores, table))
    return {"kept": int(kept_N.sum())}


def make_half(folder: Path) -> dict[str, float]:
    """Every other part, as a pass would have written it."""
    return _make(folder, 0)


def make_other_half(folder: Path) -> dict[str, float]:
    """The parts between."""
    return _make(folder, 1)


def _make(folder: Path, first: int) -> dict[str, float]:
    work = pass_of(folder, pq.read_table(folder / "plan.parquet"))
    rng = np.random.default_rng(0)
    metadata = {"fingerprint": work.parts.fingerprint, "num_failed": "0"}
    for number in range(first, num_units(work), 2):
        rows = work.table.slice(number * UNIT_ROWS, UNIT_ROWS)
        columns = {name: rows[name] for name in rows.column_names}
        columns |= {name: pa.array([PICTURE] * len(rows)) for name in ("repaint_png", "generated_png")}
        columns |= {name: rng.random(len(rows)) for name in ("source_probability", "attribution_inside")}
        columns |= {name: pa.array(["ok"] * len(rows)) for name in ("status", "model_id", "model_revision")}
        part = cast(pa.table(columns), CANDIDATE, what="benchmark").replace_schema_metadata(metadata)
        path = work.parts.folder / f"part-{number:06d}.parquet"
        pq.write_table(part, path, compression="zstd", use_dictionary=False)
    return {}


def fake_plan(ids: pa.ChunkedArray) -> pa.Table:
    """A row for each picture."""
    num_rows = len(ids)
    zeros_N = np.zeros(num_rows, dtype=np.int32)
    columns = {name: zeros_N for name in ("sample", "source_label", "target_label", "predicted_label")}
    numbers = {"seed": np.arange(num_rows), "loss_rank": np.arange(num_rows, dtype=np.int32)}
    return pa.table({"key": ids, "image_id": ids, **columns, **numbers, "prompt": ["a bird"] * num_rows})


def write_dataset(folder: Path, num_rows: int) -> None:
    """Rows as `write_source` leaves them, whose pictures nobody could decode."""
    folder.mkdir(parents=True)
    for start in range(0, num_rows, ROWS_PER_SHARD):
        rows = range(start, min(start + ROWS_PER_SHARD, num_rows))
        columns = {
            "image_id": [f"train-{row:07d}" for row in rows],
            "image_png": [PICTURE] * len(rows),
            "label": [row % len(CLASSES) for row in rows],
            "attribute": [row // 2 % 2 for row in rows],
            "split": ["train"] * len(rows),
            "role": ["source"] * len(rows),
        }
        shard = cast(pa.table(columns), SOURCE, what="benchmark")
        pq.write_table(shard, folder / f"part-{start // ROWS_PER_SHARD:05d}.parquet", row_group_size=ROWS_PER_GROUP)
    names = {"class_names": CLASSES, "attribute_names": ["land", "water"]}
    prompts = [f"a photo of a {name}" for name in CLASSES]
    write_json(folder / INFO_FILE, {"name": "stub", **names, "prompts": prompts, "object_words": CLASSES})


def write_scores(folder: Path, num_rows: int) -> None:
    """Scores in parts of a unit."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, start in enumerate(range(0, num_rows, UNIT_ROWS)):
        rows = range(start, min(start + UNIT_ROWS, num_rows))
        logits_NC, features_ND = rng.normal(size=(len(rows), 2)), rng.random((len(rows), FEATURES))
        columns: dict[str, Any] = {
            "image_id": [f"train-{row:07d}" for row in rows],
            "label": [row % len(CLASSES) for row in rows],
            "logits": logits_NC.tolist(),
            "predicted_label": logits_NC.argmax(axis=1),
            "loss": rng.random(len(rows)),
            "confidence": rng.random(len(rows)),
            "features": features_ND.tolist(),
            "status": ["ok"] * len(rows),
        }
        part = cast(pa.table(columns), SCORE, what="benchmark")
        pq.write_table(part, folder / f"part-{number:06d}.parquet", compression="zstd", use_dictionary=False)


MEASURED: dict[str, Callable[[Path], dict[str, float]]] = {
    "pass": run_pass,
    "plan": plan_all,
    "resume": resume,
    "end": end,
    "make_half": make_half,
    "make_other_half": make_other_half,
}


if __name__ == "__main__":
    main()
