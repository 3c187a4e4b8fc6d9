"""Workers, nodes and drivers die, inputs are poisoned, a disk fills: the candidates are the same, byte for byte."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pytest
from chaos_tools import (
    CUT_OFF,
    NO_MASK,
    Prepared,
    finish,
    kill_actor,
    manifest,
    parts,
    prepare,
    small_cluster,
    start_driver,
    wait_for_parts,
)

from raygen.storage.parts import read_parts
from raygen.storage.run_folder import check_files

NUM_IMAGES = 500
SEED = 2026


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("chaos"), num_images=NUM_IMAGES)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("chaos_short"), num_images=120)


@pytest.fixture
def run(prepared: Prepared, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared.begun, tmp_path / "run"))


def check_equals_undisturbed(run: Path, prepared: Prepared) -> None:
    """Scores and candidates equal, failed rows exactly the poisoned ones, manifests true."""
    for step in ("scores", "plan", "candidates"):
        assert manifest(run / step) == manifest(prepared.undisturbed / step)
        check_files(run / step, manifest(run / step))
    assert parts(run / "scores") == parts(prepared.undisturbed / "scores")
    assert parts(run / "candidates") == parts(prepared.undisturbed / "candidates")
    for step, how in (("scores", CUT_OFF), ("candidates", NO_MASK)):
        table = read_parts(run / step, columns=["image_id", "status"])
        failed = table.filter(pc.equal(table["status"], "failed"))["image_id"].to_pylist()
        assert failed == sorted(name for name, poison in prepared.poisoned.items() if poison == how)
    keys = read_parts(run / "candidates", columns=["key"])["key"].to_pylist()
    assert keys == sorted(set(keys)), "no row is lost or doubled"
    assert not (run / "candidates" / ".work").exists()


def random_part(prepared: Prepared, rng: random.Random, step: str) -> int:
    """A moment in the middle of a pass, as a number of finished parts."""
    num = len(parts(prepared.undisturbed / step))
    return rng.randint(1, max(1, num * 2 // 3))


@pytest.mark.slow
def test_one_actor_of_each_pool_is_killed(prepared: Prepared, run: Path) -> None:
    rng = random.Random(SEED)
    with small_cluster(num_workers=1) as cluster:
        driver = start_driver(prepared.config, run, cluster=cluster)
        # Scorer and masker are quick: they are hit as soon as they are there, or they would be through.
        kill_actor(cluster, "Scorer", rng)
        kill_actor(cluster, "Masker", rng)
        for pool in ("Inpainter", "Pruner"):
            wait_for_parts(driver, run / "candidates", random_part(prepared, rng, "candidates"))
            kill_actor(cluster, pool, rng)
        finish(driver)
    check_equals_undisturbed(run, prepared)


@pytest.mark.slow
def test_a_worker_node_is_lost(prepared: Prepared, run: Path) -> None:
    rng = random.Random(SEED + 1)
    with small_cluster(num_workers=2) as cluster:
        driver = start_driver(prepared.config, run, cluster=cluster)
        wait_for_parts(driver, run / "candidates", random_part(prepared, rng, "candidates"))
        lost = rng.choice([node for node in cluster.list_all_nodes() if node is not cluster.head_node])
        cluster.remove_node(lost, allow_graceful=False)
        finish(driver)
    check_equals_undisturbed(run, prepared)


@pytest.mark.slow
def test_the_driver_is_killed_again_and_again(prepared: Prepared, run: Path) -> None:
    rng = random.Random(SEED + 2)
    with small_cluster(num_workers=1) as cluster:
        for _ in range(2):
            done = len(parts(run / "candidates"))
            driver = start_driver(prepared.config, run, cluster=cluster)
            wait_for_parts(driver, run / "candidates", done + rng.randint(1, 8))
            driver.kill()
            driver.wait()
            assert not (run / "candidates" / "manifest.json").exists()
        finish(start_driver(prepared.config, run, cluster=cluster))
    check_equals_undisturbed(run, prepared)


@pytest.mark.slow
def test_the_head_is_lost_and_the_same_command_goes_on_with_a_new_one(
    prepared: Prepared, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray ends the driver by itself, which says before what to do; sooner here than after its minute."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "30")
    with small_cluster(num_workers=1) as cluster:
        driver = start_driver(prepared.config, run, cluster=cluster)
        wait_for_parts(driver, run / "candidates", random_part(prepared, random.Random(SEED + 3), "candidates"))
        cluster.head_node.kill_gcs_server()
        output = driver.communicate(timeout=200)[0]
    assert driver.returncode != 0
    assert "the same command goes on from there, on another cluster too" in output
    assert not (run / "candidates" / "manifest.json").exists()
    monkeypatch.delenv("RAY_gcs_rpc_server_reconnect_timeout_s")
    with small_cluster(num_workers=1) as cluster:
        finish(start_driver(prepared.config, run, cluster=cluster))
    check_equals_undisturbed(run, prepared)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_more_space_lets_it_go_on(
    prepared: Prepared, tmp_path: Path, small_disk: Path
) -> None:
    run = Path(shutil.copytree(prepared.begun, small_disk / "run"))
    driver = start_driver(prepared.config, run)
    output = driver.communicate(timeout=400)[0]
    assert driver.returncode == 1
    assert "ResourceError: no space left for" in output
    assert 0 < len(parts(run / "candidates")) < len(parts(prepared.undisturbed / "candidates"))
    assert list((run / "candidates").glob(".part-*")) == [], "nothing half-written stays"
    assert not (run / "candidates" / "manifest.json").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    finish(start_driver(prepared.config, run))
    check_equals_undisturbed(run, prepared)


@pytest.fixture
def small_disk(tmp_path: Path, prepared: Prepared) -> Iterator[Path]:
    """A disk that holds half of the candidates."""
    folder = tmp_path / "disk"
    folder.mkdir()
    needed = sum(path.stat().st_size for path in prepared.undisturbed.rglob("*") if path.is_file())
    generated = sum(len(data) for data in parts(prepared.undisturbed / "candidates").values())
    size = needed - generated // 2
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("cannot mount a small disk: needs root, and a kernel that lets it mount tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_short_version_an_actor_and_the_driver_are_killed(few: Prepared, tmp_path: Path) -> None:
    rng = random.Random(SEED + 3)
    run = Path(shutil.copytree(few.begun, tmp_path / "run"))
    with small_cluster(num_workers=1) as cluster:
        driver = start_driver(few.config, run, cluster=cluster)
        wait_for_parts(driver, run / "candidates", 1)
        driver.kill()
        driver.wait()
        done = len(parts(run / "candidates"))
        driver = start_driver(few.config, run, cluster=cluster)
        wait_for_parts(driver, run / "candidates", done + 1)
        kill_actor(cluster, "Inpainter", rng)
        finish(driver)
    check_equals_undisturbed(run, few)
