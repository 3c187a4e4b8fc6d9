"""The training loop that all algorithms share.

An algorithm says how an image is drawn (sampling weights) and how much it counts in its batch (loss weights); the
loop does the rest. Loss weights are computed on the whole batch and then divided among the workers, so that a loss
with several means (`balanced`) does not depend on how many workers there are.
"""

# N images, M draws of an epoch, B images of a batch, C classes

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from raygen.algorithms.base import AlgorithmBase
from raygen.algorithms.batches import augment_flip_shift, batch_sizes, draw_batches, least_rows
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import PositiveInt
from raygen.errors import StageError
from raygen.metrics import worst_group_accuracy
from raygen.seeding import row_seed
from raygen.storage.writing import write_bytes
from raygen.worker import CHECKPOINT, Worker

# (label_B, generated_B) -> weight of each image's cross entropy in the loss, (B,) float
LossWeights = Callable[[np.ndarray, np.ndarray], np.ndarray]
EVALUATION_BATCH = 256


@runtime_checkable
class AdaptiveWeights(Protocol):
    """Loss weights that follow the classifier from step to step; what they remember is part of every checkpoint.

    They are told of the whole batch, on every worker alike, so all workers remember the same.
    """

    def weigh(self, positions_B: np.ndarray, losses_B: np.ndarray, correct_B: np.ndarray) -> np.ndarray:
        """Weight of each image's cross entropy in this step's loss, (B,) float.

        Args:
            positions_B: Which images of the training set, (B,) int.
            losses_B: Their cross entropies before the step, (B,) float64.
            correct_B: Whether their labels are predicted, by the classifier in training mode, (B,) bool.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What is remembered: tensors and numbers."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        ...


class LoopConfig(AlgorithmBase):
    """Fields that every algorithm of this loop has.

    Attributes:
        epochs: Passes over the training set. Ours: the small ResNet fits the scenes in eight. Published for a ResNet-50
            from ImageNet weights (group_DRO's and JTT's ERM): 300 on Waterbirds, 50 on CelebA; DFR's: 100 and 50.
        batch_size: Images of one step, over all workers.
        learning_rate: Its highest value. Ours, for random weights; published for ImageNet weights, constant: 1e-3 on
            Waterbirds, 1e-4 on CelebA (group_DRO, JTT).
        weight_decay: L2 (sgd, adam) or decoupled (adamw).
        optimizer: "sgd" has momentum 0.9.
        schedule: "onecycle" (Smith & Topin 2017, arXiv 1708.07120), "cosine" to 0, or "constant".
        augment: "flip_shift" mirrors half of the pictures and moves them by up to 4 px; "none".
        select: "best": the epoch of the best validation worst-group accuracy, ties by average accuracy, then the
            earlier; "last".
    """

    epochs: PositiveInt = 8
    batch_size: PositiveInt = 64
    learning_rate: float = Field(0.1, gt=0)
    weight_decay: float = Field(5e-4, ge=0)
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    schedule: Literal["constant", "cosine", "onecycle"] = "onecycle"
    augment: Literal["none", "flip_shift"] = "flip_shift"
    select: Literal["best", "last"] = "best"


def fit_loop(
    classifier: Classifier,
    train: TrainingSet,
    val: TrainingSet,
    config: LoopConfig,
    *,
    seed: int,
    worker: Worker,
    loss_weights: LossWeights | AdaptiveWeights,
    sampling_weights_N: np.ndarray | None = None,
    occurrences_M: np.ndarray | None = None,
) -> list[dict[str, float]]:
    """Fits a classifier in place; gives back one entry per epoch.

    Args:
        classifier: Weights to start from; holds the selected epoch's on return.
        train: What to fit on.
        val: What to select the epoch by.
        config: Steps and rates.
        seed: Order of images and augmentation.
        worker: Where this runs; a checkpoint in its folder is continued.
        loss_weights: Weight of each image of a batch in the loss.
        sampling_weights_N: Draw images with replacement in proportion to these, (N,); by default each once an epoch.
        occurrences_M: What an epoch goes through once, as positions of images, (M,) int: an image that stands there
            several times counts as often. Not together with `sampling_weights_N`.

    Raises:
        StageError: The loss is not finite.
    """
    classifier.to(worker.device).to(memory_format=torch.channels_last)
    assert sampling_weights_N is None or occurrences_M is None
    occurrences_M = np.arange(len(train)) if occurrences_M is None else occurrences_M
    least = least_rows(classifier, worker, num=len(occurrences_M), batch_size=config.batch_size)
    sizes = batch_sizes(len(occurrences_M), config.batch_size, least=least)
    optimizer, scheduler = _build_optimizer(classifier, config, num_steps=len(sizes) * config.epochs)
    # Gradients are averaged over the workers where there are several.
    model = classifier if worker.world_size == 1 else torch.nn.parallel.DistributedDataParallel(classifier)
    stepper = _Stepper(model, train, config, optimizer, loss_weights, worker)
    state = _Progress(classifier, optimizer, scheduler, loss_weights, worker)
    for epoch in range(state.resume(), config.epochs):
        classifier.train()
        total = 0.0
        # A seed for each epoch, not one for the fit: so that a fit that goes on from a checkpoint draws the same.
        rng = np.random.default_rng(row_seed(seed, f"fit/{epoch}"))
        for draws in draw_batches(sizes, sampling_weights_N, rng):
            total += stepper.step(occurrences_M[draws], rng)
            scheduler.step()
        if not math.isfinite(total):
            raise StageError(
                f"the loss of epoch {epoch + 1} is {total}; lower learning_rate (now {config.learning_rate})"
            )
        correct_N = right_predictions(classifier, val, worker.device)
        entry = {"epoch": epoch, "loss": total / len(sizes), **accuracies(correct_N, val)}
        if worker.on_epoch is not None and worker.leads:
            worker.on_epoch(entry, correct_N)
        state.add(entry, config)
        if worker.leads:
            worker.tell(_line(entry, config.epochs))
    classifier.load_state_dict(state.selected)
    return state.history


def mean_weights(label_B: np.ndarray, generated_B: np.ndarray) -> np.ndarray:
    """1 / B for every image: the loss is the batch's mean cross entropy."""
    return np.full(len(label_B), 1 / len(label_B))


@torch.inference_mode()
def right_predictions(classifier: Classifier, data: TrainingSet, device: str) -> np.ndarray:
    """Whether each image's label is predicted, (N,) bool."""
    classifier.eval()
    predicted = [
        classifier(data.images_NCHW(np.arange(start, min(start + EVALUATION_BATCH, len(data)))).to(device))
        .argmax(1)
        .cpu()
        for start in range(0, len(data), EVALUATION_BATCH)
    ]
    correct_N: np.ndarray = torch.cat(predicted).numpy() == data.label_N
    return correct_N


def accuracies(correct_N: np.ndarray, data: TrainingSet) -> dict[str, float]:
    """Average and worst-group accuracy (worst class where there are no attributes), each in [0, 1]."""
    group_N = data.label_N if data.group_N is None else data.group_N
    worst_group = worst_group_accuracy(correct_N, group_N, num_groups=int(group_N.max()) + 1)
    return {"val_average": float(correct_N.mean()), "val_worst_group": worst_group}


def _line(entry: dict[str, float], num_epochs: int) -> str:
    return (
        f"epoch {entry['epoch'] + 1:.0f}/{num_epochs}: loss {entry['loss']:.4f}, validation "
        f"{entry['val_average']:.1%}, worst group {entry['val_worst_group']:.1%}"
    )


@dataclass(frozen=True, slots=True)
class _Stepper:
    """What the steps of a fit have in common."""

    model: torch.nn.Module
    train: TrainingSet
    config: LoopConfig
    optimizer: torch.optim.Optimizer
    loss_weights: LossWeights | AdaptiveWeights
    worker: Worker

    def step(self, positions: np.ndarray, rng: np.random.Generator) -> float:
        """One step on a batch; gives back the whole batch's loss, or this worker's part of it times their number."""
        train, worker = self.train, self.worker
        label_B = train.label_N[positions]
        images = train.images_NCHW(positions)
        if self.config.augment == "flip_shift":
            images = augment_flip_shift(images, rng)
        share = slice(worker.rank, None, worker.world_size)
        inputs = images[share].to(worker.device, memory_format=torch.channels_last)
        target = torch.from_numpy(label_B[share]).to(worker.device)
        logits = self.model(inputs)
        losses = F.cross_entropy(logits, target, reduction="none")
        if isinstance(self.loss_weights, AdaptiveWeights):
            losses_B = _of_whole_batch(losses.detach(), share, len(positions), worker)
            correct_B = _of_whole_batch(logits.argmax(1) == target, share, len(positions), worker) > 0
            weight_B = self.loss_weights.weigh(positions, losses_B, correct_B)
        else:
            weight_B = self.loss_weights(label_B, train.generated_N[positions])
        weight = torch.from_numpy(weight_B[share]).float().to(worker.device)
        # Workers' gradients are averaged, so each worker's part counts world_size times.
        loss = (losses * weight).sum() * worker.world_size
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())


def _of_whole_batch(values: torch.Tensor, share: slice, num: int, worker: Worker) -> np.ndarray:
    """Every worker's values, each at its image's place in the batch, (B,) float64; the same on all workers."""
    values_B = torch.zeros(num, dtype=torch.float64, device=values.device)
    values_B[share] = values.double()
    if worker.world_size > 1:
        torch.distributed.all_reduce(values_B)  # a sum with zeros: nothing is rounded
    return np.asarray(values_B.cpu().numpy())


def _build_optimizer(classifier: Classifier, config: LoopConfig, *, num_steps: int) -> tuple[Any, Any]:
    rate, decay, parameters = config.learning_rate, config.weight_decay, classifier.parameters()
    optimizer: torch.optim.Optimizer
    match config.optimizer:
        case "sgd":
            optimizer = torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=decay)
        case "adam":
            optimizer = torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
        case "adamw":
            optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    schedules = torch.optim.lr_scheduler
    scheduler: Any
    match config.schedule:
        case "constant":
            scheduler = schedules.ConstantLR(optimizer, factor=1.0)
        case "cosine":
            scheduler = schedules.CosineAnnealingLR(optimizer, T_max=num_steps)
        case "onecycle":
            scheduler = schedules.OneCycleLR(
                optimizer, max_lr=rate, total_steps=max(num_steps, 2), cycle_momentum=False
            )
    return optimizer, scheduler


class _Progress:
    """History, the selected weights, and a checkpoint of both after every epoch."""

    def __init__(
        self,
        classifier: Classifier,
        optimizer: Any,
        scheduler: Any,
        loss_weights: LossWeights | AdaptiveWeights,
        worker: Worker,
    ) -> None:
        self._classifier, self._optimizer, self._scheduler = classifier, optimizer, scheduler
        self._adaptive = loss_weights if isinstance(loss_weights, AdaptiveWeights) else None
        self._worker, self._path = worker, worker.folder / CHECKPOINT
        self.history: list[dict[str, float]] = []
        self.selected: dict[str, torch.Tensor] = {}
        self._best = (-1.0, -1.0)

    def resume(self) -> int:
        """Takes up the checkpoint if there is one; gives back the next epoch."""
        if not self._path.is_file():
            return 0
        state = torch.load(self._path, weights_only=True, map_location=self._worker.device)
        self._classifier.load_state_dict(state["classifier"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scheduler.load_state_dict(state["scheduler"])
        if self._adaptive is not None:
            self._adaptive.restore(state["adaptive"])
        self.history, self.selected, self._best = state["history"], state["selected"], tuple(state["best"])
        return len(self.history)

    def add(self, entry: dict[str, float], config: LoopConfig) -> None:
        """Notes an epoch, selects, and saves."""
        self.history.append(entry)
        score = (entry["val_worst_group"], entry["val_average"])
        if config.select == "last" or score > self._best:
            self._best = score
            self.selected = {name: value.detach().clone() for name, value in self._classifier.state_dict().items()}
        if self._worker.leads:
            state = {
                "classifier": self._classifier.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "scheduler": self._scheduler.state_dict(),
                "history": self.history,
                "selected": self.selected,
                "best": list(self._best),
                "adaptive": None if self._adaptive is None else self._adaptive.state(),
            }
            # By way of memory, so that a full disk is an OSError with its number: torch's own writer hides it.
            buffer = io.BytesIO()
            torch.save(state, buffer)
            write_bytes(self._path, buffer.getvalue())
