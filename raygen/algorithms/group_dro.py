"""Group DRO: the loss of the groups that do worst counts most (Sagawa et al. 2020, arXiv 1911.08731, algorithm 1).

It needs the attribute of every training image, which raygen's own recipes do not. The generated pictures of a synthesis
have their source's attribute, since its background, or what misled the classifier, is still in them.
"""

# B images of a batch, N images, G groups that occur in training

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from raygen.algorithms.loop import LoopConfig, fit_loop
from raygen.algorithms.training_set import TrainingSet, group_weights, known_groups
from raygen.classifier import Classifier
from raygen.worker import Worker


class GroupDroConfig(LoopConfig):
    """Group DRO.

    The papers' settings: SGD of a constant learning rate 1e-3 (Waterbirds) or 1e-4 (CelebA), weight decay 1e-4, 300 or
    50 epochs, batches of 128; with the strong weight decay of their best numbers 1e-5 and 1.0 (0.1 for CelebA). The
    defaults are for the small ResNet of the scenes.

    Attributes:
        eta: Step size of the groups' weights (authors' code: 0.01).
        adjustment: C of the generalisation adjustment, eq. (5): C / sqrt(n_g) is added to a group's loss when its
            weight is updated, so that small groups, which are overfitted first, weigh more. Authors' code: 0.
        sampler: "groups": every group is drawn equally often, with replacement (the authors' `reweight_groups`);
            "uniform": each image once an epoch.
        init: Weights to start from.
    """

    paper = "group DRO (Sagawa et al. 2020, arXiv 1911.08731)"
    label_access = "train: group; validation: group to select"
    needs_groups_of = "train"

    name: Literal["group_dro"] = "group_dro"
    eta: float = Field(0.01, gt=0)
    adjustment: float = Field(0.0, ge=0)
    sampler: Literal["groups", "uniform"] = "groups"
    init: Literal["scratch", "erm"] = "scratch"


Config = GroupDroConfig


def fit(
    config: GroupDroConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Fits by group DRO; gives back the history; what it needs, see `known_groups`."""
    group_N = known_groups(train, algorithm="group_dro")
    return fit_loop(
        classifier,
        train,
        val,
        config,
        seed=seed,
        worker=worker,
        loss_weights=GroupLoss(group_N, eta=config.eta, adjustment=config.adjustment),
        sampling_weights_N=group_weights(group_N) if config.sampler == "groups" else None,
    )


class GroupLoss:
    """The loss sum_g q_g l_g, with l_g the batch's mean cross entropy of group g and q updated before each step.

    q_g <- q_g exp(eta (l_g + C / sqrt(n_g))), then normalised, from q_g = 1 / G. A group that is not in the batch has
    no loss to be judged by: its factor is 1.

    Differs: the authors' code drops the adjustment of all groups as soon as one of them is 0, adds it to absent groups,
    and shows it in the loss that is reported. Here it enters the update of the groups that are there, and nothing
    else; the gradient, which goes through l_g alone, is the same.

    Args:
        group_N: Group of each training image, (N,) int.
        eta: Step size.
        adjustment: C.

    Attributes:
        q_G: Weights of the groups that occur, in order of their numbers, (G,) float64, summing to 1.
    """

    def __init__(self, group_N: np.ndarray, *, eta: float, adjustment: float) -> None:
        _, self._group_N, counts_G = np.unique(group_N, return_inverse=True, return_counts=True)
        self._eta = eta
        self._adjustment_G = adjustment / np.sqrt(counts_G)  # eq. (5)
        self.q_G = np.full(len(counts_G), 1 / len(counts_G))

    def weigh(self, positions_B: np.ndarray, losses_B: np.ndarray, correct_B: np.ndarray) -> np.ndarray:
        """Updates q; gives back q_g / (images of g in the batch) for each image of group g, (B,) float64."""
        group_B = self._group_N[positions_B]
        counts_G = np.bincount(group_B, minlength=len(self.q_G))
        loss_G = np.bincount(group_B, weights=losses_B, minlength=len(self.q_G)) / np.maximum(counts_G, 1)
        exponent_G = np.where(counts_G > 0, self._eta * (loss_G + self._adjustment_G), 0.0)
        # The largest exponent is taken off, which normalising undoes: no overflow, whatever the losses.
        q_G = self.q_G * np.exp(exponent_G - exponent_G.max())
        self.q_G = q_G / q_G.sum()
        return np.asarray(self.q_G[group_B] / counts_G[group_B])

    def state(self) -> dict[str, Any]:
        """Q."""
        return {"q": torch.from_numpy(self.q_G.copy())}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up q."""
        self.q_G = state["q"].cpu().numpy()
