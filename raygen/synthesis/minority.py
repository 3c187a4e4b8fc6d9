"""Images that stand for each class's minority, which learned tokens are learned from (DBB, arXiv 2503.17226, sec. 4.1).

The paper takes "minority samples" by validation group labels, or training images of high loss. Both are chosen here on
ids and numbers.
"""

# N images, C classes, A attributes

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from raygen.errors import DataError
from raygen.seeding import row_seed
from raygen.synthesis.plan import read_scores


def high_loss_images(scores: pa.Table, *, class_names: Sequence[str], num_images: int) -> list[list[str]]:
    """Ids of the `num_images` training images of the highest loss of each class, each list sorted.

    Args:
        scores: SCORE rows of the training split.
        class_names: One per class.
        num_images: How many of each.

    Raises:
        DataError: A class has fewer scored images.
    """
    train = read_scores(scores)
    counts_C = train.class_counts(len(class_names))
    chosen = []
    for label, (name, count) in enumerate(zip(class_names, counts_C, strict=True)):
        if count < num_images:
            raise DataError(
                f"class '{name}' has {count} scored training image(s), but textual_inversion.num_images is "
                f"{num_images}; give a lower number"
            )
        rows = np.flatnonzero((train.label_N == label) & (train.loss_rank_N >= count - num_images))
        chosen.append([train.image_ids[row] for row in rows])
    return chosen


def check_val_groups(counts_CA: np.ndarray, *, class_names: Sequence[str], num_images: int) -> None:
    """Checks before any work that each class has a minority group to learn from, whichever group that will be.

    Args:
        counts_CA: Validation images of each class with each attribute, (C, A) int.
        class_names: One per class.
        num_images: How many are learned from.

    Raises:
        DataError: A class has one group only, or none that has so many images.
    """
    for name, counts_A in zip(class_names, counts_CA, strict=True):
        num_groups = int((counts_A > 0).sum())
        if num_groups < 2:
            raise DataError(_no_minority(name, num_groups))
        if counts_A.max() < num_images:
            raise DataError(
                f"no validation group of class '{name}' has more than {counts_A.max()} image(s), but "
                f"textual_inversion.num_images is {num_images}; give a lower number"
            )


def _no_minority(name: str, num_groups: int) -> str:
    return (
        f"class '{name}' has {num_groups} group(s) in the validation split, so none is its minority; take "
        "textual_inversion.source=high_loss"
    )


def val_group_images(
    scores: pa.Table, attributes: dict[str, int | None], *, class_names: Sequence[str], num_images: int, run_seed: int
) -> list[list[str]]:
    """Ids of `num_images` validation images of each class's minority group, each list sorted.

    A validation split is often balanced, so its counts do not tell which group is the minority. The classifier does: it
    is the group that it finds hardest, the one of the highest mean loss in its class.

    Args:
        scores: SCORE rows of the validation split, by a classifier that follows the bias.
        attributes: Attribute of each image by its id.
        class_names: One per class.
        num_images: How many of each.
        run_seed: Seed of the draw.

    Raises:
        DataError: An image without an attribute, a class with one group only, or a group with too few images.
    """
    val = read_scores(scores)
    found = [attributes[image_id] for image_id in val.image_ids]
    if None in found:
        raise DataError(
            f"{found.count(None)} of {len(found)} validation images have no attribute, so their groups are not known; "
            "take textual_inversion.source=high_loss"
        )
    attribute_N = np.array(found)
    chosen = []
    for label, name in enumerate(class_names):
        own_N = val.label_N == label
        values = np.unique(attribute_N[own_N])
        if len(values) < 2:
            raise DataError(_no_minority(name, len(values)))
        means = [val.loss_N[own_N & (attribute_N == value)].mean() for value in values]
        hardest = values[int(np.argmax(means))]
        rows = np.flatnonzero(own_N & (attribute_N == hardest))
        if len(rows) < num_images:
            raise DataError(
                f"the minority of class '{name}' (attribute {hardest}) has {len(rows)} validation image(s), but "
                f"textual_inversion.num_images is {num_images}; give a lower number"
            )
        rng = np.random.default_rng(row_seed(run_seed, f"val_groups/{label}"))
        drawn = np.sort(rng.choice(rows, size=num_images, replace=False))
        chosen.append([val.image_ids[row] for row in drawn])
    return chosen
