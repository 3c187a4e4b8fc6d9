"""Folds of the training images, for predictions by a classifier that has not seen them."""

# N images

import numpy as np

from raygen.seeding import row_seed


def assign_folds(label_N: np.ndarray, *, num_folds: int, seed: int) -> np.ndarray:
    """Fold of each image, (N,) int in [0, num_folds); each class is spread over all folds as evenly as it can be.

    Args:
        label_N: Class of each image in order of image_id, (N,) int.
        num_folds: How many.
        seed: The run's seed.
    """
    fold_N = np.empty(len(label_N), dtype=np.int64)
    for label in np.unique(label_N):
        rows = np.flatnonzero(label_N == label)
        order = np.random.default_rng(row_seed(seed, f"folds/{label}")).permutation(len(rows))
        fold_N[rows[order]] = np.arange(len(rows)) % num_folds
    return fold_N
