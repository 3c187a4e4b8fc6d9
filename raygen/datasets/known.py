"""How many images published datasets have in each group, to notice a copy that is not the one in the papers."""

from collections.abc import Mapping

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


def known_name(folder_name: str) -> str | None:
    """The published dataset that a folder's name speaks of, such as "waterbird_complete95_forest2water2"; or None."""
    plain = folder_name.lower().replace("_", "")
    return next((name for name in KNOWN if name.removesuffix("s") in plain), None)


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
