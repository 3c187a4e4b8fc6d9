"""Softmax scores, for the scoring pass and for DBB's psi, and DBB's threshold Psi (arXiv 2503.17226)."""

# N images, C classes

from collections.abc import Iterable

import numpy as np
from scipy.special import log_softmax

from raygen.errors import DataError


def cross_entropy(logits_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Cross entropy of each image's label, (N,) float64, nats.

    In float64, because float32 rounds every loss below 6e-8 to 0, and DBB ranks images by their small losses.
    """
    log_probability_NC = log_softmax(np.asarray(logits_NC, dtype=np.float64), axis=1)
    loss_N: np.ndarray = -log_probability_NC[np.arange(len(label_N)), np.asarray(label_N, dtype=np.int64)]
    return loss_N


def label_probability(logits_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Softmax of each image's label, (N,) float64 in [0, 1]; psi when the label is the source's."""
    probability_N: np.ndarray = np.exp(-cross_entropy(logits_NC, label_N))
    return probability_N


def mean_confidence(confidence_N: np.ndarray, label_N: np.ndarray, *, labels: Iterable[int]) -> dict[int, float]:
    """Psi of each label: the mean softmax of the label over the images of that label, eq. (3).

    Args:
        confidence_N: Softmax of the true label, (N,).
        label_N: The true label, (N,) int.
        labels: Labels that need a threshold.

    Raises:
        DataError: A label without any image.
    """
    confidence_N, label_N = np.asarray(confidence_N, dtype=np.float64), np.asarray(label_N)
    means = {}
    for label in labels:
        of_label = confidence_N[label_N == label]
        if not of_label.size:
            raise DataError(f"no scored training image of class {label}, so there is no mean confidence to prune by")
        means[int(label)] = float(of_label.mean())
    return means
