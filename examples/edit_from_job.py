"""Repaint many pictures from a job on the endpoint's own cluster: arrays instead of PNG, no HTTP.

raygen serve &                       # or: serve deploy serve/config.yaml
RAY_ADDRESS=auto python examples/edit_from_job.py
"""

import numpy as np
import ray
from ray import serve

from raygen.datasets.scene_rendering import render_scene
from raygen.maskers.truth import dilate
from serve.client import Client

NUM_SCENES = 16


def main() -> None:
    """Prints what came of each picture."""
    ray.init(log_to_driver=False)
    client = Client(serve.get_deployment_handle("engine", "raygen"))
    scenes = {f"scene-{i}": render_scene(i, label=1, attribute=1) for i in range(NUM_SCENES)}
    masks = {key: dilate(scene.object_HW | scene.counterpart_HW, radius_px=6) for key, scene in scenes.items()}
    requests = (
        {"key": key, "image": scene.image_HWC, "mask": masks[key], "prompt": "a photo of a landbird", "seed": i}
        for i, (key, scene) in enumerate(scenes.items())
    )
    for edit in client.map(requests):
        (picture_HWC,) = edit.images
        is_kept = np.array_equal(picture_HWC[~masks[edit.key]], scenes[edit.key].image_HWC[~masks[edit.key]])
        print(
            f"{edit.key}: seed {edit.seeds[0]}, {edit.timings['generation_s']:.2f} s, outside the mask equal: {is_kept}"
        )


if __name__ == "__main__":
    main()
