"""A dataset with poison in it, a small cluster, and ways to hurt both."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from PIL import Image
from ray.cluster_utils import Cluster
from tiny_pipelines import save_pipeline

from raygen.datasets.scene_rendering import render_scene

DRIVER = Path(__file__).parent / "driver.py"
POISONED_FRACTION = 0.05
# Of the poisoned images, every other one has a picture that is cut off, the rest a mask that is none.
CUT_OFF, NO_MASK = "cut off", "no mask"


@dataclass(frozen=True)
class Prepared:
    """A run that is ready to score and to generate, and what it makes when nobody disturbs it.

    Attributes:
        config: Its config file.
        begun: A run folder with data and ERM only.
        undisturbed: The same run, done to its candidates by the local engine.
        poisoned: What is wrong with which image.
    """

    config: Path
    begun: Path
    undisturbed: Path
    poisoned: dict[str, str]


def prepare(folder: Path, *, num_images: int) -> Prepared:
    """Renders and poisons a dataset, fits ERM, and makes the undisturbed run."""
    poisoned = write_dataset(folder / "pictures", num_images)
    config = {
        "recipe": "dbb",
        "engine": "local",
        "dataset": {"name": "folder", "path": str(folder / "pictures"), "class_names": ["landbird", "waterbird"]},
        "erm": {"epochs": 1},
        "synthesis": {"k": 1.0, "mask": "truth"},  # half of the poison is in the dataset's masks
        "inpainter": {"model": str(save_pipeline(folder / "model")), "num_inference_steps": 8},
        "pools": {
            # Pretended GPUs: Ray counts them, the models run on the CPU.
            "scorer": {"actors": 2, "num_cpus": 0.25, "num_gpus": 0.5, "device": "cpu", "batch_size": 8},
            "masker": {"actors": 1, "num_cpus": 0.25, "batch_size": 8},
            "inpainter": {"actors": 2, "num_cpus": 0.25, "num_gpus": 1, "device": "cpu", "batch_size": 8},
            "pruner": {"actors": 1, "num_cpus": 0.25, "num_gpus": 0.5, "device": "cpu", "batch_size": 8},
        },
        "fit": {"num_cpus": 1, "num_threads": 1},
        "controls": [],
        "unit_rows": 16,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    driver = start_driver(path, folder / "undisturbed")
    output = driver.communicate(timeout=500)[0]
    assert driver.returncode == 0, output
    begun = folder / "begun"
    shutil.copytree(folder / "undisturbed", begun)
    for step in ("scores", "plan", "candidates"):
        shutil.rmtree(begun / step)
    return Prepared(path, begun, folder / "undisturbed", poisoned)


def write_dataset(folder: Path, num_images: int) -> dict[str, str]:
    """Pictures, masks and metadata.csv; gives back what is wrong with which training image."""
    folder.mkdir()
    poisoned: dict[str, str] = {}
    # Another draw than any seed of the code under test.
    ids = random.Random(7).sample(range(num_images), round(POISONED_FRACTION * num_images))
    lines = ["img_filename,y,split,place,mask_filename"]
    for split, num in ((0, num_images), (1, 16), (2, 16)):
        for i in range(num):
            label, attribute = i % 2, i // 2 % 2
            scene = render_scene(1000 * split + i, label=label, attribute=attribute)
            name = f"{'abc'[split]}{i:04d}"
            Image.fromarray(scene.image_HWC).save(folder / f"{name}.png")
            Image.fromarray(scene.object_HW).save(folder / f"{name}_mask.png")
            lines.append(f"{name}.png,{label},{split},{attribute},{name}_mask.png")
            if split == 0 and i in ids:
                poisoned[name] = poison(folder, name, CUT_OFF if len(poisoned) % 2 == 0 else NO_MASK)
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return poisoned


def poison(folder: Path, name: str, how: str) -> str:
    """Spoils one image's picture or mask."""
    if how == CUT_OFF:
        data = (folder / f"{name}.png").read_bytes()
        (folder / f"{name}.png").write_bytes(data[: len(data) // 2])
    else:
        (folder / f"{name}_mask.png").write_bytes(b"no picture at all")
    return how


@contextlib.contextmanager
def small_cluster(*, num_workers: int) -> Iterator[Cluster]:
    """A head without a GPU, and workers with three pretended ones each: enough for all pools at their least."""
    store = {"object_store_memory": 150 << 20}
    cluster = Cluster(head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, **store})
    try:
        for _ in range(num_workers):
            cluster.add_node(num_cpus=2, num_gpus=3, wait=False, **store)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def start_driver(config: Path, out: Path, *overrides: str, cluster: Cluster | None = None) -> subprocess.Popen[str]:
    """Starts the run; on a cluster if one is given."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = list(overrides)
    if cluster is not None:
        environment["RAY_ADDRESS"] = cluster.address
        arguments.append("engine=ray")
    command = [sys.executable, str(DRIVER), str(config), str(out), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(driver: subprocess.Popen[str], *, timeout_s: float = 400) -> str:
    """Waits for a driver that must succeed; gives back what it printed."""
    output = driver.communicate(timeout=timeout_s)[0]
    assert driver.returncode == 0, output[-4000:]
    return output


def wait_for_parts(driver: subprocess.Popen[str], folder: Path, num: int, *, timeout_s: float = 300) -> None:
    """Waits until a pass has that many parts."""
    deadline = time.monotonic() + timeout_s
    while len(list(folder.glob("part-*.parquet"))) < num:
        if driver.poll() is not None:
            raise AssertionError(f"the driver ended early:\n{driver.communicate()[0][-4000:]}")
        assert time.monotonic() < deadline, f"{folder} never had {num} parts"
        time.sleep(0.05)


def kill_actor(cluster: Cluster, pool: str, rng: random.Random, *, timeout_s: float = 120) -> None:
    """Kills one actor of a pool, as the kernel does when memory runs out."""
    raylets = {process.process.pid for node in cluster.list_all_nodes() for process in node.all_processes["raylet"]}
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        actors = []
        for process in psutil.process_iter(["ppid", "cmdline"]):
            title = " ".join(process.info["cmdline"] or ())
            if process.info["ppid"] in raylets and f"MapBatches({pool})" in title:
                actors.append(process)
        if actors:
            rng.choice(sorted(actors, key=lambda process: process.pid)).kill()
            return
        time.sleep(0.05)
    raise AssertionError(f"no actor of {pool} in {timeout_s} s")


def parts(folder: Path) -> dict[str, bytes]:
    """All parts of a pass by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob("part-*.parquet"))}


def manifest(folder: Path) -> dict[str, Any]:
    """A step's manifest, without the versions."""
    data: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return data
