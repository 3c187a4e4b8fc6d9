"""An algorithm as short as one can be: ERM in which a generated picture counts as several."""

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from raygen.algorithms.loop import LoopConfig, fit_loop
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.worker import Worker


class WeightedConfig(LoopConfig):
    paper = "nobody's either"
    label_access = "train: class; validation: group to select"
    space: ClassVar = {"weight": {"values": (1.0, 4.0)}}

    name: Literal["weighted"] = "weighted"
    epochs: int = Field(2, ge=1)
    learning_rate: float = Field(0.02, gt=0)
    weight: float = Field(2, gt=0)
    init: Literal["scratch", "erm"] = "erm"


Config = WeightedConfig


def fit(
    config: WeightedConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    def weights(label_B: np.ndarray, generated_B: np.ndarray) -> np.ndarray:
        weight_B = np.where(generated_B, config.weight, 1.0)
        return np.asarray(weight_B / weight_B.sum())

    return fit_loop(classifier, train, val, config, seed=seed, worker=worker, loss_weights=weights)
