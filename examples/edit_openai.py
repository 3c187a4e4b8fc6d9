"""Repaint a rendered bird through the unchanged `openai` client (pip install openai).

raygen serve &
python examples/edit_openai.py bird.png
"""

import base64
import io
import os
import sys
from urllib.parse import urlsplit

import numpy as np
from openai import APIConnectionError, APIStatusError, DefaultHttpxClient, OpenAI
from PIL import Image

from raygen.datasets.scene_rendering import render_scene
from raygen.maskers.truth import dilate

NUM_PICTURES = 3
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def main(path: str) -> None:
    """Writes the scene and three repainted ones side by side."""
    scene = render_scene(7, label=1, attribute=1)
    repaint_HW = dilate(scene.object_HW | scene.counterpart_HW, radius_px=6)
    # OpenAI's meaning of a mask: what is transparent is painted anew.
    mask = Image.fromarray(np.where(repaint_HW, 0, 255).astype(np.uint8))
    mask_rgba = Image.merge("RGBA", (mask, mask, mask, mask))

    url = os.environ.get("RAYGEN_URL", "http://127.0.0.1:8000").rstrip("/")
    # A proxy of the environment does not lead back to this machine.
    http_client = DefaultHttpxClient(trust_env=False) if urlsplit(url).hostname in LOOPBACK else None
    client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("RAYGEN_API_KEY", "none"), http_client=http_client)
    try:
        result = client.images.edit(
            image=png(Image.fromarray(scene.image_HWC)),
            mask=png(mask_rgba),
            prompt="a photo of a landbird",
            n=NUM_PICTURES,
            extra_body={"seed": 7},
        )
    except APIConnectionError:
        sys.exit(f"no endpoint answers at {url}; start one with `raygen serve`, or set RAYGEN_URL")
    except APIStatusError as error:
        sys.exit(f"{url} answered {error.status_code}: {error.message}")
    pictures = [scene.image_HWC]
    for painted in result.data or []:
        picture_HWC = np.asarray(Image.open(io.BytesIO(base64.b64decode(painted.b64_json or ""))))
        outside = np.abs(picture_HWC.astype(int) - scene.image_HWC)[~repaint_HW].max()
        print(f"seed {getattr(painted, 'seed', None)}: largest difference outside the mask {outside}")
        pictures.append(picture_HWC)
    strip = Image.fromarray(np.hstack(pictures))
    strip.resize((strip.width * 4, strip.height * 4), Image.Resampling.NEAREST).save(path)


def png(image: Image.Image) -> bytes:
    """A picture's bytes."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"give the picture to write: python {sys.argv[0]} bird.png")
    main(sys.argv[1])
