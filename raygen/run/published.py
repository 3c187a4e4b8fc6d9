"""Settings behind published ResNet-50 numbers, as named presets DATASET:SOURCE of any recipe.

Each is what the authors' code of that source has for its ERM: the frame in which pictures are seen, augmentation,
optimizer, schedule, epochs, and what an epoch is selected by. An ERM here is then the ERM that a paper's gain is over;
rows of two sources differ in all of these, and may not be compared (docs/recipes.md). Where the source is a method that
fits all of a network and is the recipe's algorithm, its own fit is set too.
"""

from collections.abc import Mapping
from typing import Any

# torchvision's IMAGENET1K_V1, which all of them start from.
_NETWORK = {"architecture": "resnet50", "weights": "imagenet", "image_size_px": 224}
# Squashed to 256 x 256, the middle 224 x 224.
_SQUASH = {**_NETWORK, "framing": "resize_crop", "resize_px": 256}
# The middle 178 x 178 of CelebA's 178 x 218 px, brought to 224 x 224.
_MIDDLE = {**_NETWORK, "framing": "square_crop"}

_PLAIN = {"optimizer": "sgd", "schedule": "constant", "augment": "none"}
_VARIED = {"optimizer": "sgd", "schedule": "constant", "augment": "random_resized_crop", "select": "last"}
_BY_AVERAGE = {"select": "best", "select_by": "average"}
_BY_WORST = {"select": "best", "select_by": "auto"}


def _fit(rate: float, decay: float, batch: int, epochs: int) -> dict[str, Any]:
    return {"learning_rate": rate, "weight_decay": decay, "batch_size": batch, "epochs": epochs}


# (classifier, erm) by preset. The commits that they were read in: group_DRO cbbc1c5b, of which JTT's code is a copy;
# deep_feature_reweighting 9d8d5de7; nsf_debiasing, as spurious_feature_learning 1a25a2f5; AFR b34b6cd1; DaC 854537dc;
# DISC d9865a86; LISA c857a6b2; SubpopBench 4d3dbbe2.
_ERM: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "waterbirds:gdro": (_SQUASH, {**_PLAIN, **_BY_AVERAGE, **_fit(1e-3, 1e-4, 128, 300)}),
    "celeba:gdro": (_MIDDLE, {**_PLAIN, **_BY_AVERAGE, **_fit(1e-4, 1e-4, 128, 50)}),
    "waterbirds:jtt": (_SQUASH, {**_PLAIN, **_BY_AVERAGE, **_fit(1e-3, 1e-4, 128, 300)}),
    "celeba:jtt": (_MIDDLE, {**_PLAIN, **_BY_AVERAGE, **_fit(1e-4, 1e-4, 128, 50)}),
    "waterbirds:dfr": (_SQUASH, {**_VARIED, **_fit(1e-3, 1e-3, 32, 100)}),
    "celeba:dfr": (_SQUASH, {**_VARIED, **_fit(1e-3, 1e-4, 128, 50)}),
    "waterbirds:nsf": (_SQUASH, {**_VARIED, "schedule": "cosine", **_fit(3e-3, 1e-4, 32, 100)}),
    "celeba:nsf": (_SQUASH, {**_VARIED, "schedule": "cosine", **_fit(3e-3, 1e-4, 100, 20)}),
    "waterbirds:afr": (_SQUASH, {**_VARIED, **_fit(3e-3, 1e-4, 32, 50)}),
    # Theirs ends at a hundredth of the rate, ours at 0.
    "celeba:afr": (_SQUASH, {**_VARIED, "schedule": "cosine", **_fit(3e-3, 1e-4, 100, 20)}),
    "waterbirds:dac": (_SQUASH, {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-3, 128, 100)}),
    "metashift:dac": (_SQUASH, {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-3, 128, 100)}),
    "waterbirds:disc": (_SQUASH, {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-4, 32, 300)}),
    "metashift:disc": (_SQUASH, {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-4, 16, 100)}),
    # Batches of 16 a group: 64 where there are four.
    "waterbirds:lisa": (_SQUASH, {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-4, 64, 300)}),
    "celeba:lisa": (_MIDDLE, {**_PLAIN, **_BY_WORST, **_fit(1e-4, 1e-4, 64, 50)}),
    "metashift:lisa": (_SQUASH, {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-4, 64, 300)}),
    # 5001 and 30001 steps of 108, the middle of what they search; of their several selections the worst group's.
    "waterbirds:subpopbench": (_SQUASH, {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-4, 108, 113)}),
    "celeba:subpopbench": (_MIDDLE, {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-4, 108, 20)}),
}

# What else is set where the recipe's algorithm is that source's: (algorithm, its fields).
_ALGORITHM: dict[str, tuple[str, Mapping[str, Any]]] = {
    # The strong weight decay of their best numbers.
    "waterbirds:gdro": ("group_dro", {**_PLAIN, **_BY_WORST, **_fit(1e-5, 1.0, 128, 300)}),
    "celeba:gdro": ("group_dro", {**_PLAIN, **_BY_WORST, **_fit(1e-5, 0.1, 128, 50)}),
    "waterbirds:jtt": (
        "jtt",
        {**_PLAIN, **_BY_WORST, **_fit(1e-5, 1.0, 64, 300), "identification_epochs": 60, "up_weight": 100},
    ),
    "celeba:jtt": (
        "jtt",
        {**_PLAIN, **_BY_WORST, **_fit(1e-5, 0.1, 64, 50), "identification_epochs": 1, "up_weight": 50},
    ),
    "waterbirds:lisa": ("lisa", {**_PLAIN, **_BY_WORST, **_fit(1e-3, 1e-4, 64, 300), "operation": "mixup"}),
    "celeba:lisa": ("lisa", {**_PLAIN, **_BY_WORST, **_fit(1e-4, 1e-4, 64, 50), "operation": "cutmix"}),
}


def published_presets() -> list[str]:
    """Their names."""
    return sorted(_ERM)


def published_fields(preset: str, algorithm: str) -> dict[str, Any]:
    """What one of them sets: values by the field's path in a run's config.

    Args:
        preset: Its name, one of `published_presets`.
        algorithm: The recipe's algorithm.
    """
    classifier, erm = _ERM[preset]
    fields = {f"classifier.{name}": value for name, value in classifier.items()}
    fields |= {f"erm.{name}": value for name, value in erm.items()}
    of, own = _ALGORITHM.get(preset, ("", {}))
    if of == algorithm:
        fields |= {f"algorithm.{name}": value for name, value in own.items()}
    return fields
