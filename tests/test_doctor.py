import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from raygen import doctor

GIB = 2**30


def test_report_names_everything_once_and_advises_on_what_is_not_well(tmp_path: Path) -> None:
    rows = doctor.report(tmp_path)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    always = {"python", "raygen", "CPUs", "memory", "GPUs", "shared memory", "disk", "ray folder", "ray cluster"}
    assert always | {"tiny model", "tiny segmenter", "model hub", "ray token"} <= set(names)
    assert all(row.value for row in rows)
    assert all(row.advice for row in rows if row.ok is not True)


def test_report_does_not_import_ray() -> None:
    code = "import sys, raygen.doctor as d; d.report(); print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(("version", "ok"), [((3, 10, 14), False), ((3, 11, 0), True), ((3, 13, 1), True)])
def test_python_before_3_11_is_too_old(version: tuple[int, int, int], ok: bool) -> None:
    assert doctor.check_python(version).ok is ok


def test_package_in_range_is_well() -> None:
    row = doctor.check_package(Requirement("pytest>=1"))
    assert (row.ok, row.value) == (True, pytest.__version__)


def test_package_that_is_too_old_is_named_with_the_bound() -> None:
    row = doctor.check_package(Requirement("pytest>=9999"))
    assert row.ok is False
    assert ">=9999" in row.advice


def test_absent_package_is_named_with_the_command() -> None:
    row = doctor.check_package(Requirement("no-such-package-of-raygen>=1"))
    assert (row.ok, row.value) == (False, "not installed")
    assert "pip install 'no-such-package-of-raygen>=1'" in row.advice


def test_one_cpu_works_with_a_limit() -> None:
    assert doctor.check_cpus(1).ok is None
    assert doctor.check_cpus(2).ok is True


def test_memory_below_what_the_demo_takes_is_to_be_mended() -> None:
    assert doctor.check_memory(6 * GIB).ok is True
    row = doctor.check_memory(6 * GIB - 1)
    assert row.ok is False
    assert "6 GiB" in row.advice


def test_container_limit_lowers_the_memory(tmp_path: Path) -> None:
    total = psutil.virtual_memory().total
    limit = tmp_path / "memory.max"
    assert doctor.memory_limit(limit) == total
    for text, expected in [("max\n", total), (f"{GIB}\n", min(GIB, total)), (f"{2**62}\n", total)]:
        limit.write_text(text)
        assert doctor.memory_limit(limit) == expected


def test_no_gpu_works_with_a_limit_and_an_unused_one_is_to_be_mended(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        assert torch.cuda.get_device_name(0) in doctor.check_gpus().value
        return
    assert doctor.check_gpus(tmp_path / "nvidia0").ok is None
    (tmp_path / "nvidia0").touch()
    assert doctor.check_gpus(tmp_path / "nvidia0").ok is False


def test_object_store_larger_than_the_shared_memory_is_named(tmp_path: Path) -> None:
    """The object store takes 30% of the memory; the disk of tmp_path stands for /dev/shm."""
    stats = os.statvfs(tmp_path)
    size = stats.f_blocks * stats.f_frsize
    assert doctor.check_shared_memory(tmp_path, memory_bytes=size).ok is True
    if size < doctor.OBJECT_STORE_MAX_BYTES:
        row = doctor.check_shared_memory(tmp_path, memory_bytes=4 * size)
        assert row.ok is None
        assert "--shm-size" in row.advice
    assert doctor.check_shared_memory(tmp_path / "absent", memory_bytes=GIB).ok is None


@pytest.mark.parametrize(("num_bytes", "gib"), [(1, 1), (GIB, 1), (GIB + 1, 2), (30 * GIB, 30)])
def test_advised_size_of_shared_memory_is_enough(num_bytes: int, gib: int) -> None:
    assert doctor.gib_rounded_up(num_bytes) == gib


def test_disk_of_a_folder_that_does_not_exist_yet_is_its_parents(tmp_path: Path) -> None:
    row = doctor.check_disk(tmp_path / "runs" / "new")
    assert row.value.endswith(f"in {tmp_path}")


def test_tiny_model_counts_its_weights(tmp_path: Path) -> None:
    assert doctor.check_tiny_model(tmp_path / "absent").ok is False
    model = tmp_path / "weights" / "scenes"
    (model / "unet").mkdir(parents=True)
    (model / "unet" / "model.safetensors").write_bytes(b"\0" * 2**20)
    assert doctor.check_tiny_model(tmp_path / "weights").ok is False
    (model / "model_index.json").write_text("{}")
    assert doctor.check_tiny_model(tmp_path / "weights") == doctor.Check("tiny model", f"1.0 MiB in {model}", True)


def test_offline_hub_is_a_limit_and_the_cache_is_counted(tmp_path: Path) -> None:
    (tmp_path / "hub" / "models--a--b").mkdir(parents=True)
    online = doctor.check_hub({"HF_HOME": str(tmp_path)})
    assert (online.ok, online.value) == (True, f"online allowed; 1 models in {tmp_path / 'hub'}")
    assert doctor.check_hub({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}).ok is None
    assert doctor.check_hub({"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}).ok is True


@pytest.mark.parametrize(("mode", "ok"), [(0o600, True), (0o400, True), (0o644, False), (0o640, False), (0o602, False)])
def test_token_that_others_can_read_is_to_be_mended(tmp_path: Path, mode: int, ok: bool) -> None:
    token = tmp_path / "auth_token"
    token.write_text("secret-of-a-test")
    token.chmod(mode)
    row = doctor.check_ray_token({"RAY_AUTH_TOKEN_PATH": str(token)})
    assert row.ok is ok
    assert "secret-of-a-test" not in f"{row}"


def test_token_elsewhere(tmp_path: Path) -> None:
    assert doctor.check_ray_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "absent")}).ok is False
    inline = doctor.check_ray_token({"RAY_AUTH_TOKEN": "secret-of-a-test"})
    assert inline.ok is True
    assert "secret-of-a-test" not in f"{inline}"


def test_switched_off_authentication_is_to_be_mended() -> None:
    assert doctor.check_ray_token({"RAY_AUTH_MODE": "disabled"}).ok is False
