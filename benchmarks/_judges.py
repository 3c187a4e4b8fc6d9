"""Judges of painted birds, which no fit sees: the shape oracle of the tiny model's card, and one of the body's colours.

A scene's body has one of eight colour families, four of them typical of its kind. Which it is, is drawn; a random
forest learns to tell it from the pixels where a bird of either kind would have its body, so that it works on a painted
bird too.
"""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage
from sklearn.ensemble import RandomForestClassifier

from raygen.datasets.scene_rendering import FAMILIES, TYPICAL_FAMILIES, Scene, render_scene
from raygen.images import decode_image
from raygen.seeding import row_seed
from raygen.storage.parts import read_parts
from raygen.tiny.oracle import ORACLES, load_oracle, predict
from raygen.tiny.processes import Start
from raygen.tiny.train import make_oracles

# N pictures, H height, W width, C colour channels

NUM_SCENES, NUM_HELD_OUT = 1_600, 400
# A forest that tells fewer families than this has read other draws than those that coloured the birds.
LEAST_ACCURACY = 0.9


class Judged(NamedTuple):
    """What the judges see, (N,) bool each.

    Attributes:
        typical_N: Whether the body's colour family is typical of the class asked for.
        right_shape_N: Whether the shape oracle sees the class asked for.
    """

    typical_N: np.ndarray
    right_shape_N: np.ndarray


class Judges:
    """Both judges.

    Args:
        oracles: Folder of the shape oracle; trained there where it is not.
    """

    def __init__(self, oracles: Path) -> None:
        if not all((oracles / f"oracle_{name}.safetensors").is_file() for name in ORACLES):
            make_oracles(oracles, Start(oracles, num_processes=2, device="cpu"), seed=0)
        self._shape = load_oracle(oracles, "shape")

    def judge(self, candidates: Path, ok_N: np.ndarray, *, seed: int, file: Path) -> Judged:
        """Verdicts on the pictures of a finished pass of scenes.

        Args:
            candidates: Its folder.
            ok_N: Which of its rows to judge.
            seed: Of the dataset.
            file: Where the verdicts are kept.
        """
        if file.is_file():
            kept = np.load(file)
            return Judged(kept["typical_N"], kept["right_shape_N"])
        rows = read_parts(candidates, columns=["image_id", "target_label", "generated_png"]).filter(ok_N)
        target_N, pictures = rows["target_label"].to_numpy(), rows["generated_png"].to_pylist()
        typical_N = colour_of_scenes(rows["image_id"].to_pylist(), pictures, target_N, seed=seed)
        seen_N = predict(self._shape, np.stack([decode_image(data) for data in pictures]))
        judged = Judged(typical_N, seen_N == target_N)
        np.savez(file, **judged._asdict())
        return judged


def colour_of_scenes(image_ids: list[str], pictures: list[bytes], label_N: np.ndarray, *, seed: int) -> np.ndarray:
    """Whether each bird's body has a colour typical of a class, (N,) bool.

    Args:
        image_ids: Of the scenes that the pictures are of, or were painted from: the body's place is theirs.
        pictures: Encoded.
        label_N: The classes.
        seed: Of the dataset.
    """
    features = []
    for image_id, data in zip(image_ids, pictures, strict=True):
        split, _, index = image_id.rpartition("-")
        # Silhouettes depend on the seed alone.
        scene = render_scene(row_seed(seed, f"scenes/{split}/{int(index)}"), label=0, attribute=0)
        features.append(_features(decode_image(data), _body(scene)))
    families = np.array(list(FAMILIES))[forest().predict(np.array(features))]
    return np.array([family in TYPICAL_FAMILIES[label] for family, label in zip(families, label_N, strict=True)])


@cache
def forest() -> RandomForestClassifier:
    """The judge of colours."""
    features, families = [], []
    for i in range(NUM_SCENES + NUM_HELD_OUT):
        seed, label = row_seed(0, f"judge/{i}"), i % 2
        scene = render_scene(seed, label=label, attribute=i // 2 % 2, plumage="independent")
        features.append(_features(scene.image_HWC, _body(scene)))
        # The first number that a bird's own generator draws is the family of its body.
        families.append(int(np.random.default_rng([seed, 2 + label]).integers(len(FAMILIES))))
    model = RandomForestClassifier(100, random_state=0).fit(features[:NUM_SCENES], families[:NUM_SCENES])
    accuracy = model.score(features[NUM_SCENES:], families[NUM_SCENES:])
    print(f"judge of colours: {accuracy:.1%} of {NUM_HELD_OUT} held-out families", flush=True)
    assert accuracy >= LEAST_ACCURACY, "the judge of colours does not know the families that scenes are drawn with"
    return model


def _body(scene: Scene) -> np.ndarray:
    """Where a bird of either kind has its body, (H, W) bool."""
    both_HW = scene.object_HW & scene.counterpart_HW
    inner_HW = ndimage.binary_erosion(both_HW, iterations=2)
    return inner_HW if inner_HW.any() else both_HW


def _features(image_HWC: np.ndarray, body_HW: np.ndarray) -> np.ndarray:
    """Mean, median and quartiles of the body's colours, (12,)."""
    pixels_NC = image_HWC[body_HW].astype(float)
    return np.concatenate([pixels_NC.mean(0), *np.percentile(pixels_NC, (25, 50, 75), axis=0)])
