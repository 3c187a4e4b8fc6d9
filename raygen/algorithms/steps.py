"""The steps of a fit: a worker loads, varies and computes only its share of each batch."""

# N images, M draws of an epoch, D draws of this worker, B images of a batch or of a worker's share of it, R rows of a
# step: a share's images and their copies, P pixels, C classes, S side of the classifier's square

import contextlib
import inspect
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from raygen.algorithms.augmenting import Augment
from raygen.algorithms.feed import PLAIN, Feed, Share, Terms
from raygen.algorithms.inference import on_device
from raygen.algorithms.loss_weights import AdaptiveWeights, LossWeights, Remembered
from raygen.algorithms.perturbed import with_fgsm
from raygen.algorithms.terms import mixed, row_losses, saliency_sum
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
        terms: What else the loss has.
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
        terms: Terms = PLAIN,
    ) -> None:
        self._classifier, self._train, self._weights = classifier, train, loss_weights
        self._optimizer, self._scheduler = optimizer, scheduler
        self._worker, self._terms, self._infilling = worker, terms, train.infilling
        self._feed = Feed(train, classifier.frame, worker, augment=augment, terms=terms)
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
        weight_D = self._fixed_weights(batches)
        total = torch.zeros((), dtype=torch.float64, device=worker.device)
        images, told = 0, begun
        shares = zip(batches, self._feed.shares(batches, number=number, seed=seed), strict=True)
        with own_numbers(worker, row_seed(seed, f"fit/{number}/{worker.rank}")):
            for step, (positions_B, share) in enumerate(shares, 1):
                own = slice(share.start, share.start + share.num_own)
                total += self._step(share, None if weight_D is None else weight_D[own], positions_B)
                images += len(positions_B)
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

    def _step(self, share: Share, weight_B: torch.Tensor | None, positions_B: np.ndarray) -> torch.Tensor:
        """One step on this worker's share; gives back its part of the batch's loss, times the number of workers."""
        worker, num = self._worker, share.num_own
        if self._infilling is not None and self._infilling.factual == "fgsm":
            share = with_fgsm(share, self._classifier, self._infilling)
        inputs_RCSS, target_R = share.inputs_RCSS, share.target_R
        if self._terms.saliency_penalty:
            inputs_RCSS.requires_grad_()
        with torch.autocast(worker.device, dtype=self._autocast, enabled=self._autocast is not None):
            logits_RC = self._model(inputs_RCSS).float()
        losses_R = self._losses(logits_RC, share)
        if weight_B is None:
            correct_B = logits_RC[:num].argmax(1) == target_R[:num]
            if share.counterfactual_R is not None:
                correct_B ^= share.counterfactual_R[:num]
            weight_B = self._adapted(losses_R[:num].detach(), correct_B, positions_B)
        if share.object_RSS is None:
            loss = (losses_R * weight_B).sum()
        else:
            loss = self._with_copies(losses_R, weight_B, logits_RC, share, num_batch=len(positions_B))
        # Workers' gradients are averaged, so each worker's part counts world_size times.
        loss = loss * worker.world_size
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._scheduler.step()
        return loss.detach()

    def _losses(self, logits_RC: torch.Tensor, share: Share) -> torch.Tensor:
        not_label = "exact" if self._infilling is None else self._infilling.not_label
        smoothing = self._terms.label_smoothing
        losses_R = row_losses(
            logits_RC,
            share.target_R,
            counterfactual_B=share.counterfactual_R,
            not_label=not_label,
            smoothing=smoothing,
        )
        if share.other_target_B is None:
            return losses_R
        others_R = row_losses(logits_RC, share.other_target_B, smoothing=smoothing)
        return mixed(losses_R, others_R, share=share.own_fraction)

    def _with_copies(
        self, losses_R: torch.Tensor, weight_B: torch.Tensor, logits_RC: torch.Tensor, share: Share, *, num_batch: int
    ) -> torch.Tensor:
        """The loss over pictures and copies, divided by all of them, and the saliency penalty over those with a mask.

        A copy weighs what its picture does. What could not be made, or shows nothing of the object or nothing but it
        once it is varied, is no row.
        """
        assert share.object_RSS is not None
        num, shown_RP = share.num_own, share.object_RSS.flatten(1)
        has_object_R = shown_RP.any(1)
        counts_R = has_object_R & ~shown_RP.all(1)
        # Of the whole batch, on every worker alike, without a look at numbers that are still being computed.
        numbers_2 = torch.stack([counts_R[num:].sum(), has_object_R[:num].sum()]).double()
        if self._worker.world_size > 1:
            torch.distributed.all_reduce(numbers_2)
        loss = (losses_R[:num] * weight_B).sum()
        if len(losses_R) > num:
            weight_R = weight_B.repeat(len(losses_R) // num - 1) * counts_R[num:]
            loss = (loss + (losses_R[num:] * weight_R).sum()) * (num_batch / (num_batch + numbers_2[0])).float()
        if self._terms.saliency_penalty:
            penalty = saliency_sum(logits_RC[:num], share.target_R[:num], share.inputs_RCSS, share.object_RSS[:num])
            loss = loss + self._terms.saliency_penalty * penalty / numbers_2[1].clamp(min=1).float()
        return loss

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
