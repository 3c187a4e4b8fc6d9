"""Group-reweighted ERM: every group is drawn equally often.

Sagawa et al. 2020 (arXiv 1911.08731) with `reweight_groups`: weights N / n_g, N draws with replacement an epoch. It
needs the attributes of the training images, which raygen's recipes do not: a yardstick, not a rival.
"""

from typing import Literal

from raygen.algorithms.loop import LoopConfig, fit_loop, mean_weights
from raygen.algorithms.training_set import TrainingSet, group_weights, known_groups
from raygen.classifier import Classifier
from raygen.worker import Worker


class ReweightedConfig(LoopConfig):
    """Reweighted ERM, from the first fit's weights or from scratch.

    Epochs and learning rate are ERM's, here and in the paper, so that the two differ in the sampling alone.

    Attributes:
        init: Weights to start from.
    """

    paper = "group-reweighted ERM (Sagawa et al. 2020, arXiv 1911.08731)"
    label_access = "train: group; validation: group to select"
    recipe_name = "erm_reweighted"
    needs_groups_of = "train"

    name: Literal["reweighted"] = "reweighted"
    init: Literal["scratch", "erm"] = "scratch"


Config = ReweightedConfig


def fit(
    config: ReweightedConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Fits with groups drawn equally often; gives back the history; what it needs, see `known_groups`."""
    weights_N = group_weights(known_groups(train, algorithm="reweighted"))
    return fit_loop(
        classifier,
        train,
        val,
        config,
        seed=seed,
        worker=worker,
        loss_weights=mean_weights,
        sampling_weights_N=weights_N,
    )
