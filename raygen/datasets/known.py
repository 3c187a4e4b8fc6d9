"""What is known of published datasets: images in each group, to notice a copy that is not the papers', and names."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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

# Names of the classes, by which a folder of classes is told.
CLASS_NAMES = {"waterbirds": ("landbird", "waterbird"), "celeba": ("non-blond", "blond"), "metashift": ("cat", "dog")}
# Columns that group_DRO's metadata.csv of Waterbirds has and other tables do not: the file of the pasted background.
COLUMNS = {"waterbirds": ("img_filename", "y", "split", "place", "place_filename")}
# Columns of CelebA's own annotation, above 0 where it applies, that say what the label and the attribute are.
ANSWERS = {"celeba": ("Blond_Hair", "Male")}

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
    "waterbirds": Names(CLASS_NAMES["waterbirds"], ("land", "water")),
    "celeba": Names(
        CLASS_NAMES["celeba"],
        ("female", "male"),
        ("a photo of a person with dark hair", "a photo of a person with blond hair"),
    ),
}


def known_name(folder_name: str) -> str | None:
    """The published dataset that a folder's name speaks of, such as "waterbird_complete95_forest2water2"; or None."""
    plain = folder_name.lower().replace("_", "")
    return next((name for name in KNOWN if name.removesuffix("s") in plain), None)


def recognised(
    folder_name: str,
    counts: Mapping[tuple[str, int, int | None], int],
    *,
    class_names: Sequence[str] = (),
    columns: Collection[str] = (),
    answers: bool = False,
) -> tuple[str, str] | None:
    """The published dataset that a folder is a copy of, and by what it is told; None if it is none of them.

    The folder's name alone is not enough: "celeba_smiling" has other labels.

    Args:
        folder_name: Its name, which must speak of the dataset.
        counts: Images by split, label and attribute.
        class_names: Names of its classes, where it has or is given some.
        columns: Columns of its table.
        answers: Whether the columns of the published annotation (`ANSWERS`) say the same as the table's labels.
    """
    name = known_name(folder_name)
    if name is None or len({label for _, label, _ in counts}) > len(CLASS_NAMES[name]):
        return None
    if {word.casefold() for word in class_names} == set(CLASS_NAMES[name]):
        return name, "its classes have that dataset's names"
    if answers or set(COLUMNS.get(name, {""})) <= set(columns):
        return name, "its columns are that dataset's"
    if _same_counts(KNOWN[name], counts):
        return name, "its groups are as large as that dataset's"
    return None


def _same_counts(expected: GroupCounts, counts: Mapping[tuple[str, int, int | None], int]) -> bool:
    """Whether each group, or each class where no attributes are known, has its published size within 1%."""
    by_class = all(attribute is None for _, _, attribute in counts)
    for split, groups in expected.items():
        here, there = Counter[tuple[int, int | None]](), Counter[tuple[int, int | None]]()
        for (label, attribute), num in groups.items():
            there[label, None if by_class else attribute] += num
        for (s, label, attribute), num in counts.items():
            if s == split:
                # MetaShift is published without attributes; a table may have some.
                here[label, attribute if (label, attribute) in there else None] += num
        if set(here) != set(there) or any(abs(here[group] - num) > num * 0.01 for group, num in there.items()):
            return False
    return True


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
