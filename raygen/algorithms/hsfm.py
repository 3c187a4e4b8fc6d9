"""HSFM: learned feature vectors on which a head becomes good at the hardest validation images.

arXiv 2603.29313, "Hard-Set-Guided Feature-Space Meta-Learning". A small support set of feature vectors, drawn from the
training images, is moved so that a head that takes some steps on it has a low loss on the hard set.
"""

# N rows, K of the hard set, M vectors of the support set, D features, C classes

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from raygen.algorithms.features import Features, Role, check_halves, check_present, halves
from raygen.algorithms.heads import HeadConfig, HeadInputs, Linear, cross_entropies, fit_frozen
from raygen.algorithms.selection import Best, SelectBy, score_of, selection_groups
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import PositiveInt
from raygen.errors import DataError, StageError
from raygen.seeding import row_seed
from raygen.worker import Worker


class HsfmConfig(HeadConfig):
    """HSFM. The defaults are those of Waterbirds, in table 11.

    | | num_support | num_steps | learning_rate | support_learning_rate | outer_steps | num_hard | epochs |
    |---|---|---|---|---|---|---|---|
    | Waterbirds | 16 | 15 | 5e-5 | 1 | 15 | 64 | 40 |
    | CelebA | 1024 | 10 | 5e-5 | 1 | 5 | 256 | 20 |
    | MetaShift | 32 | 15 | 5e-5 | 0.01 | 10 | 64 | 10 |
    | Dominoes | 16 | 10 | 1e-4 | 1 | 15 | 256 | 40 |

    The released code leaves open, and here it is: one Adam moves the support set through all epochs; the head's Adam is
    a new one in each.

    Differs: of epochs that are equally good the first is taken, theirs takes the last; a group that does not occur does
    not count, theirs counts it as 0.

    Attributes:
        num_support: Vectors of each class, drawn from its training images; their labels stay.
        num_steps: T, steps of the head on the support set, in the meta step and for real.
        learning_rate: alpha, of these steps (plain gradient descent in the meta step, Adam for real).
        support_learning_rate: eta, of Adam on the vectors.
        outer_steps: Meta steps of an epoch, each from the epoch's head.
        num_hard: Validation images of highest loss of each class; a class that has fewer gives all.
        max_gradient_norm: The vectors' gradient is shortened to this.
        epochs: How often the hard set is drawn up again.
        halve_validation: False (theirs): the hard set and the selection are of the same validation images. True: each
            of one half.
        select_by: What validation is told apart by to select the epoch, see `raygen.algorithms.selection`.
        init: Always the ERM classifier: of the run, or, after a synthesis, one fitted with the pictures.
    """

    paper = "HSFM (arXiv 2603.29313)"
    label_access: ClassVar[str] = (
        "train: class; validation: class; group, to select the epoch (class, where none is known)"
    )

    name: Literal["hsfm"] = "hsfm"
    num_support: PositiveInt = 16
    num_steps: PositiveInt = 15
    learning_rate: float = Field(5e-5, gt=0)
    support_learning_rate: float = Field(1.0, gt=0)
    outer_steps: PositiveInt = 15
    num_hard: PositiveInt = 64
    max_gradient_norm: float = Field(10.0, gt=0)
    epochs: PositiveInt = 40
    halve_validation: bool = False
    select_by: SelectBy = "auto"
    init: Literal["erm"] = "erm"

    def check_counts(self, train_C: np.ndarray, val_C: np.ndarray) -> None:
        """Checks that there are vectors of every class, and hard images."""
        for label in np.flatnonzero(train_C < self.num_support):
            raise DataError(
                f"algorithm.num_support is {self.num_support}, and class {label} has {train_C[label]} training "
                "image(s); lower it"
            )
        if self.halve_validation:
            check_halves(val_C, what=self.name)
        check_present(val_C, what=self.name)

    def selects_by(self) -> SelectBy | None:
        """The epoch."""
        return self.select_by

    def training_rows(self, label_N: np.ndarray, *, seed: int) -> np.ndarray | None:
        """As many of every class as the support set has."""
        chosen = []
        for label in np.unique(label_N):
            rng, own = np.random.default_rng(row_seed(seed, f"hsfm/support/{label}")), np.flatnonzero(label_N == label)
            if len(own) < self.num_support:
                raise DataError(f"algorithm.num_support is {self.num_support}, and class {label} has {len(own)} images")
            chosen.append(rng.choice(own, size=self.num_support, replace=False))
        return np.sort(np.concatenate(chosen))


Config = HsfmConfig


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A head in torch.

    Attributes:
        weight_CD: (C, D) float64.
        bias_C: (C,) float64.
    """

    weight_CD: torch.Tensor
    bias_C: torch.Tensor

    def logits(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Logits, (N, C)."""
        return features_ND @ self.weight_CD.T + self.bias_C

    def detached(self) -> Linear:
        """The same in numpy."""
        return Linear(self.weight_CD.detach().numpy().copy(), self.bias_C.detach().numpy().copy())


def fit(
    config: HsfmConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Replaces the classifier's head in place; gives back an entry for each epoch.

    Raises:
        DataError: A class has too few images.
        StageError: The loss is not finite.
    """
    return fit_frozen(fit_head, config, classifier, train, val, seed=seed, worker=worker)


def fit_head(config: HsfmConfig, given: HeadInputs, *, seed: int) -> tuple[Linear, list[dict[str, float]]]:
    """The selected epoch's head, and an entry for each epoch.

    Raises:
        StageError: The loss is not finite.
    """
    assert given.train is not None
    support = given.train.use(Role.FIT)
    check_present(np.bincount(given.val.label_N, minlength=given.val.num_classes), what="hsfm")
    if config.halve_validation:
        hard_M, other_M = halves(given.val, seed=seed, what="hsfm")
        fitted, val = given.val.use(Role.FIT, hard_M), given.val.use(Role.SELECT, other_M)
    else:
        fitted = val = given.val.use(Role.FIT_AND_SELECT)
    group_N = selection_groups(config.select_by, val, given.first.logits(val.features_ND), seed=seed)

    support_MD = torch.from_numpy(support.features_ND.copy()).requires_grad_()
    label_M = torch.from_numpy(support.label_N)
    mover = torch.optim.Adam([support_MD], lr=config.support_learning_rate)
    head, best, history = given.first, Best[Linear](), []
    for epoch in range(config.epochs):
        hard = fitted.take(hard_rows(head, fitted, num=config.num_hard))
        loss = _move(config, support_MD, label_M, mover, head, hard)
        if not np.isfinite(loss):
            raise StageError(f"HSFM's loss on the hard set is {loss}; lower algorithm.support_learning_rate")
        head = _fitted(config, support_MD.detach(), label_M, head)
        score = score_of(head.predict(val.features_ND), val.label_N, group_N)
        best.offer(score, head)
        history.append({"epoch": epoch, "loss": loss, "val_worst_group": score[0], "val_average": score[1]})
    assert best.item is not None
    return best.item, history


def hard_rows(head: Linear, rows: Features, *, num: int) -> np.ndarray:
    """Positions of the rows of highest cross entropy of each class, sorted, (K,) int."""
    loss_N = cross_entropies(head.logits(rows.features_ND), rows.label_N)
    chosen = []
    for label in np.unique(rows.label_N):
        own = np.flatnonzero(rows.label_N == label)
        chosen.append(own[np.argsort(-loss_N[own], kind="stable")[:num]])
    return np.sort(np.concatenate(chosen))


def adapted(
    first: Linear, support_MD: torch.Tensor, label_M: torch.Tensor, *, num_steps: int, learning_rate: float
) -> Head:
    """The head after steps of gradient descent on the support set's mean cross entropy; differentiable by the set."""
    target_MC = F.one_hot(label_M, len(first.bias_C)).to(support_MD.dtype)
    weight_CD, bias_C = torch.from_numpy(first.weight_CD), torch.from_numpy(first.bias_C)
    for _ in range(num_steps):
        residual_MC = ((support_MD @ weight_CD.T + bias_C).softmax(dim=1) - target_MC) / len(label_M)
        weight_CD = weight_CD - learning_rate * residual_MC.T @ support_MD
        bias_C = bias_C - learning_rate * residual_MC.sum(dim=0)
    return Head(weight_CD, bias_C)


def _move(
    config: HsfmConfig,
    support_MD: torch.Tensor,
    label_M: torch.Tensor,
    mover: torch.optim.Optimizer,
    first: Linear,
    hard: Features,
) -> float:
    """Moves the support set; gives back the loss on the hard set before the last of the steps."""
    hard_KD, hard_K = torch.from_numpy(hard.features_ND), torch.from_numpy(hard.label_N)
    loss = torch.zeros(())
    for _ in range(config.outer_steps):
        head = adapted(first, support_MD, label_M, num_steps=config.num_steps, learning_rate=config.learning_rate)
        loss = F.cross_entropy(head.logits(hard_KD), hard_K)
        mover.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([support_MD], config.max_gradient_norm)
        mover.step()
    return float(loss.detach())


def _fitted(config: HsfmConfig, support_MD: torch.Tensor, label_M: torch.Tensor, first: Linear) -> Linear:
    """The head after its steps on the support set as it is now."""
    weight_CD = torch.from_numpy(first.weight_CD.copy()).requires_grad_()
    bias_C = torch.from_numpy(first.bias_C.copy()).requires_grad_()
    optimizer = torch.optim.Adam([weight_CD, bias_C], lr=config.learning_rate)
    head = Head(weight_CD, bias_C)
    for _ in range(config.num_steps):
        loss = F.cross_entropy(head.logits(support_MD), label_M)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.detached()
