"""The head training of DaC, decompose and compose: only the last layer, anew (Noohdani et al., CVPR 2024, 2402.18919).

The features of the ERM classifier are kept. A new head is fitted on all images and, with a weight, on the composed ones
(`synthesis: dac`); with another synthesis's pictures it is last-layer retraining on these.

Differs from the authors' code: features are computed once, in evaluation mode and without augmentation (theirs run the
network at every step in training mode, which moves its running statistics), accuracies are compared as they are (theirs
are rounded to as many digits as there are test environments), and every batch has its share of composed pictures,
whichever images it holds.
"""

# N images, M composed pictures, D features, C classes

import copy
import logging
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from raygen.algorithms.base import AlgorithmBase
from raygen.algorithms.inference import accuracies, extract_features
from raygen.algorithms.selection import SelectBy
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import PositiveInt
from raygen.errors import StageError
from raygen.seeding import row_seed
from raygen.worker import Worker

logger = logging.getLogger(__name__)


class DacHeadConfig(AlgorithmBase):
    """DaC's head training; the defaults are the authors' on Waterbirds.

    Attributes:
        alpha: Weight of the masked copies' mean cross entropy, and of the fusions'. Here both are one term of twice the
            weight, which is their sum where there is one of each for an image (`synthesis.fusions` 1).
        epochs: Passes over all images.
        batch_size: Images of a step; with them go as many composed ones as make both last for an epoch.
        learning_rate: Of Adam; halved every `halve_after` epochs.
        halve_after: See `learning_rate`.
        weight_decay: L2.
        init: The ERM classifier, whose features are kept.
    """

    paper = "DaC (Noohdani et al. 2024, arXiv 2402.18919)"
    label_access = "train: class; validation: group to select"
    is_recipe = False  # without composed pictures it is another head for ERM

    name: Literal["dac_head"] = "dac_head"
    alpha: float = Field(10.0, ge=0)
    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    learning_rate: float = Field(5e-3, gt=0)
    halve_after: PositiveInt = 5
    weight_decay: float = Field(0.0, ge=0)
    init: Literal["erm"] = "erm"

    def selects_by(self) -> SelectBy | None:
        """The epoch."""
        return "auto"


Config = DacHeadConfig


def fit(
    config: DacHeadConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Replaces the classifier's head in place, by the best epoch's; gives back one entry per epoch.

    With several workers each extracts its share of the features; the leading one fits, no other's classifier is saved.

    Raises:
        StageError: The loss is not finite.
    """
    train_ND, val_ND = (torch.from_numpy(extract_features(classifier, data, worker)).float() for data in (train, val))
    if not worker.leads:
        return []
    label_N = torch.from_numpy(train.label_N)
    new = new_head(classifier.head, seed=seed)
    optimizer = torch.optim.Adam(new.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, config.halve_after, gamma=0.5)
    history: list[dict[str, float]] = []
    best, selected = (-1.0, -1.0), new.state_dict()
    for epoch in range(config.epochs):
        rng = np.random.default_rng(row_seed(seed, f"dac_head/{epoch}"))
        losses = []
        for rows, composed in batches_of(train.generated_N, config.batch_size, rng):
            loss = head_loss(new, train_ND, label_N, rows, composed, alpha=config.alpha)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        if not np.isfinite(losses).all():
            raise StageError(f"the loss of epoch {epoch + 1} is not finite; lower learning_rate or alpha")
        with torch.inference_mode():
            correct_N = (new(val_ND).argmax(1).numpy() == val.label_N).astype(bool)
        entry = {"epoch": epoch, "loss": float(np.mean(losses)), **accuracies(correct_N, val)}
        history.append(entry)
        if (score := (entry["val_worst_group"], entry["val_average"])) > best:
            best, selected = score, copy.deepcopy(new.state_dict())
    logger.info("DaC: epoch of the best worst group, %.3f", best[0])
    classifier.head.load_state_dict(selected)
    return history


def new_head(head: torch.nn.Linear, *, seed: int) -> torch.nn.Linear:
    """A head of the same size: Xavier-uniform weights, zero bias, on the CPU; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(row_seed(seed, "dac_head"))
        new = torch.nn.Linear(head.in_features, head.out_features)
        torch.nn.init.xavier_uniform_(new.weight)
    torch.nn.init.zeros_(new.bias)
    return new


def batches_of(
    generated_N: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Positions of each batch's own images and of the composed ones with it; each is in one batch, in random order."""
    own, composed = (rng.permutation(np.flatnonzero(chosen_N)) for chosen_N in (~generated_N, generated_N))
    num_batches = -(-len(own) // batch_size)
    return list(zip(np.array_split(own, num_batches), np.array_split(composed, num_batches), strict=True))


def head_loss(
    head: torch.nn.Linear,
    features_ND: torch.Tensor,
    label_N: torch.Tensor,
    rows: np.ndarray,
    composed: np.ndarray,
    *,
    alpha: float,
) -> torch.Tensor:
    """Mean cross entropy of images, and 2 alpha times that of composed ones, where there are any."""
    own, others = torch.from_numpy(rows), torch.from_numpy(composed)
    loss = F.cross_entropy(head(features_ND[own]), label_N[own])
    if len(others):
        loss = loss + 2 * alpha * F.cross_entropy(head(features_ND[others]), label_N[others])
    return loss
