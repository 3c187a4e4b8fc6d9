"""What extra pictures cost a fit in memory: the same fit with them and without, each in a process of its own.

Memory is the proportional set size of the fit's process and all below it (a page that several share counts by its
parts) without the pages of the stores' files: they are the system's cache, which all processes share and which goes
when memory is short. The network is next to nothing, so that pictures are all that there is.

    python benchmarks/fit_memory.py [--short] [--into FILE]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _ratios import Ratio, add_arguments, report
from PIL import Image
from torch import nn

from raygen.algorithms import erm
from raygen.algorithms.decoding import Loading
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig
from raygen.datasets import make_dataset
from raygen.datasets.rows import RowIndex
from raygen.fits.extra_pictures import ExtraRows, extra_pictures
from raygen.images import encode_image
from raygen.storage.picture_store import GB
from raygen.worker import Worker

EXTRA_PX, BATCH, PROCESSES = 224, 64, 2


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--extra", type=int, help="extra pictures (100,000; --short: 4,000)")
    parser.add_argument("--folder", type=Path, help="where data and stores go: 150 kB for each extra picture")
    parser.add_argument("--fit-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.fit_of is not None:
        fit_with_extra(arguments.folder, arguments.fit_of)
        return
    extra = arguments.extra or (4_000 if arguments.short else 100_000)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = Path(scratch)
        (folder / "data").mkdir()
        make_dataset({"name": "scenes", "scale": 0.1}, [], folder / "data", seed=0)
        memory(folder, extra, arguments.into)


def memory(folder: Path, num: int, into: Path | None) -> None:
    """Peak memory of a fit with extra pictures against the same fit without, each in a process of its own."""
    write_candidates(folder, num)
    peaks = {}
    for extra in (0, num):
        command = [sys.executable, __file__, "--folder", str(folder), "--fit-of", str(extra)]
        peaks[extra] = peak_bytes(subprocess.Popen(command))
    report(
        Ratio(
            f"peak memory of a fit with {num:,} extra pictures of {EXTRA_PX} px / without",
            [peaks[num] / peaks[0]],
            at_most=1.2,
            numbers={
                "with, MB": peaks[num] / 1e6,
                "without, MB": peaks[0] / 1e6,
                "the pictures themselves, MB": num * EXTRA_PX**2 * 3 / 1e6,
            },
        ),
        into=into,
    )


def write_candidates(folder: Path, num: int) -> None:
    """Candidates of the dataset's first images, a few different pictures again and again."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(8):
        coarse = Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8))
        pictures.append(encode_image(np.asarray(coarse.resize((EXTRA_PX, EXTRA_PX), Image.Resampling.BILINEAR))))
    ids = RowIndex(folder / "data").split("train")["image_id"].to_pylist()[:500]
    (folder / "candidates").mkdir()
    for number, start in enumerate(range(0, num, 64)):
        rows = range(start, min(start + 64, num))
        table = {
            "key": [f"{i:07d}" for i in rows],
            "image_id": [ids[i % len(ids)] for i in rows],
            "source_label": pa.array([0 for _ in rows], pa.int32()),
            "target_label": pa.array([1 for _ in rows], pa.int32()),
            "generated_png": pa.array([pictures[i % len(pictures)] for i in rows], pa.binary()),
        }
        path = folder / "candidates" / f"part-{number:06d}.parquet"
        pq.write_table(pa.table(table), path, compression="zstd", use_dictionary=False)


def fit_with_extra(folder: Path, num: int) -> None:
    """One epoch of a network that costs nothing, at 224 px, with that many extra pictures."""
    torch.set_num_threads(1)
    index, place = RowIndex(folder / "data"), Loading(str(folder / f"store-{num}"), 64 * GB, PROCESSES)
    options = {"size_px": EXTRA_PX, "loading": place}
    train = TrainingSet(index, "train", **options)  # type: ignore[arg-type]
    val = TrainingSet(index, "val", **options)  # type: ignore[arg-type]
    if num:
        rows = ExtraRows("generated", tuple(f"{i:07d}" for i in range(num)), str(folder / "candidates"), "benchmark")
        train = train.with_extra(extra_pictures(rows, index, seed=0, **options))  # type: ignore[arg-type]
    backbone = nn.Sequential(nn.AvgPool2d(32), nn.Flatten())
    config = ClassifierConfig(image_size_px=EXTRA_PX)
    classifier = Classifier(config, backbone, num_features=3 * (EXTRA_PX // 32) ** 2, num_classes=2)
    (folder / "fit").mkdir(exist_ok=True)
    (folder / "fit" / "checkpoint.pt").unlink(missing_ok=True)
    # Without extra pictures as many steps: what a fit takes in the long run, not how short it is.
    epochs = 1 if num else 4
    algorithm = ErmConfig(epochs=epochs, batch_size=BATCH, augment="none", select="last", learning_rate=1e-4)
    erm.fit(algorithm, classifier, train, val, seed=0, worker=Worker(0, 1, "cpu", folder / "fit"))


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """Highest memory of a process and all below it while it runs."""
    peak = 0
    while process.poll() is None:
        total = 0
        for member in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
            try:
                total += sum(m.pss for m in member.memory_maps(grouped=False) if not m.path.endswith("pictures.npy"))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        peak = max(peak, total)
        time.sleep(0.2)
    if process.returncode:
        raise SystemExit("the fit failed")
    return peak


if __name__ == "__main__":
    main()
