"""Whole runs with models built as Stable Diffusion 1.5 and 2 are: narrowed quickly, of the true size slowly."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from real_architectures import (
    SD2_INPAINTING,
    SD15,
    SD15_INPAINTING,
    Architecture,
    highest_cosine,
    narrowed,
    save_architecture,
    set_threshold,
)
from typer.testing import CliRunner

from raygen import recipes
from raygen.cli import app
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError, ModelError, TooManyFailedRowsError
from raygen.images import decode_image, decode_mask
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from raygen.run.opened import Opened
from raygen.run.preflight import check
from raygen.storage.parts import read_parts

GIB = 2**30
NEEDED_GIB = 12


def config(model: Path, *overrides: str, k: int = 2) -> recipes.RunConfig:
    pools = {name: {"num_cpus": 0.25, "batch_size": 2} for name in ("scorer", "masker", "inpainter", "pruner")}
    pools["inpainter"]["actors"] = 1
    counts = {"train_counts": [30, 3, 3, 15], "val_counts": [5] * 4, "test_counts": [5] * 4}
    data: dict[str, Any] = {
        "recipe": "dbb",
        "dataset": {"name": "scenes", **counts},
        "erm": {"epochs": 1},
        "synthesis": {"k": k, "prune": False},
        "algorithm": {"epochs": 1},
        "inpainter": {"model": str(model), "num_inference_steps": 2, "guidance_scale": 7.5},
        "pools": pools,
        "fit": {"num_cpus": 1},
        "controls": [],
        "unit_rows": 2,
    }
    return recipes.make_config(data, list(overrides), where="test")


def run(settings: recipes.RunConfig, out: Path) -> pa.Table:
    recipes.run(settings, out, fresh=False, command="test", say=lambda line: None)
    return read_parts(out / "candidates")


def check_candidates(out: Path, *, num: int) -> None:
    """Every candidate has a picture, equal to its source outside the mask and changed inside."""
    index = RowIndex(out / "data")
    rows = read_parts(out / "candidates").to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * num
    for row in rows:
        source_HWC = decode_image(index.fetch([row["image_id"]], ["image_png"])["image_png"][0].as_py())
        repaint_HW, generated_HWC = decode_mask(row["repaint_png"]), decode_image(row["generated_png"])
        assert np.array_equal(generated_HWC[~repaint_HW], source_HWC[~repaint_HW])
        assert not np.array_equal(generated_HWC[repaint_HW], source_HWC[repaint_HW])


@pytest.mark.parametrize("model", [SD2_INPAINTING, SD15, SD15_INPAINTING], ids=["sd2_9", "sd15_4", "sd15_9"])
def test_a_narrowed_model_goes_through_the_whole_run(model: Architecture, tmp_path: Path) -> None:
    folder = save_architecture(narrowed(model), tmp_path / "model")
    settings = config(folder, "engine=local")
    run(settings, tmp_path / "run")
    check_candidates(tmp_path / "run", num=4)
    counts = json.loads((tmp_path / "run" / "fit" / "dbb" / "manifest.json").read_text())["counts"]
    assert counts["extra"] == 4


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_pools_of_ray_paint_the_same_from_a_variant_in_half_precision(tmp_path: Path) -> None:
    folder = save_architecture(
        narrowed(SD15_INPAINTING), tmp_path / "model", dtype=torch.float16, variant="fp16", max_shard_size="8MB"
    )
    options = ["inpainter.variant=fp16", "inpainter.dtype=bfloat16"]
    ray = run(config(folder, *options), tmp_path / "ray")
    check_candidates(tmp_path / "ray", num=4)
    assert ray.equals(run(config(folder, *options, "engine=local"), tmp_path / "local"))
    with pytest.raises(ModelError, match=r"Set inpainter\.variant=fp16"):
        check(Opened(config(folder, "engine=local")))


def test_what_the_safety_checker_blocks_is_never_trained_on(tmp_path: Path) -> None:
    """The threshold is put between the pictures of a first run, whose pixels are the decoded ones."""
    folder = set_threshold(save_architecture(narrowed(SD15_INPAINTING), tmp_path / "model"), 2.0)
    whole_pictures = ["inpainter.composite=false", "synthesis.attribution=ig", "synthesis.num_steps=2"]
    options = ["engine=local", "max_failed_fraction=1.0", *whole_pictures]
    allowed = run(config(folder, *options), tmp_path / "allowed")
    pictures = [decode_image(data) for data in allowed["generated_png"].to_pylist()]
    cosines = [highest_cosine(folder, picture_HWC) for picture_HWC in pictures]
    middle = sum(sorted(cosines)[1:3]) / 2
    strict = set_threshold(shutil.copytree(folder, tmp_path / "strict"), middle)

    table = run(config(strict, *options), tmp_path / "blocked")
    reason = "blocked by the model's safety checker"
    assert table["error"].to_pylist() == [reason if cosine > middle else None for cosine in cosines]
    assert [data is None for data in table["generated_png"].to_pylist()] == [cosine > middle for cosine in cosines]
    fitted = json.loads((tmp_path / "blocked" / "fit" / "dbb" / "manifest.json").read_text())
    assert fitted["counts"]["extra"] == 2


@pytest.mark.slow
def test_a_run_whose_pictures_are_all_blocked_stops_with_the_reason(tmp_path: Path) -> None:
    folder = set_threshold(save_architecture(narrowed(SD15_INPAINTING), tmp_path / "model"), -2.0)
    with pytest.raises(TooManyFailedRowsError, match="blocked by the model's safety checker"):
        run(config(folder, "engine=local"), tmp_path / "stopped")
    with pytest.raises(DataError, match=r"all 4 pictures to generate failed[^:]*:\n  4 x blocked by the model's"):
        run(config(folder, "engine=local", "max_failed_fraction=1.0"), tmp_path / "nothing")
    run(config(folder, "engine=local", "inpainter.safety_checker=false"), tmp_path / "off")
    check_candidates(tmp_path / "off", num=4)


@pytest.fixture
def true_size(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A model as published (the parameter), with random weights."""
    free_gib, disk_gib = psutil.virtual_memory().available / GIB, shutil.disk_usage(tmp_path).free / GIB
    if min(free_gib, disk_gib) < NEEDED_GIB:
        pytest.skip(f"needs {NEEDED_GIB} GiB of memory and disk; {free_gib:.0f} and {disk_gib:.0f} are free")
    folder = save_architecture(request.param, tmp_path / "model", dtype=torch.bfloat16)
    yield folder
    shutil.rmtree(folder)  # gigabytes: pytest keeps the folders of three sessions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("true_size", "num_parameters"),
    # UNet, autoencoder, text encoder; with 1.5 the safety checker.
    [(SD2_INPAINTING, 1290e6), (SD15, 1370e6), (SD15_INPAINTING, 1370e6)],
    ids=["sd2_9", "sd15_4", "sd15_9"],
    indirect=["true_size"],
)
def test_a_model_of_the_true_size_goes_through_the_command(
    true_size: Path, num_parameters: float, tmp_path: Path
) -> None:
    """The published configuration; pictures of 128 px."""
    num_bytes = sum(path.stat().st_size for path in true_size.rglob("*.safetensors"))
    assert num_bytes == pytest.approx(2 * num_parameters, rel=0.01)
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config(true_size, "inpainter.resolution_px=128", k=1).model_dump(mode="json")))
    start = time.monotonic()
    result = CliRunner().invoke(app, ["run", "--config", str(path), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    print(f"run: {time.monotonic() - start:.0f} s")
    check_candidates(tmp_path / "run", num=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("true_size", [SD2_INPAINTING], ids=["sd2_9"], indirect=True)
def test_a_batch_of_the_true_size_on_a_gpu(true_size: Path) -> None:
    """Pictures of 512 px in bfloat16; prints what it took."""
    num, side = 4, 512
    settings = InpainterConfig(
        model=str(true_size), dtype="bfloat16", num_inference_steps=20, guidance_scale=7.5, composite=True
    )
    model = StableDiffusionInpainter(settings, num, "cuda")
    assert model.resolution_px == side
    images = list(np.random.default_rng(0).integers(256, size=(num, side, side, 3), dtype=np.uint8))
    mask_HW = np.zeros((side, side), dtype=bool)
    mask_HW[128:384, 64:320] = True
    torch.cuda.reset_peak_memory_stats()
    start = time.monotonic()
    painted = inpaint(model, images, [mask_HW] * num, prompts=["a photo of a landbird"] * num, seeds=range(num))
    seconds, peak = time.monotonic() - start, torch.cuda.max_memory_allocated() / GIB
    print(f"{torch.cuda.get_device_name()}: {num} pictures in {seconds:.1f} s, peak {peak:.1f} GiB")
    for image_HWC, result in zip(images, painted, strict=True):
        assert isinstance(result, np.ndarray), result
        assert np.array_equal(result[~mask_HW], image_HWC[~mask_HW])
