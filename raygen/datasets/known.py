"""What is known of published datasets: images in each group, to notice a copy that is not the papers', and names."""

from collections.abc import Mapping
from dataclasses import dataclass

# Images by split and (label, attribute); attribute None: over all attributes.
GroupCounts = Mapping[str, Mapping[tuple[int, int | None], int]]


def _four(landland: int, landwater: int, waterland: int, waterwater: int) -> dict[tuple[int, int | None], int]:
    return {(0, 0): landland, (0, 1): landwater, (1, 0): waterland, (1, 1): waterwater}


KNOWN: dict[str, GroupCounts] = {
    # Sagawa et al. 2020 (arXiv 1911.08731), waterbird_complete95_forest2water2: landbird or waterbird, land or water.
    "waterbirds": {
        "train": _four(3498, 184, 56, 1057),
        "val": _four(467, 466, 133, 133),
        "test": _four(2255, 2255, 642, 642),
    },
    # The same paper's CelebA: non-blond or blond, female or male.
    "celeba": {
        "train": _four(71629, 66874, 22880, 1387),
        "val": _four(8535, 8276, 2874, 182),
        "test": _four(9767, 7535, 2480, 180),
    },
    # DISC's cat and dog subset of MetaShift (Wu et al. 2023): only classes, since its splits name attributes otherwise.
    "metashift": {
        "train": {(0, None): 611, (1, None): 512},
        "val": {(0, None): 34, (1, None): 47},
        "test": {(0, None): 201, (1, None): 259},
    },
}


# What the papers call the objects of a published dataset when they look for them (DBB, arXiv 2503.17226).
OBJECT_WORDS = {"waterbirds": "bird", "celeba": "hair", "metashift": "animal"}


@dataclass(frozen=True, slots=True)
class Names:
    """What the labels and attributes of a published metadata.csv stand for; it has numbers only.

    Attributes:
        class_names: One per label.
        attribute_names: One per attribute value.
        prompts: What to ask the inpainter for, one per label; empty: by the class names.
    """

    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]
    prompts: tuple[str, ...] = ()


# Of group_DRO's scripts, as numbered in `KNOWN`. (MetaShift is published as folders, whose names are the classes'.)
NAMES = {
    "waterbirds": Names(("landbird", "waterbird"), ("land", "water")),
    "celeba": Names(
        ("non-blond", "blond"),
        ("female", "male"),
        ("a photo of a person with dark hair", "a photo of a person with blond hair"),
    ),
}


def known_name(folder_name: str) -> str | None:
    """The published dataset that a folder's name speaks of, such as "waterbird_complete95_forest2water2"; or None."""
    plain = folder_name.lower().replace("_", "")
    return next((name for name in KNOWN if name.removesuffix("s") in plain), None)


def known_names(folder_name: str, *, num_classes: int, num_attributes: int) -> Names | None:
    """Names for a folder of pictures of a published dataset; None if it is none, or has other classes or attributes."""
    names = NAMES.get(known_name(folder_name) or "")
    if names is None or num_classes != len(names.class_names) or num_attributes > len(names.attribute_names):
        return None
    return names


def object_words(folder_name: str, class_names: tuple[str, ...]) -> tuple[str, ...]:
    """What to call the objects of a folder of pictures, one word per class."""
    name = known_name(folder_name)
    return class_names if name is None else (OBJECT_WORDS[name],) * len(class_names)


def differences(expected: GroupCounts, found: Mapping[tuple[str, int, int | None], int]) -> list[str]:
    """One line for each group whose number of images is another than published.

    Args:
        expected: One of `KNOWN`.
        found: Images by split, label and attribute.
    """
    lines = []
    for split, groups in expected.items():
        for (label, attribute), num in groups.items():
            here = sum(
                count for (s, y, a), count in found.items() if s == split and y == label and attribute in (None, a)
            )
            if here != num:
                group = f"label {label}" + ("" if attribute is None else f", attribute {attribute}")
                lines.append(f"{split}: {group} has {here} images, the published dataset {num}")
    return lines
