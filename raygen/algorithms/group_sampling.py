"""What algorithms share that know the groups of the training images: that they are known, and drawing them evenly."""

# N images, G groups

import numpy as np

from raygen.algorithms.training_set import TrainingSet
from raygen.errors import DataError


def known_groups(train: TrainingSet, *, algorithm: str) -> np.ndarray:
    """Group of each training image, (N,) int64, generated pictures among them.

    Raises:
        DataError: An image has no attribute, and with it no group.
    """
    if train.group_N is None:
        raise DataError(f"algorithm {algorithm} needs the attribute of every training image; this dataset has none")
    return train.group_N


def group_weights(group_N: np.ndarray) -> np.ndarray:
    """Sampling weight of each image, N / n_g, (N,) float; each group's weights sum to the same."""
    _, inverse_N, counts_G = np.unique(group_N, return_inverse=True, return_counts=True)
    return np.asarray(len(group_N) / counts_G[inverse_N], dtype=float)
