"""The inpainting model inside the package: small, honest about its pixels, and it paints what it is asked for."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygen.datasets.scene_rendering import CLASS_NAMES, render_scene
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.model_folder import TINY_FOLDER
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from raygen.maskers.truth import dilate
from raygen.model_files import find_model

MAX_BYTES = 12_000_000
NUM_SCENES = 12


@pytest.fixture(scope="module")
def painted() -> dict[str, np.ndarray]:
    """Scenes repainted as landbirds and as waterbirds, with the same masks and seeds."""
    scenes = [render_scene(10_000 + i, label=i % 2, attribute=i // 2 % 2) for i in range(NUM_SCENES)]
    masks = [dilate(scene.object_HW | scene.counterpart_HW, radius_px=8) for scene in scenes]
    inpainter = StableDiffusionInpainter(InpainterConfig(), num_rows=NUM_SCENES, device="cpu")
    images = [scene.image_HWC for scene in scenes]
    result = {"source": np.stack(images), "mask": np.stack(masks)}
    for name in CLASS_NAMES:
        prompts = [f"a photo of a {name}"] * NUM_SCENES
        found = inpaint(inpainter, images, masks, prompts=prompts, seeds=list(range(NUM_SCENES)))
        result[name] = np.stack([picture for picture in found if isinstance(picture, np.ndarray)])
    result["silhouettes"] = np.stack(
        [[s.object_HW, s.counterpart_HW][:: 1 if i % 2 == 0 else -1] for i, s in enumerate(scenes)]
    )
    return result


def test_it_is_small_and_complete() -> None:
    files = [path for path in Path(find_model("tiny", tiny=TINY_FOLDER).name).rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"model_index.json", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".ckpt"))]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES


def test_it_keeps_every_pixel_outside_the_mask(painted: dict[str, np.ndarray]) -> None:
    outside = ~painted["mask"]
    for name in CLASS_NAMES:
        assert (painted[name][outside] == painted["source"][outside]).all()


def test_it_paints_the_shape_that_the_prompt_names(painted: dict[str, np.ndarray]) -> None:
    # Where only the waterbird's silhouette is (its neck), or only the landbird's (its tail), the two pictures must
    # differ more than inside both bodies' surroundings: there the prompt decides between bird and background.
    land, water = (painted[name].astype(float) for name in CLASS_NAMES)
    difference = np.abs(land - water).mean(axis=-1)
    silhouettes = painted["silhouettes"]
    only_one = silhouettes[:, 0] ^ silhouettes[:, 1]
    neither = painted["mask"] & ~silhouettes.any(axis=1)
    assert difference[only_one].mean() > 2 * difference[neither].mean()


def test_the_example_repaints_one_picture(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "repaint_one.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "bird.png")], check=True, timeout=120)
    image = np.asarray(Image.open(tmp_path / "bird.png"))
    assert image.shape == (256, 512, 3)
    assert (image[:, :256] != image[:, 256:]).any()
