"""Groups: pairs (label, attribute), numbered label * num_attributes + attribute.

The order of Sagawa et al., JTT, DFR and WILDS. MaskTune prints 2 * attribute + label: never compare by position.
"""

import numpy as np

from raygen.errors import DataError


def group_index(label_N: np.ndarray, attribute_N: np.ndarray, *, num_attributes: int) -> np.ndarray:
    """Group of each image, (N,) int64 in [0, C * num_attributes).

    Args:
        label_N: Class, (N,) int, 0 or more.
        attribute_N: Spurious attribute, (N,) int in [0, num_attributes).
        num_attributes: How many values the attribute has.

    Raises:
        DataError: An attribute outside [0, num_attributes), or a negative label.
    """
    label_N, attribute_N = np.asarray(label_N, dtype=np.int64), np.asarray(attribute_N, dtype=np.int64)
    if attribute_N.size and (attribute_N.min() < 0 or attribute_N.max() >= num_attributes):
        raise DataError(
            f"attribute has values {attribute_N.min()}..{attribute_N.max()}; expected 0..{num_attributes - 1}"
        )
    if label_N.size and label_N.min() < 0:
        raise DataError(f"label has values from {label_N.min()}; expected 0 or more")
    group_N: np.ndarray = label_N * num_attributes + attribute_N
    return group_N


def group_name(
    label: int, attribute: int | None, *, class_names: tuple[str, ...], attribute_names: tuple[str, ...]
) -> str:
    """Readable name of a group, such as "waterbird on land"; the class's where no attribute is known."""
    return class_names[label] + ("" if attribute is None else f" on {attribute_names[attribute]}")
