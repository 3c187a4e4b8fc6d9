"""Scenes of three kinds of bird on three backgrounds: the benchmark for more than two classes and attributes.

As `raygen.datasets.scenes`, with an owl (upright, no neck, ear tufts) and snow beside. Each kind has a background where
15 of 16 of its training pictures are taken; validation and test are balanced.

The inpainting model and the segmenter that ship with raygen have seen two kinds and two backgrounds only: they paint no
owl and no snow that is one, and are not taken unless a config names them. What needs no model (DaC, fills, and every
algorithm) is at home here; what repaints birds shows that it runs, and nothing else.
"""

from typing import Annotated, Literal

from pydantic import Field

from raygen.datasets.scene_rendering import ATTRIBUTE_NAMES, CLASS_NAMES, OBJECT_WORDS, Plumage
from raygen.datasets.scenes import AnyScenesConfig, OpenScenes
from raygen.seeding import LEAST_SEED, MAX_SEED

Count = Annotated[int, Field(ge=0)]
# Kind after kind, and in each background after background.
Counts = tuple[Count, Count, Count, Count, Count, Count, Count, Count, Count]


class Scenes3Config(AnyScenesConfig):
    """What to render.

    Attributes:
        train_counts: Scenes per group in training: landbird on land, on water and on snow, waterbird on these, owl on
            these.
        val_counts: The same for validation.
        test_counts: The same for test.
        scale: All counts times this, rounded; a group that is not empty keeps at least one scene.
        plumage: "hinted": colours are class-typical a little more often; "independent": they say nothing.
        prompts: What to ask the inpainter for, per class; by default "a photo of a <class name>".
        seed: Seed of the draw, from -(2**63) to 2**64 - 1; by default the run's.
    """

    class_names = (*CLASS_NAMES, "owl")
    attribute_names = (*ATTRIBUTE_NAMES, "snow")
    object_words = (*OBJECT_WORDS, "bird")

    name: Literal["scenes3"] = "scenes3"
    train_counts: Counts = (1200, 40, 40, 40, 1200, 40, 40, 40, 1200)
    val_counts: Counts = (100, 100, 100, 100, 100, 100, 100, 100, 100)
    test_counts: Counts = (400, 400, 400, 400, 400, 400, 400, 400, 400)
    scale: float = Field(1.0, gt=0)
    plumage: Plumage = "hinted"
    prompts: tuple[str, ...] = ()
    seed: int | None = Field(None, ge=LEAST_SEED, le=MAX_SEED)


Config, Open = Scenes3Config, OpenScenes
