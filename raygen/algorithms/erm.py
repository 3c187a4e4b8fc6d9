"""Empirical risk minimization: the mean cross entropy of all images, generated ones like any other."""

from typing import ClassVar, Literal

from pydantic import Field

from raygen.algorithms.loop import LoopConfig, fit_loop, mean_weights
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.worker import Worker


class ErmConfig(LoopConfig):
    """ERM from random (or ImageNet) weights; `init: erm` goes on from the first fit's.

    Attributes:
        epochs: Passes. Ours: the small ResNet fits the scenes in eight. Published for a ResNet-50 from ImageNet weights
            (group_DRO's and JTT's ERM): 300 on Waterbirds, 50 on CelebA; DFR's: 100 and 50.
        learning_rate: Highest of the one-cycle schedule. Ours, for random weights; published for ImageNet weights,
            constant: 1e-3 on Waterbirds, 1e-4 on CelebA (group_DRO, JTT).
        init: Weights to start from. SCGS: from the start (the paper leaves it open; "erm" is the other reading).
    """

    paper: ClassVar[str] = "empirical risk minimization"

    name: Literal["erm"] = "erm"
    epochs: int = Field(8, ge=1)
    learning_rate: float = Field(0.1, gt=0)
    init: Literal["scratch", "erm"] = "scratch"


Config = ErmConfig


def fit(
    config: ErmConfig,
    classifier: Classifier,
    train: TrainingSet,
    val: TrainingSet,
    *,
    seed: int,
    worker: Worker,
) -> list[dict[str, float]]:
    """Fits by plain cross entropy; gives back the history."""
    return fit_loop(classifier, train, val, config, seed=seed, worker=worker, loss_weights=mean_weights)
