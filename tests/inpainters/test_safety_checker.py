"""A model's safety checker: what it blocks is a failed row and no picture."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from real_architectures import SD15_INPAINTING, highest_cosine, narrowed, save_architecture, set_threshold

from raygen.errors import BlockedError
from raygen.images import decode_image, encode_image, encode_mask
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from raygen.stages.inpaint import InpaintStage
from raygen.stages.spec import Batch, object_column

SIDE, NUM = 64, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose checker blocks nothing."""
    folder = save_architecture(narrowed(SD15_INPAINTING), tmp_path_factory.mktemp("models") / "sd15")
    return set_threshold(folder, 2.0)


def config(folder: Path, **options: object) -> InpainterConfig:
    return InpainterConfig.model_validate({"model": str(folder), "num_inference_steps": 2, **options})


def pictures() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    mask_HW = np.zeros((SIDE, SIDE), dtype=bool)
    mask_HW[16:48, 8:40] = True
    return [rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8) for _ in range(NUM)], [mask_HW] * NUM


def paint(folder: Path, **options: object) -> list[object]:
    inpainter = StableDiffusionInpainter(config(folder, **options), NUM, "cpu")
    return list(inpaint(inpainter, *pictures(), prompts=["a bird"] * NUM, seeds=range(NUM)))


def test_it_blocks_what_is_above_its_threshold(model: Path, tmp_path: Path) -> None:
    painted = paint(model, composite=False)
    cosines = [highest_cosine(model, np.asarray(result)) for result in painted]
    ranked = sorted(cosines)
    folder = set_threshold(shutil.copytree(model, tmp_path / "model"), (ranked[1] + ranked[2]) / 2)
    results = paint(folder, composite=False)
    assert [isinstance(result, BlockedError) for result in results] == [cosine > ranked[1] for cosine in cosines]
    for result, before in zip(results, painted, strict=True):
        assert isinstance(result, BlockedError) or np.array_equal(np.asarray(result), np.asarray(before))


def test_switched_off_it_blocks_nothing(model: Path, tmp_path: Path) -> None:
    folder = set_threshold(shutil.copytree(model, tmp_path / "model"), -2.0)
    assert all(isinstance(result, BlockedError) for result in paint(folder))
    allowed = paint(folder, safety_checker=False)
    assert np.array_equal(np.stack([np.asarray(x) for x in allowed]), np.stack([np.asarray(x) for x in paint(model)]))


def test_a_blocked_row_fails_with_a_reason_and_keeps_its_place(model: Path, tmp_path: Path) -> None:
    folder = set_threshold(shutil.copytree(model, tmp_path / "model"), -2.0)
    images, masks = pictures()
    batch: Batch = {
        "key": object_column([f"k{i}" for i in range(NUM)]),
        "image_id": object_column([f"i{i}" for i in range(NUM)]),
        "image_png": object_column([encode_image(image) for image in images]),
        "repaint_png": object_column([encode_mask(mask) for mask in masks]),
        "prompt": object_column(["a bird"] * NUM),
        "seed": np.arange(NUM),
        "status": object_column(["ok"] * NUM),
        "error": object_column([None] * NUM),
    }
    stage = InpaintStage(inpainter=config(folder).model_dump(), num_rows=NUM, device="cpu")
    out = stage(batch)
    assert list(out["status"]) == ["failed"] * NUM
    assert list(out["error"]) == ["blocked by the model's safety checker"] * NUM
    assert list(out["generated_png"]) == [None] * NUM
    allowing = InpaintStage(inpainter=config(model).model_dump(), num_rows=NUM, device="cpu")
    assert decode_image(allowing(batch)["generated_png"][0]).shape == (SIDE, SIDE, 3)
