"""Large datasets: how long listing and checking them takes, and the memory of the process that does it.

Trees are made in a folder (photographs of 224 x 224 pixels and 8 kB, many times the same 64), and each measurement is a
process of its own, so that its peak of memory is its own.

    python benchmarks/listing.py check --rows 200000     # folders of classes on disk: `raygen data check`
    python benchmarks/listing.py rows --rows 1000000     # listed, written as rows without pictures, opened by a fit
    python benchmarks/listing.py s3 --rows 20000              # such a tree in moto's S3 on this machine
"""

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image
from pyarrow import fs

from raygen.datasets import open_dataset
from raygen.datasets.check import check_dataset
from raygen.datasets.folder import FolderConfig, open_folder
from raygen.datasets.row_pictures import RowPictures
from raygen.datasets.rows import RowIndex

NUM_PICTURES, SIDE_PX, NUM_CLASSES = 64, 224, 10
PROGRESS_S = 10


def main() -> None:
    """Measures one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "rows", "s3"))
    parser.add_argument("--rows", type=int, required=True, help="pictures of the dataset")
    parser.add_argument("--folder", type=Path, help="where trees are made; by default a temporary folder")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--address", help=argparse.SUPPRESS)  # what a process of its own measures
    arguments = parser.parse_args()
    if arguments.address is not None:
        print(json.dumps({"check": check, "rows": rows, "s3": check}[arguments.what](arguments.address)), flush=True)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        tree = make_tree(Path(folder) / "tree", arguments.rows, empty=arguments.what == "rows")
        with served(tree) if arguments.what == "s3" else here(tree) as (address, environment):
            for _ in range(arguments.turns):
                command = [sys.executable, __file__, arguments.what, "--rows", "0", "--address", address]
                subprocess.run(command, check=True, env={**os.environ, **environment})


def check(address: str) -> dict[str, float]:
    """Lists a dataset and decodes every picture."""
    start, found = time.monotonic(), dict[str, float]()
    listing = open_folder(FolderConfig(path=address))
    found["rows"], found["listed, s"] = len(listing.entries), time.monotonic() - start
    start = time.monotonic()
    findings = check_dataset(address, progress=now_and_then())
    assert not findings.problems, findings.problems[:5]
    return {**found, "listed and checked, s": time.monotonic() - start, **used()}


def rows(address: str) -> dict[str, float]:
    """Lists a dataset, writes its rows, and opens them as a fit does."""
    start, found = time.monotonic(), dict[str, float]()
    dataset = open_dataset(FolderConfig(path=address, inline=False))
    dataset.check()
    dataset.state(run_seed=0)
    found["listed, s"], found["listed, MB"] = time.monotonic() - start, used()["peak, MB"]
    with tempfile.TemporaryDirectory(dir=Path(address).parent) as folder:
        found["rows"] = sum(dataset.write(Path(folder), run_seed=0).values())
        found["written, s"], found["written, MB"] = time.monotonic() - start, used()["peak, MB"]
        index = RowIndex(Path(folder))
        pictures = RowPictures(index, index.split("train")["image_id"].to_pylist(), label="train")
        found["opened, s"], found["rows of train"] = time.monotonic() - start, len(pictures)
    return {**found, **used()}


def used() -> dict[str, float]:
    """What this process has used so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {"CPU, s": usage.ru_utime + usage.ru_stime, "peak, MB": usage.ru_maxrss * 1024 / 1e6}


def now_and_then() -> Callable[[int, int], None]:
    """Prints how far a check is."""
    last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > PROGRESS_S:
            last = time.monotonic()
            print(f"{done:,} of {total:,}", file=sys.stderr, flush=True)

    return progress


def make_tree(root: Path, num_rows: int, *, empty: bool) -> Path:
    """Folders of classes: eight of ten pictures in train/, one each in val/ and test/."""
    pictures = [b""] if empty else [photograph(seed) for seed in range(NUM_PICTURES)]
    for row in range(num_rows):
        split = {8: "val", 9: "test"}.get(row % 10, "train")
        folder = root / split / f"class {row // 10 % NUM_CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row:07d}.jpg").write_bytes(pictures[row % len(pictures)])
    return root


def photograph(seed: int) -> bytes:
    """A JPEG with the size and the detail of a photograph."""
    coarse_HWC = np.random.default_rng(seed).integers(255, size=(8, 8, 3), dtype=np.uint8)
    image, file = Image.fromarray(coarse_HWC).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


@contextmanager
def here(tree: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The tree as it is."""
    yield str(tree), {}


@contextmanager
def served(tree: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The tree in an S3 of its own process, and the environment that leads there."""
    command = [sys.executable, "-c", "from moto.server import main; main(['-p', '0'])"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = next(line.split(" on ")[1].split()[0] for line in server.stderr if "Running on http" in line)
        log = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)  # or its pipe would fill
        there = fs.S3FileSystem(
            access_key="a", secret_key="b", endpoint_override=url, region="us-east-1", allow_bucket_creation=True
        )
        there.create_dir("pictures")
        start = time.monotonic()
        fs.copy_files(str(tree), "pictures/tree", source_filesystem=fs.LocalFileSystem(), destination_filesystem=there)
        print(f"uploaded in {time.monotonic() - start:.0f} s", file=sys.stderr)
        shutil.rmtree(tree)
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
        yield "s3://pictures/tree", {"AWS_ENDPOINT_URL": url, **keys}
    finally:
        server.terminate()
        server.wait()
        log.wait()


if __name__ == "__main__":
    main()
