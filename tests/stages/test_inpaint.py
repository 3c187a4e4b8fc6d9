"""The inpainter's stage when memory does not hold the configured rows. The model is real, the shortage is made."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_pipelines import save_pipeline
from torch.nn.modules.module import register_module_forward_pre_hook

from raygen.errors import ResourceError
from raygen.images import encode_image, encode_mask
from raygen.stages.inpaint import InpaintStage
from raygen.stages.spec import Batch, object_column

SIDE, ROWS = 32, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model"))


def batch() -> Batch:
    rng = np.random.default_rng(0)
    repaint_HW = np.zeros((SIDE, SIDE), dtype=bool)
    repaint_HW[8:24, 8:24] = True
    pictures = [encode_image(rng.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(ROWS)]
    return {
        "key": object_column([f"k{i}" for i in range(ROWS)]),
        "image_id": object_column([f"i{i}" for i in range(ROWS)]),
        "image_png": object_column(pictures),
        "repaint_png": object_column([encode_mask(repaint_HW)] * ROWS),
        "prompt": object_column(["a bird"] * ROWS),
        "seed": np.arange(ROWS),
        "status": object_column(["ok"] * ROWS),
        "error": object_column([None] * ROWS),
    }


@contextmanager
def short_of_memory(model: Path, *, most_rows: int, **options: Any) -> Iterator[InpaintStage]:
    """A stage whose UNet takes at most `most_rows` rows, as on a GPU that is too small."""
    config = {"model": str(model), "num_inference_steps": 2, "guidance_scale": 1.0, **options}

    def refuse(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, UNet2DConditionModel) and len(inputs[0]) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory (made by a test)")

    with register_module_forward_pre_hook(refuse):
        yield InpaintStage(inpainter=config, num_rows=ROWS, device="cpu")


@pytest.mark.parametrize("most_rows", [1, 2, 3, 5])
def test_the_largest_row_count_that_fits_is_the_advice(model: Path, most_rows: int) -> None:
    advice = rf"6 rows per UNet call; {most_rows} fit\. .*batch_size={most_rows}"
    with short_of_memory(model, most_rows=most_rows) as stage, pytest.raises(ResourceError, match=advice):
        stage(batch())


def test_not_even_one_row_is_its_own_advice(model: Path) -> None:
    with short_of_memory(model, most_rows=0) as stage, pytest.raises(ResourceError, match="even with one row"):
        stage(batch())


def test_reduce_goes_on_with_what_fits_and_says_so(model: Path) -> None:
    with short_of_memory(model, most_rows=4, on_out_of_memory="reduce") as stage:
        result = stage(batch())
    assert set(result["unet_rows"].tolist()) == {4}
    assert all(picture is not None for picture in result["generated_png"])
    config = {"model": str(model), "num_inference_steps": 2, "guidance_scale": 1.0}
    # A stage that was configured with four rows paints the same six pictures.
    expected = InpaintStage(inpainter=config, num_rows=4, device="cpu")(batch())
    assert result["generated_png"].tolist() == expected["generated_png"].tolist()


def test_enough_memory_changes_nothing(model: Path) -> None:
    with short_of_memory(model, most_rows=ROWS) as stage:
        assert set(stage(batch())["unet_rows"].tolist()) == {ROWS}
