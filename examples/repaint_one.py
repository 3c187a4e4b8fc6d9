"""Repaint the bird of one scene as the other kind, with the model that ships with the package.

    python examples/repaint_one.py bird.png

Any other picture, repaint mask (True = painted anew) and inpainting model work the same way.
"""

import sys

import numpy as np
from PIL import Image

from raygen.datasets.scene_rendering import render_scene
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from raygen.maskers.truth import dilate


def main(path: str) -> None:
    """Writes the scene and the repainted scene side by side."""
    scene = render_scene(7, label=1, attribute=1)
    repaint_HW = dilate(scene.object_HW | scene.counterpart_HW, radius_px=6)
    inpainter = StableDiffusionInpainter(InpainterConfig(model="tiny"), num_rows=1, device="cpu")
    prompts = ["a photo of a landbird"]
    (painted,) = inpaint(inpainter, [scene.image_HWC], [repaint_HW], prompts=prompts, seeds=[0])
    if isinstance(painted, Exception):
        sys.exit(f"the picture was not painted: {painted}")
    assert (painted[~repaint_HW] == scene.image_HWC[~repaint_HW]).all(), "pixels outside the mask are never touched"
    Image.fromarray(np.hstack([scene.image_HWC, painted])).resize((512, 256), Image.Resampling.NEAREST).save(path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"give the picture to write: python {sys.argv[0]} bird.png")
    main(sys.argv[1])
