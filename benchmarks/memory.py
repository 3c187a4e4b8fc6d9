"""Peak memory of the synthesis pass over many images against few: it streams, so it must not grow.

All three pools run; the inpainter is a stub that paints its region grey: the pass is measured, not the model. Each size
runs in processes of its own. Memory is the sum over the whole process tree, Ray's object store included, of the
proportional set size (shared pages count once).

    python benchmarks/memory.py          # 2,000 and 50,000 images of 64 px: about ten minutes on two cores
    python benchmarks/memory.py --sizes 1000 4000
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pyarrow as pa

from raygen.classifier import ClassifierConfig, build_classifier, save_classifier
from raygen.datasets.rows import RowIndex
from raygen.datasets.scene_rendering import ATTRIBUTE_NAMES, CLASS_NAMES, render_scene
from raygen.datasets.table import DatasetInfo, write_source
from raygen.images import encode_image, encode_mask
from raygen.pools import pipeline
from raygen.pools.config import PoolsConfig
from raygen.pools.units import Pass
from raygen.schema import CANDIDATE, plan_key
from raygen.stages.mask import MaskStage
from raygen.stages.pictures import decode_masks, decode_pictures
from raygen.stages.prune import PruneStage
from raygen.stages.spec import Batch, StageSpec, object_column, ok_rows, with_own_status
from raygen.storage.parts import Parts

NUM_SCENES = 64  # different ones; ids are all different
LIMIT = 1.1
GREY = 128


class GreyInpainter:
    """Stands in for the inpainter's stage: the repaint region becomes grey."""

    reads: ClassVar = frozenset({"image_png", "repaint_png", "status", "error"})
    writes: ClassVar = frozenset({"generated_png", "model_id", "model_revision"})

    def __call__(self, batch: Batch) -> Batch:
        """The rows with grey regions."""
        batch = with_own_status(batch)
        pictures = decode_pictures(batch, ok_rows(batch), "image_png")
        repaints = decode_masks(batch, ok_rows(batch), "repaint_png")
        generated: list[bytes | None] = [None] * len(batch["status"])
        for i in ok_rows(batch):
            generated[i] = encode_image(np.where(repaints[i][..., None], np.uint8(GREY), pictures[i]))
        names = object_column(["grey"] * len(generated))
        return {**batch, "generated_png": object_column(generated), "model_id": names, "model_revision": names}


def main() -> None:
    """Measures each size and prints the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs=2, default=[2_000, 50_000])
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # what a measured process does
    arguments = parser.parse_args()
    if arguments.run is not None:
        synthesize(arguments.run)
        return
    peaks = []
    print("| images | seconds | peak memory, MiB | of the driver |\n|---|---|---|---|")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as scratch:
            prepare(Path(scratch), size)
            found = measure(Path(scratch))
        peaks.append(found["tree"])
        print(f"| {size} | {found['seconds']:.0f} | {found['tree']:.0f} | {found['driver']:.0f} |", flush=True)
    print(f"\nratio {peaks[1] / peaks[0]:.3f} (at most {LIMIT})")
    sys.exit(peaks[1] > LIMIT * peaks[0])


def prepare(folder: Path, num_images: int) -> None:
    """A dataset and a classifier."""
    scenes = [render_scene(i, label=i % 2, attribute=i // 2 % 2) for i in range(NUM_SCENES)]
    pictures = [(encode_image(scene.image_HWC), encode_mask(scene.object_HW)) for scene in scenes]

    def rows() -> Iterator[dict[str, Any]]:
        for i in range(num_images):
            image_png, object_png = pictures[i % NUM_SCENES]
            labels = {"label": i % 2, "attribute": i // 2 % 2, "split": "train", "role": "source"}
            yield {"image_id": f"i{i:06d}", "image_png": image_png, "object_png": object_png, **labels}

    (folder / "data").mkdir()
    prompts = tuple(f"a photo of a {name}" for name in CLASS_NAMES)
    write_source(rows(), DatasetInfo("scenes", CLASS_NAMES, ATTRIBUTE_NAMES, prompts), folder / "data")
    save_classifier(build_classifier(ClassifierConfig(), len(CLASS_NAMES), seed=0), folder / "classifier")


def synthesize(folder: Path) -> None:
    """The synthesis pass over the whole dataset."""
    table = RowIndex(folder / "data").split("train").select(["image_id", "label"])
    label_N = table["label"].to_numpy()
    ids = table["image_id"].to_pylist()
    num = table.num_rows
    plan = pa.table(
        {
            "key": [
                plan_key(image_id, target_label=1 - label, sample=0)
                for image_id, label in zip(ids, label_N, strict=True)
            ],
            "image_id": ids,
            "sample": np.zeros(num, dtype=np.int32),
            "source_label": label_N,
            "target_label": (1 - label_N).astype(np.int32),
            "predicted_label": label_N,
            "prompt": ["a photo of a bird"] * num,
            "seed": np.arange(num),
            "loss_rank": np.arange(num, dtype=np.int32),
        }
    )
    classifier = str(folder / "classifier")
    specs = [
        StageSpec(
            MaskStage, "masker", {"masker": {"name": "truth", "dilation_px": 8}, "classifier_folder": classifier}
        ),
        StageSpec(GreyInpainter, "inpainter"),
        StageSpec(PruneStage, "pruner", {"classifier_folder": classifier, "attribution": "exact"}),
    ]
    out = folder / "candidates"
    out.mkdir()
    parts = Parts(out, CANDIDATE, "benchmark", num, 0.0)
    work = Pass(plan, RowIndex(folder / "data"), ("image_png", "object_png"), specs, PoolsConfig(), 64, parts)
    counts = pipeline.run(work, engine="ray")
    assert counts["ok"] == num, counts


def measure(folder: Path) -> dict[str, float]:
    """Seconds, peak of the process tree and peak of the driver, in MiB."""
    start = time.monotonic()
    peak = {"tree": 0.0, "driver": 0.0}
    process = subprocess.Popen([sys.executable, __file__, "--run", str(folder)])

    def watch() -> None:
        root = psutil.Process(process.pid)
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                tree = [root, *root.children(recursive=True)]
                sizes = [pss_mib(member) for member in tree]
                peak["tree"] = max(peak["tree"], sum(sizes))
                peak["driver"] = max(peak["driver"], sizes[0])
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    watcher.join()
    if code != 0:
        sys.exit(f"the measured process ended with {code}")
    return {**peak, "seconds": time.monotonic() - start}


def pss_mib(process: psutil.Process) -> float:
    """Proportional set size of a process; 0 when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return float(process.memory_full_info().pss) / 2**20
    return 0.0


if __name__ == "__main__":
    main()
