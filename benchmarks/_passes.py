"""What the benchmarks of pools share: a dataset of given pictures, a plan of it, and when a pass's model worked."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _ratios import Usage, used

from raygen.classifier import ClassifierConfig, build_classifier, save_classifier
from raygen.datasets.scene_rendering import ATTRIBUTE_NAMES, CLASS_NAMES
from raygen.datasets.table import DatasetInfo, write_source
from raygen.schema import plan_key
from raygen.seeding import row_seed

PROMPTS = tuple(f"a photo of a {name}" for name in CLASS_NAMES)
CALLS, DONE = "calls.txt", "done"


def write_data(folder: Path, pictures: Sequence[tuple[bytes, bytes]], num_rows: int, *, classifier_px: int) -> None:
    """A dataset in data/, whose rows share a few pictures in turns, and a classifier in classifier/.

    Args:
        folder: For both.
        pictures: Picture and object mask, encoded. Class and attribute of one are by its place.
        num_rows: Of the dataset.
        classifier_px: Side of what the classifier sees.
    """

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(num_rows):
            image_png, object_png = pictures[i % len(pictures)]
            labels = {"label": i % 2, "attribute": i // 2 % 2, "split": "train", "role": "source"}
            yield {"image_id": f"i{i:06d}", "image_png": image_png, "object_png": object_png, **labels}

    (folder / "data").mkdir(parents=True)
    write_source(rows(), DatasetInfo("scenes", CLASS_NAMES, ATTRIBUTE_NAMES, PROMPTS), folder / "data")
    config = ClassifierConfig(image_size_px=classifier_px)
    save_classifier(build_classifier(config, len(CLASS_NAMES), seed=0), folder / "classifier")


def plan_of(table: pa.Table) -> pa.Table:
    """A PLAN row for each row of a dataset of two classes: repainted as the other class."""
    label_N = table["label"].to_numpy().astype(np.int32)
    ids = table["image_id"].to_pylist()
    keys = [
        plan_key(image_id, target_label=1 - label, sample=0)
        for image_id, label in zip(ids, label_N.tolist(), strict=True)
    ]
    return pa.table(
        {
            "key": keys,
            "image_id": ids,
            "sample": np.zeros(len(ids), dtype=np.int32),
            "source_label": label_N,
            "target_label": 1 - label_N,
            "predicted_label": label_N,
            "prompt": [PROMPTS[1 - label] for label in label_N],
            "seed": [row_seed(0, key) for key in keys],
            "loss_rank": np.arange(len(ids), dtype=np.int32),
        }
    )


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a model."""

    worker: int
    start: float
    end: float


def note_call(folder: Path, worker: int, start: float) -> None:
    """Notes a call that ends now."""
    with (folder / CALLS).open("a", encoding="utf-8") as file:
        file.write(f"{worker} {start} {time.monotonic()}\n")


def calls_in(folder: Path) -> list[Call]:
    """What has been noted."""
    path = folder / CALLS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [Call(int(worker), float(start), float(end)) for worker, start, end in map(str.split, lines)]


@dataclass(frozen=True, slots=True)
class Watched:
    """A pass in another process, seen from outside.

    Attributes:
        begun: When the process was started.
        flows: When it flowed: from here on `usage` counts, until `folder / DONE` is there.
        usage: What it took from then on.
        before: Calls noted before that.
    """

    begun: float
    flows: float
    usage: Usage
    before: int


def watch(command: Sequence[str], folder: Path, *, num_workers: int) -> Watched:
    """Runs a pass, and counts from when each of `num_workers` has noted a call.

    Raises:
        CalledProcessError: It failed.
    """
    begun = time.monotonic()
    process = subprocess.Popen(list(command))
    while len({call.worker for call in calls_in(folder)}) < num_workers and process.poll() is None:
        time.sleep(0.02)
    flows, before = time.monotonic(), len(calls_in(folder))
    with used(process.pid) as usage:
        while not (folder / DONE).is_file() and process.poll() is None:
            time.sleep(0.02)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return Watched(begun, flows, usage, before)
