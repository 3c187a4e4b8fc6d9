"""Group-reweighted ERM: every group is drawn equally often.

Sagawa et al. 2020 (arXiv 1911.08731) with `reweight_groups`: weights N / n_g, N draws with replacement an epoch. It
needs the attributes of the training images, which raygen's recipes do not: a yardstick, not a rival.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from raygen.algorithms.loop import LoopConfig, fit_loop
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.errors import DataError
from raygen.worker import Worker


class ReweightedConfig(LoopConfig):
    """Reweighted ERM, from the first fit's weights or from scratch."""

    name: Literal["reweighted"] = "reweighted"
    epochs: int = Field(8, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    init: Literal["scratch", "erm"] = "scratch"


def fit_reweighted(
    config: ReweightedConfig,
    classifier: Classifier,
    train: TrainingSet,
    val: TrainingSet,
    *,
    seed: int,
    worker: Worker,
) -> list[dict[str, float]]:
    """Fits with groups drawn equally often; gives back the history.

    Raises:
        DataError: A training image has no attribute.
    """
    if train.group_N is None:
        raise DataError("algorithm reweighted needs the attribute of every training image; this dataset has none")
    weights_N = group_weights(train.group_N)
    loss_weights = _mean_weights
    return fit_loop(
        classifier,
        train,
        val,
        config,
        seed=seed,
        worker=worker,
        loss_weights=loss_weights,
        sampling_weights_N=weights_N,
    )


def group_weights(group_N: np.ndarray) -> np.ndarray:
    """Sampling weight of each image, N / n_g, (N,) float; each group's weights sum to the same."""
    _, inverse_N, counts_G = np.unique(group_N, return_inverse=True, return_counts=True)
    return np.asarray(len(group_N) / counts_G[inverse_N], dtype=float)


def _mean_weights(label_B: np.ndarray, generated_B: np.ndarray) -> np.ndarray:
    return np.full(len(label_B), 1 / len(label_B))
