"""The steps of a fit: a worker loads, varies and computes only its share of each batch."""

# N images, M draws of an epoch, D draws of this worker, B images of a batch or of a worker's share of it, C classes,
# T side of the whole picture's square, S side of the classifier's

import contextlib
import inspect
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from raygen.algorithms.augmenting import Augment, Variation, uniforms
from raygen.algorithms.inference import on_device
from raygen.algorithms.loss_weights import AdaptiveWeights, LossWeights, Remembered
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.seeding import row_seed
from raygen.worker import Worker

# Steps between two looks at the loss: a look waits until the device has done all steps before.
LOOK_EVERY = 50
# What switches off a broadcast of buffers at every step: torch 2.15 has renamed it, and warns of the old name.
_NAMES = inspect.signature(DistributedDataParallel).parameters
_NO_BROADCAST: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers": False
}
# A long epoch says so often how far it is.
TELL_EVERY_S = 30.0


class NotFiniteError(ArithmeticError):
    """The loss is infinite or not a number."""


class Stepper:
    """The steps of a fit.

    Args:
        classifier: What is fitted, on the device.
        train: On what.
        loss_weights: Of the images of a batch.
        optimizer: Of the classifier's parameters.
        scheduler: Of its rate, step by step.
        worker: Where this runs, and how it computes.
        augment: How pictures are varied.
    """

    def __init__(
        self,
        classifier: Classifier,
        train: TrainingSet,
        loss_weights: LossWeights | AdaptiveWeights,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        worker: Worker,
        *,
        augment: Augment,
    ) -> None:
        self._classifier, self._train, self._weights = classifier, train, loss_weights
        self._optimizer, self._scheduler = optimizer, scheduler
        self._worker, self._augment = worker, augment
        self._model = prepared(classifier, worker)
        precision = worker.numerics.precision
        self._autocast = None if precision == "float32" else getattr(torch, precision)
        # Gradients of float16 would vanish below 6e-8. One that is not enabled leaves everything as it is.
        self._scaler = torch.amp.GradScaler(worker.device, enabled=precision == "float16")

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the classifier."""
        adaptive = self._weights if isinstance(self._weights, AdaptiveWeights) else None
        memory = Remembered(adaptive)
        return {
            "optimizer": self._optimizer,
            "scheduler": self._scheduler,
            "scaler": self._scaler,
            "adaptive": memory,
        }

    def epoch(self, batches: Sequence[np.ndarray], *, number: int, of: int, seed: int) -> tuple[float, float]:
        """Fits on all batches; gives back their mean loss, the same on all workers, and images/s of all together.

        Args:
            batches: Positions of each whole batch's images.
            number: Of the epoch, from 0.
            of: How many epochs.
            seed: The fit's.

        Raises:
            NotFiniteError: The loss is not finite.
        """
        worker, begun = self._worker, time.monotonic()
        self._classifier.train()
        shares = [positions_B[worker.rank :: worker.world_size] for positions_B in batches]
        # Once an epoch, not at every step: whatever is sent from memory that is not pinned makes the device wait.
        vary = self._variation(batches, number=number, seed=seed)
        target_D = torch.from_numpy(self._train.label_N[np.concatenate(shares)]).to(worker.device)
        weight_D = self._fixed_weights(batches)
        total = torch.zeros((), dtype=torch.float64, device=worker.device)
        start, images, told = 0, 0, begun
        loaded = zip(batches, self._train.batches(shares), strict=True)
        with own_numbers(worker, row_seed(seed, f"fit/{number}/{worker.rank}")):
            for step, (positions_B, images_BTTC) in enumerate(loaded, 1):
                own = slice(start, start + len(images_BTTC))
                inputs_BCSS = vary(on_device(images_BTTC, worker.device), start)
                weight_B = None if weight_D is None else weight_D[own]
                total += self._step(inputs_BCSS, target_D[own], weight_B, positions_B)
                start, images = own.stop, images + len(positions_B)
                if step % LOOK_EVERY == 0:
                    loss, now = _finite(float(total)) / step, time.monotonic()
                    if worker.leads and now > told + TELL_EVERY_S:
                        told, speed = now, f"{images / (now - begun):,.0f} images/s"
                        worker.tell(f"epoch {number + 1}/{of}: step {step} of {len(batches)}, loss {loss:.4f}, {speed}")
        if worker.world_size > 1:
            torch.distributed.all_reduce(total)
            total /= worker.world_size
            _share_statistics(self._classifier)
        return _finite(float(total)) / len(batches), images / max(time.monotonic() - begun, 1e-9)

    def _step(
        self, inputs_BCSS: torch.Tensor, target_B: torch.Tensor, weight_B: torch.Tensor | None, positions_B: np.ndarray
    ) -> torch.Tensor:
        """One step on this worker's share; gives back its part of the batch's loss, times the number of workers."""
        worker = self._worker
        with torch.autocast(worker.device, dtype=self._autocast, enabled=self._autocast is not None):
            logits_BC = self._model(inputs_BCSS).float()
        losses_B = F.cross_entropy(logits_BC, target_B, reduction="none")
        if weight_B is None:
            weight_B = self._adapted(losses_B.detach(), logits_BC.argmax(1) == target_B, positions_B)
        # Workers' gradients are averaged, so each worker's part counts world_size times.
        loss = (losses_B * weight_B).sum() * worker.world_size
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._scheduler.step()
        return loss.detach()

    def _variation(self, batches: Sequence[np.ndarray], *, number: int, seed: int) -> Variation:
        worker, kind = self._worker, self._augment
        uniform_MU = uniforms(kind, np.concatenate(batches), seed=seed, epoch=number)
        stops = np.cumsum([len(positions_B) for positions_B in batches])
        own_D = np.concatenate(
            [
                np.arange(stop - len(positions_B), stop)[worker.rank :: worker.world_size]
                for stop, positions_B in zip(stops, batches, strict=True)
            ]
        )
        return Variation(kind, uniform_MU[own_D], self._classifier.frame, worker.device)

    def _fixed_weights(self, batches: Sequence[np.ndarray]) -> torch.Tensor | None:
        """Loss weights of this worker's draws, (D,) float32; None where they follow the classifier."""
        weigh, train, worker = self._weights, self._train, self._worker
        if isinstance(weigh, AdaptiveWeights):
            return None
        weights = [
            weigh(train.label_N[positions_B], train.generated_N[positions_B])[worker.rank :: worker.world_size]
            for positions_B in batches
        ]
        return torch.from_numpy(np.concatenate(weights)).float().to(worker.device)

    def _adapted(self, losses_B: torch.Tensor, correct_B: torch.Tensor, positions_B: np.ndarray) -> torch.Tensor:
        assert isinstance(self._weights, AdaptiveWeights)
        worker = self._worker
        share = slice(worker.rank, None, worker.world_size)
        # Every worker's values, each at its image's place in the batch; in one piece, since each look is a wait.
        found_2B = torch.zeros((2, len(positions_B)), dtype=torch.float64, device=losses_B.device)
        found_2B[0, share], found_2B[1, share] = losses_B.double(), correct_B.double()
        if worker.world_size > 1:
            torch.distributed.all_reduce(found_2B)  # a sum with zeros: nothing is rounded
        all_losses_B, all_correct_B = found_2B.cpu().numpy()
        weight_B = self._weights.weigh(positions_B, all_losses_B, all_correct_B > 0)
        return on_device(torch.from_numpy(weight_B[share]).float(), worker.device)


@contextlib.contextmanager
def own_numbers(worker: Worker, seed: int) -> Iterator[None]:
    """Layers such as dropout draw from a seed of their own; torch's generators are as before afterwards."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if worker.device == "cuda" else []):
        torch.manual_seed(seed)
        yield


def prepared(classifier: Classifier, worker: Worker) -> torch.nn.Module:
    """What the steps call: the classifier itself, with what several workers and a compiler put around it."""
    model: Any = classifier
    if worker.world_size > 1:
        if worker.numerics.sync_batch_norm:
            classifier.backbone = torch.nn.SyncBatchNorm.convert_sync_batchnorm(classifier.backbone)
        # Gradients are averaged over the workers. Running statistics are not used in training: see _share_statistics.
        model = DistributedDataParallel(classifier, gradient_as_bucket_view=True, **_NO_BROADCAST)
    if worker.numerics.compile:
        # A worker may have compiled the network of other fits, and the compiler stops at a number of versions.
        torch.compiler.reset()
        model = torch.compile(model, dynamic=False)
    return model


def _share_statistics(classifier: Classifier) -> None:
    """Gives all workers the first one's running statistics, which are of its shares of the batches."""
    for buffer in classifier.buffers():
        torch.distributed.broadcast(buffer, src=0)


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise NotFiniteError(loss)
    return loss
