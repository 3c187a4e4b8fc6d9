"""Repaint many pictures from a job on the endpoint's own cluster: arrays instead of PNG, no HTTP.

ray start --head
RAY_ADDRESS=auto raygen serve &      # or: serve deploy serve/config.yaml
RAY_ADDRESS=auto python examples/edit_from_job.py
"""

import os
import sys

import numpy as np
from ray import serve

from raygen import cluster
from raygen.datasets.scene_rendering import render_scene
from raygen.errors import EndpointError, RaygenError
from raygen.maskers.truth import dilate
from serve.client import Client

NUM_SCENES = 16


def main() -> None:
    """Prints what came of each picture."""
    if "RAY_ADDRESS" not in os.environ:
        sys.exit("set RAY_ADDRESS to the endpoint's cluster, such as RAY_ADDRESS=auto for the one of this machine")
    try:
        cluster.connect()
    except RaygenError as error:
        sys.exit(str(error))
    if "raygen" not in serve.status().applications:
        sys.exit("no endpoint runs on this cluster; start one there with `raygen serve` or `serve deploy`")
    client = Client(serve.get_deployment_handle("engine", "raygen"))
    scenes = {f"scene-{i}": render_scene(i, label=1, attribute=1) for i in range(NUM_SCENES)}
    masks = {key: dilate(scene.object_HW | scene.counterpart_HW, radius_px=6) for key, scene in scenes.items()}
    requests = (
        {"key": key, "image": scene.image_HWC, "mask": masks[key], "prompt": "a photo of a landbird", "seed": i}
        for i, (key, scene) in enumerate(scenes.items())
    )
    try:
        for edit in client.map(requests):
            (picture_HWC,) = edit.images
            key = str(edit.key)
            is_kept = np.array_equal(picture_HWC[~masks[key]], scenes[key].image_HWC[~masks[key]])
            seconds = edit.timings["generation_s"]
            print(f"{key}: seed {edit.seeds[0]}, {seconds:.2f} s, outside the mask equal: {is_kept}")
    except EndpointError as error:
        sys.exit(f"the endpoint refused ({error.code}): {error}")


if __name__ == "__main__":
    main()
