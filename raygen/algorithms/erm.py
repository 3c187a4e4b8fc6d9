"""Empirical risk minimization: the mean cross entropy of all images, generated ones like any other."""

from typing import Literal

from raygen.algorithms.loop import LoopConfig, fit_loop, mean_weights
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.worker import Worker


class ErmConfig(LoopConfig):
    """ERM from random (or ImageNet) weights; `init: erm` goes on from the first fit's.

    Attributes:
        init: Weights to start from. SCGS: from the start (the paper leaves it open; "erm" is the other reading).
    """

    paper = "empirical risk minimization"
    label_access = "train: class; validation: group to select"

    name: Literal["erm"] = "erm"
    init: Literal["scratch", "erm"] = "scratch"


Config = ErmConfig


def fit(
    config: ErmConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Fits by plain cross entropy; gives back the history."""
    return fit_loop(classifier, train, val, config, seed=seed, worker=worker, loss_weights=mean_weights)
