"""LfF, learning from failure: a net that learns what is easy says what is hard (Nam et al., NeurIPS 2020, 2007.02561).

Two networks see the same batches. The biased one is fitted by the generalised cross entropy, whose gradient counts an
image more the surer the network is of it, so it takes the cue. The debiased one, which is what the fit gives, weighs an
image by how much harder it is for the biased one. No group label anywhere; the last step is the result.

Differs from the authors' code where it departs from the paper: it multiplies the gradient of the generalised cross
entropy by q once more. Both networks start from the same weights here (theirs: each from its own), whether these are
ImageNet's, ERM's or random. Losses of generated pictures are remembered like any other's.

With several workers each network's gradients are averaged over them, and every worker remembers the losses of the whole
batch: the weights do not depend on how many there are.
"""

# N images, B images of a batch, C classes

import copy
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from raygen.algorithms.loop import LoopConfig, fit_loop
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.worker import Worker

# Keeps 0 / 0 from being no number (authors' code).
EPSILON = 1e-8


class LffConfig(LoopConfig):
    """LfF. All fields of the loop hold for both networks.

    The authors' settings on CelebA: Adam 1e-4, weight decay 1e-4, batches of 256, a frozen ResNet-18. Wrong labels are
    what the biased network finds hardest of all, so they count most: clean them first. The defaults of the loop are for
    the small ResNet of the scenes.

    Attributes:
        q: Of the generalised cross entropy (Zhang & Sabuncu 2018, arXiv 1805.07836): 0 is the cross entropy, more is
            biased more.
        momentum: Of the moving averages of the losses: L <- momentum L + (1 - momentum) loss; an image's first loss is
            taken as it is.
        select: "last", as the paper has it: no validation label is read. "best" makes it one that is selected by
            groups, as other papers' tables do.
        init: Weights that both networks start from.
    """

    paper = "LfF (Nam et al. 2020, arXiv 2007.02561)"
    label_access = "train: class; validation: none"

    name: Literal["lff"] = "lff"
    q: float = Field(0.7, ge=0, le=1)
    momentum: float = Field(0.7, ge=0, lt=1)
    select: Literal["best", "last"] = "last"
    init: Literal["scratch", "erm"] = "scratch"


Config = LffConfig


def fit(
    config: LffConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Fits both networks; gives back the debiased one's history."""
    relative = RelativeDifficulty(copy.deepcopy(classifier), train.label_N, q=config.q, momentum=config.momentum)
    return fit_loop(classifier, train, val, config, seed=seed, worker=worker, loss_weights=relative)


class RelativeDifficulty:
    """The biased network's objective, and the weights that it gives the debiased one's images.

    W_i = L_b,i / (L_b,i + L_d,i), with L the moving averages of the two networks' cross entropies, each divided by its
    maximum over the training images of the same class.

    Args:
        classifier: The biased network.
        label_N: Classes of the training images, (N,) int.
        q: See `LffConfig`.
        momentum: See `LffConfig`.
    """

    def __init__(self, classifier: Classifier, label_N: np.ndarray, *, q: float, momentum: float) -> None:
        self.classifier = classifier
        self._q = q
        self._biased = ClassScaledAverage(label_N, momentum=momentum)
        self._debiased = ClassScaledAverage(label_N, momentum=momentum)

    def objective(self, logits_BC: torch.Tensor, target_B: torch.Tensor) -> torch.Tensor:
        """The generalised cross entropy of each image."""
        return generalised_cross_entropy(logits_BC, target_B, q=self._q)

    def weigh_beside(self, positions_B: np.ndarray, losses_B: np.ndarray, companion_losses_B: np.ndarray) -> np.ndarray:
        """W / B."""
        biased_B = self._biased.update(positions_B, companion_losses_B)
        debiased_B = self._debiased.update(positions_B, losses_B)
        return relative_difficulty(biased_B, debiased_B) / len(positions_B)

    def state(self) -> dict[str, Any]:
        """The moving averages."""
        return {
            "biased": torch.from_numpy(self._biased.loss_N.copy()),
            "debiased": torch.from_numpy(self._debiased.loss_N.copy()),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up the moving averages."""
        self._biased.loss_N = state["biased"].cpu().numpy()
        self._debiased.loss_N = state["debiased"].cpu().numpy()


class ClassScaledAverage:
    """Moving averages of each image's loss over its visits, seen in terms of its class's largest.

    Args:
        label_N: Classes, (N,) int.
        momentum: Share of what was before.

    Attributes:
        loss_N: The averages, (N,) float64; NaN for images that were not seen yet.
    """

    def __init__(self, label_N: np.ndarray, *, momentum: float) -> None:
        self._label_N, self._momentum = label_N, momentum
        self.loss_N = np.full(len(label_N), np.nan)

    def update(self, positions_B: np.ndarray, losses_B: np.ndarray) -> np.ndarray:
        """Takes up a batch's losses; gives back its images' averages over their class's maximum, (B,) in [0, 1]."""
        before_B = self.loss_N[positions_B]
        moved_B = self._momentum * before_B + (1 - self._momentum) * losses_B
        self.loss_N[positions_B] = np.where(np.isnan(before_B), losses_B, moved_B)
        largest_C = np.zeros(int(self._label_N.max()) + 1)
        np.maximum.at(largest_C, self._label_N, np.nan_to_num(self.loss_N))
        return np.asarray(self.loss_N[positions_B] / (largest_C[self._label_N[positions_B]] + EPSILON))


def relative_difficulty(biased_B: np.ndarray, debiased_B: np.ndarray) -> np.ndarray:
    """W = L_b / (L_b + L_d), (B,) in [0, 1]; 0 where both are 0."""
    return biased_B / (biased_B + debiased_B + EPSILON)


def generalised_cross_entropy(logits_BC: torch.Tensor, target_B: torch.Tensor, *, q: float) -> torch.Tensor:
    """p_y^q times the cross entropy, the first factor held fixed, (B,): its gradient is that of (1 - p_y^q) / q."""
    losses_B = F.cross_entropy(logits_BC, target_B, reduction="none")
    return torch.exp(-q * losses_B.detach()) * losses_B
