"""What this machine has, and what is missing for what.

Plain rows for `raygen doctor` to print. Nothing is changed and nothing is fetched. Ray is not started; a cluster that
RAY_ADDRESS names is joined for a moment, in a process of its own, as a run would join it.
"""

import importlib.metadata
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from raygen.cluster import ray_address
from raygen.errors import UserError

OLDEST_PYTHON = (3, 11)
GIB = 2**30
# The peak that `raygen demo` is held to, Ray's processes included.
DEMO_MEMORY_GIB = 6
# Assumption: a demo's run folder and Ray's session files stay below this; a guess of ours.
LEAST_DISK_GIB = 2
# Ray 2.60, ray_constants.py: the object store takes this share of the memory by default, and at most so much.
OBJECT_STORE_FRACTION = 0.3
OBJECT_STORE_MAX_BYTES = 200 * 10**9
# Ray 2.60, local_fs_capacity_threshold: above this, Ray makes no more objects on its disk.
RAY_DISK_FULL_FRACTION = 0.95
TINY = Path(__file__).parent / "tiny"
# What a run does first, with what it finds; its errors are for the user. A machine under load takes its time to import.
JOIN_S = 90.0
JOIN = """
import sys
from raygen import cluster
from raygen.errors import RaygenError
try:
    cluster.connect()
except RaygenError as error:
    sys.exit(str(error))
print(cluster.describe())
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the report.

    Attributes:
        name: What was looked at.
        value: What was found.
        ok: True all well; False to be mended; None works, with the limits that `advice` names.
        advice: What to do, or what will not work; empty when all is well.
    """

    name: str
    value: str
    ok: bool | None
    advice: str = ""


def report(folder: Path = Path()) -> list[Check]:
    """Every check of this machine.

    Args:
        folder: Where runs will be written; the folder itself need not exist yet.
    """
    memory_bytes = memory_limit()
    return [
        check_python(sys.version_info[:3]),
        *check_packages(),
        check_cpus(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
        check_memory(memory_bytes),
        check_gpus(),
        check_shared_memory(Path("/dev/shm"), memory_bytes=memory_bytes),
        check_disk(folder),
        _looked_at("ray folder", lambda: check_ray_folder(ray_address.ray_folder(os.environ)[1])),
        _looked_at("ray cluster", lambda: check_ray(os.environ)),
        check_tiny_model(TINY / "weights"),
        check_tiny_model(TINY / "segmenter_weights", name="tiny segmenter", marker="config.json"),
        _looked_at("model hub", lambda: check_hub(os.environ)),
        _looked_at("ray token", lambda: check_ray_token(os.environ)),
    ]


def _looked_at(name: str, check: Callable[[], Check]) -> Check:
    """A check of a place that the environment names, which this user may not be allowed to look at."""
    try:
        return check()
    except OSError as error:
        advice = "Correct the variable that names it (HOME, TMPDIR, RAY_TMPDIR, HF_HOME …), or its permissions."
        return Check(name, f"{error.filename}: {error.strerror}", False, advice)


def check_python(version: Sequence[int]) -> Check:
    """Whether Python is new enough."""
    text = f"{'.'.join(map(str, version))} ({platform.system()} {platform.machine()})"
    if tuple(version) < OLDEST_PYTHON:
        return Check("python", text, False, f"Install Python {'.'.join(map(str, OLDEST_PYTHON))} or newer.")
    return Check("python", text, True)


def check_packages() -> list[Check]:
    """One row for raygen and one for each package that it needs."""
    try:
        raygen = importlib.metadata.distribution("raygen")
    except importlib.metadata.PackageNotFoundError:
        return [Check("raygen", "not installed", False, "Run `pip install .` in the project's folder.")]
    needed = [Requirement(text) for text in raygen.requires or []]
    runtime = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    return [Check("raygen", raygen.version, True), *[check_package(need) for need in runtime]]


def check_package(need: Requirement) -> Check:
    """Whether a package is there in a version that the requirement allows."""
    try:
        version = importlib.metadata.version(need.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(need.name, "not installed", False, f"Run `pip install '{need}'`.")
    if not need.specifier.contains(version, prereleases=True):
        return Check(need.name, version, False, f"Needs {need.specifier}. Run `pip install '{need}'`.")
    return Check(need.name, version, True)


def check_cpus(num_cpus: int) -> Check:
    """How many CPUs this process may use."""
    if num_cpus == 1:
        return Check("CPUs", "1", None, "The pools take turns on one core; on two or more they work at once.")
    return Check("CPUs", str(num_cpus), True)


def memory_limit(cgroup_file: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Bytes of memory: the machine's, or the container's limit (cgroup v2) where that is lower."""
    total = int(psutil.virtual_memory().total)
    limit = cgroup_file.read_text().strip() if cgroup_file.is_file() else "max"
    return total if limit == "max" else min(total, int(limit))


def check_memory(memory_bytes: int) -> Check:
    """Whether the memory is enough for the demo."""
    text = f"{memory_bytes / GIB:.1f} GiB"
    if memory_bytes < DEMO_MEMORY_GIB * GIB:
        advice = f"The demo may take up to {DEMO_MEMORY_GIB} GiB. Add memory, or run less: --set dataset.scale=0.3"
        return Check("memory", text, False, advice)
    return Check("memory", text, True)


def check_gpus(device_file: Path = Path("/dev/nvidia0")) -> Check:
    """The GPUs that torch sees, or why it sees none."""
    try:
        import torch
    except ImportError:
        return Check("GPUs", "unknown: no torch", False, "Run `pip install .` in the project's folder.")
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = [f"{device.name} ({device.total_memory / GIB:.0f} GiB)" for device in devices]
        return Check("GPUs", ", ".join(names), True)
    if not device_file.exists():
        advice = "Fine for the demo and its tiny model; Stable Diffusion will be slow."
        return Check("GPUs", "none", None, advice)
    if torch.version.cuda is None:
        advice = "This torch is built without CUDA. Run `pip install --force-reinstall torch`."
        return Check("GPUs", "none that torch can use", False, advice)
    advice = f"Torch needs a driver for CUDA {torch.version.cuda} (see nvidia-smi); is CUDA_VISIBLE_DEVICES empty?"
    return Check("GPUs", "none that torch can use", False, advice)


def check_shared_memory(folder: Path, *, memory_bytes: int) -> Check:
    """Whether the folder of shared memory holds Ray's object store at its default size."""
    wanted = min(int(OBJECT_STORE_FRACTION * memory_bytes), OBJECT_STORE_MAX_BYTES)
    text = f"object store {wanted / GIB:.1f} GiB"
    if not folder.is_dir():
        return Check("shared memory", f"{text}; no {folder}", None, "Ray will keep its objects in a file.")
    size = shutil.disk_usage(folder).total
    text = f"{text} of {size / GIB:.1f} GiB in {folder}"
    if size < wanted:
        advice = f"Ray will keep objects on the disk, which is slow. Docker: --shm-size={gib_rounded_up(wanted)}g"
        return Check("shared memory", text, None, advice)
    return Check("shared memory", text, True)


def gib_rounded_up(num_bytes: int) -> int:
    """Whole GiB that hold so many bytes."""
    return -(-num_bytes // GIB)


def check_disk(folder: Path) -> Check:
    """Whether there is room for a run."""
    place = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free in {place}"
    if free < LEAST_DISK_GIB * GIB:
        return Check("disk", text, False, f"Free {LEAST_DISK_GIB} GiB or more, or give --out on another disk.")
    return Check("disk", text, True)


def check_ray_folder(folder: Path) -> Check:
    """Whether the disk of Ray's temporary folder is so full that Ray refuses to make objects."""
    place = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    usage = shutil.disk_usage(place)
    if not usage.total:
        advice = "It is no disk, but a file system of the kernel's. Set RAY_TMPDIR to a folder that can be written."
        return Check("ray folder", f"{folder} takes no files", False, advice)
    fraction = 1 - usage.free / usage.total
    text = f"{folder} is {fraction:.0%} full"
    if fraction > RAY_DISK_FULL_FRACTION:
        advice = f"Ray stops making objects above {RAY_DISK_FULL_FRACTION:.0%}. Free some, or set RAY_TMPDIR."
        return Check("ray folder", text, False, advice)
    return Check("ray folder", text, True)


def check_ray(environ: Mapping[str, str]) -> Check:
    """Whether a run would have its Ray: the cluster of RAY_ADDRESS, or one that is started here."""
    name = "ray cluster"
    try:
        address = ray_address.named_address(environ)
        if address is None:
            ray_address.check_start(environ)
            return Check(name, "Ray can be started here", True)
    except UserError as error:
        return Check(name, "cannot be had", False, str(error))
    try:
        done = subprocess.run(
            [sys.executable, "-c", JOIN], env=environ, capture_output=True, text=True, check=False, timeout=JOIN_S
        )
    except subprocess.TimeoutExpired:
        advice = f"RAY_ADDRESS={address}: the cluster's head answers, but did not let a program join in {JOIN_S:g} s."
        return Check(name, address, False, advice)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        return Check(name, address, False, lines[-1])
    return Check(name, f"{address}: {done.stdout.strip()}", True)


def check_tiny_model(folder: Path, *, name: str = "tiny model", marker: str = "model_index.json") -> Check:
    """Whether a model that ships with the package is there: by default the inpainting model.

    Args:
        folder: Where it should be.
        name: Of the line.
        marker: The file that every model of its kind has.
    """
    found = sorted(folder.rglob(marker))
    if not found:
        advice = "The demo needs it. Install raygen again, or make it: python -m raygen.tiny.train"
        return Check(name, f"not in {folder}", False, advice)
    num_bytes = sum(path.stat().st_size for path in found[0].parent.rglob("*.safetensors"))
    return Check(name, f"{num_bytes / 2**20:.1f} MiB in {found[0].parent}", True)


def check_hub(environ: Mapping[str, str]) -> Check:
    """Whether Hugging Face models may be fetched, and where they are kept; the network is not touched."""
    home = Path(environ.get("HF_HOME", _home() / ".cache" / "huggingface"))
    cache = Path(environ.get("HF_HUB_CACHE", home / "hub"))
    models = sorted(cache.glob("models--*"))
    text = f"{len(models)} models in {cache}"
    # The values that huggingface_hub takes for true.
    if environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        advice = "HF_HUB_OFFLINE is set: only models in this cache and in folders work. The demo does."
        return Check("model hub", f"offline; {text}", None, advice)
    return Check("model hub", f"online allowed; {text}", True)


def check_ray_token(environ: Mapping[str, str]) -> Check:
    """Whether Ray's token, which lets its holder run code on the cluster, is for its owner's eyes only."""
    name = "ray token"
    if not ray_address.uses_token(environ):  # any value but "token", a mistyped one too
        advice = f"RAY_AUTH_MODE={environ['RAY_AUTH_MODE']}: whoever reaches Ray's ports can run code here. Unset it."
        return Check(name, "switched off", False, advice)
    if environ.get("RAY_AUTH_TOKEN"):
        return Check(name, "in RAY_AUTH_TOKEN", True)
    path = Path(environ.get("RAY_AUTH_TOKEN_PATH") or _home() / ".ray" / "auth_token")
    if not path.is_file():
        if environ.get("RAY_AUTH_TOKEN_PATH"):
            return Check(name, f"no {path}", False, "RAY_AUTH_TOKEN_PATH names no file; Ray will not start.")
        return Check(name, "none yet", True, "Ray makes one at its first start; run this again afterwards.")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Check(name, f"{path}, mode {mode:04o}", False, f"Others can read it. Run `chmod 600 {path}`.")
    return Check(name, f"{path}, mode {mode:04o}", True)


def _home() -> Path:
    return Path(os.path.expanduser("~"))  # unlike Path.home() also where there is none
