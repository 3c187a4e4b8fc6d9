"""The steps of a fit: a worker loads, varies and computes only its share of each batch."""

# N images, M draws of an epoch, D draws of this worker, B images of a batch or of a worker's share of it, R rows of a
# step: a share's images and their copies, P pixels, C classes, S side of the classifier's square

import contextlib
import inspect
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from raygen.algorithms.augmenting import Augment
from raygen.algorithms.feed import PLAIN, Feed, Share, Terms
from raygen.algorithms.inference import on_device
from raygen.algorithms.loss_weights import AdaptiveWeights, Companion, LossWeights, Remembered
from raygen.algorithms.mixing import Mixed, label_shares, mix_inputs
from raygen.algorithms.perturbed import with_fgsm
from raygen.algorithms.terms import row_losses, saliency_sum
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


class Network:
    """A network that is fitted, and how its weights move.

    Args:
        classifier: The network, on the device.
        optimizer: Of its parameters.
        scheduler: Of its rate, step by step.
        worker: Where this runs, and how it computes.
    """

    def __init__(
        self, classifier: Classifier, optimizer: torch.optim.Optimizer, scheduler: Any, worker: Worker
    ) -> None:
        self.classifier, self._optimizer, self._scheduler, self._worker = classifier, optimizer, scheduler, worker
        self._model = prepared(classifier, worker)
        precision = worker.numerics.precision
        self._autocast = None if precision == "float32" else getattr(torch, precision)
        # Gradients of float16 would vanish below 6e-8. One that is not enabled leaves everything as it is.
        self._scaler = torch.amp.GradScaler(worker.device, enabled=precision == "float16")

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the classifier."""
        return {"optimizer": self._optimizer, "scheduler": self._scheduler, "scaler": self._scaler}

    def logits(self, inputs_BCSS: torch.Tensor) -> torch.Tensor:
        """Logits of a worker's share of a batch, (B, C) float32."""
        with torch.autocast(self._worker.device, dtype=self._autocast, enabled=self._autocast is not None):
            logits_BC: torch.Tensor = self._model(inputs_BCSS)
        return logits_BC.float()

    def step(self, loss: torch.Tensor) -> None:
        """One step down a loss."""
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._scheduler.step()


class Stepper:
    """The steps of a fit.

    Args:
        network: What is fitted.
        train: On what.
        loss_weights: Of the images of a batch.
        worker: Where this runs, and how it computes.
        augment: How pictures are varied.
        terms: What else the loss has.
        beside: The second network, where the weights are those of a `Companion`.
    """

    def __init__(
        self,
        network: Network,
        train: TrainingSet,
        loss_weights: LossWeights | AdaptiveWeights | Companion,
        worker: Worker,
        *,
        augment: Augment,
        terms: Terms = PLAIN,
        beside: Network | None = None,
    ) -> None:
        self._network, self._train, self._weights, self._beside = network, train, loss_weights, beside
        self._worker, self._terms, self._infilling, self._are_pairs = worker, terms, train.infilling, False
        # Of the loss weights of an epoch's batches: those of added pictures, and all.
        self._held, self._all = 0.0, 0.0
        self._feed = Feed(
            train, network.classifier.frame, worker, augment=augment, with_masks=terms.saliency_penalty > 0
        )

    def parts(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the classifier."""
        adaptive = self._weights if isinstance(self._weights, AdaptiveWeights | Companion) else None
        found = {**self._network.parts(), "adaptive": Remembered(adaptive)}
        if self._beside is not None:
            parts = {"classifier": self._beside.classifier, **self._beside.parts()}
            found |= {f"companion_{name}": part for name, part in parts.items()}
        return found

    def epoch(
        self,
        batches: Sequence[np.ndarray],
        *,
        number: int,
        of: int,
        seed: int,
        mixed: Sequence[Mixed] | None = None,
    ) -> tuple[float, float]:
        """Fits on all batches; gives back their mean loss, the same on all workers, and images/s of all together.

        Args:
            batches: Positions of each whole batch's images.
            mixed: How each is mixed; its `positions` are then the batch's.
            number: Of the epoch, from 0.
            of: How many epochs.
            seed: The fit's.

        Raises:
            NotFiniteError: The loss is not finite.
        """
        worker, begun = self._worker, time.monotonic()
        networks = [self._network, *([] if self._beside is None else [self._beside])]
        for network in networks:
            network.classifier.train()
        self._are_pairs, self._held, self._all = mixed is not None, 0.0, 0.0
        weight_D = self._fixed_weights(batches)
        total = torch.zeros((), dtype=torch.float64, device=worker.device)
        images, told = 0, begun
        shares = zip(
            batches, self._feed.shares(batches, number=number, seed=seed, are_pairs=self._are_pairs), strict=True
        )
        with own_numbers(worker, row_seed(seed, f"fit/{number}/{worker.rank}")):
            for step, (positions_B, share) in enumerate(shares, 1):
                own = slice(share.start, share.start + share.num_own)
                weight_B = None if weight_D is None else weight_D[own]
                pairs = None if mixed is None else mixed[step - 1].own(worker.rank, worker.world_size)
                total += self._step(share, weight_B, positions_B, pairs)
                images += len(positions_B)
                if step % LOOK_EVERY == 0:
                    loss, now = _finite(float(total)) / step, time.monotonic()
                    if worker.leads and now > told + TELL_EVERY_S:
                        told, speed = now, f"{images / (now - begun):,.0f} images/s"
                        worker.tell(f"epoch {number + 1}/{of}: step {step} of {len(batches)}, loss {loss:.4f}, {speed}")
        if worker.world_size > 1:
            torch.distributed.all_reduce(total)
            total /= worker.world_size
            for network in networks:
                _share_statistics(network.classifier)
        return _finite(float(total)) / len(batches), images / max(time.monotonic() - begun, 1e-9)

    @property
    def generated_share(self) -> float | None:
        """The share of the last epoch's loss weights that added pictures had, in [0, 1]; None where there are none."""
        return self._held / self._all if self._train.generated_N.any() and self._all else None

    def _note(self, weight_B: np.ndarray, positions_B: np.ndarray) -> np.ndarray:
        """Notes how much of a whole batch's weights added pictures have; gives the weights back."""
        self._held += float(weight_B[self._train.generated_N[positions_B]].sum())
        self._all += float(weight_B.sum())
        return weight_B

    def _own(self, num: int) -> np.ndarray:
        return self._feed.own(num, are_pairs=self._are_pairs)

    def _step(
        self, share: Share, weight_B: torch.Tensor | None, positions_B: np.ndarray, pairs: Mixed | None
    ) -> torch.Tensor:
        """One step on this worker's share; gives back its part of the batch's loss, times the number of workers."""
        worker, share_B = self._worker, None
        if self._infilling is not None and self._infilling.factual == "fgsm":
            share = with_fgsm(share, self._network.classifier, self._infilling)
        inputs_RCSS = share.inputs_RCSS
        if pairs is not None:
            share_B = on_device(torch.from_numpy(pairs.share_B).float(), worker.device)
            inputs_RCSS = mix_inputs(inputs_RCSS, share_B, pairs.box)
        if self._terms.saliency_penalty:
            inputs_RCSS.requires_grad_()
        with twice_differentiable() if self._terms.saliency_penalty else contextlib.nullcontext():
            logits_RC = self._network.logits(inputs_RCSS)
        if share_B is not None:
            logits_RC = torch.cat([logits_RC, logits_RC])  # each mixed picture, once for each of its labels
        losses_R = self._losses(logits_RC, share)
        if weight_B is None:
            found = self._found(logits_RC, losses_R, inputs_RCSS, share, positions_B, share_B=share_B)
            weight_B = self._adapted(found, positions_B)
        if share_B is not None:
            losses_R = losses_R * label_shares(share_B)
        if share.object_RSS is None:
            loss = (losses_R * weight_B).sum()
        else:
            loss = self._with_copies(losses_R, weight_B, logits_RC, share, num_batch=len(positions_B))
        # Workers' gradients are averaged, so each worker's part counts world_size times.
        loss = loss * worker.world_size
        self._network.step(loss)
        return loss.detach()

    def _losses(self, logits_RC: torch.Tensor, share: Share) -> torch.Tensor:
        return row_losses(
            logits_RC,
            share.target_R,
            counterfactual_B=share.counterfactual_R,
            not_label="exact" if self._infilling is None else self._infilling.not_label,
            smoothing=self._terms.label_smoothing,
        )

    def _found(
        self,
        logits_RC: torch.Tensor,
        losses_R: torch.Tensor,
        inputs_RCSS: torch.Tensor,
        share: Share,
        positions_B: np.ndarray,
        *,
        share_B: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """What weights follow: losses of the share's images, and whether they are right, or a second network's."""
        num = share.num_own
        if self._beside is not None:
            seconds_B = self._companion_step(inputs_RCSS[:num], share, num=len(positions_B), share_B=share_B)
            return [losses_R[:num].detach(), seconds_B]
        correct_B = logits_RC[:num].argmax(1) == share.target_R[:num]
        if share.counterfactual_R is not None:
            correct_B ^= share.counterfactual_R[:num]
        return [losses_R[:num].detach(), correct_B]

    def _companion_step(
        self, inputs_BCSS: torch.Tensor, share: Share, *, num: int, share_B: torch.Tensor | None
    ) -> torch.Tensor:
        """The second network's own step, on this worker's share of `num` images; its losses before it.

        From a counterfactual picture, whose label is not what it shows, it learns nothing. Of a mixed one each of its
        labels counts by its share, as for the first network.
        """
        assert isinstance(self._weights, Companion)
        assert self._beside is not None
        own = slice(share.num_own)
        logits_BC, target_B = self._beside.logits(inputs_BCSS.detach()), share.target_R[own]
        if share_B is not None:
            logits_BC = torch.cat([logits_BC, logits_BC])
        own_share = replace(
            share,
            target_R=target_B,
            counterfactual_R=None if share.counterfactual_R is None else share.counterfactual_R[own],
        )
        losses_B = self._losses(logits_BC.detach(), own_share)
        objective_B = self._weights.objective(logits_BC, target_B)
        if share_B is not None:
            objective_B = objective_B * label_shares(share_B)
        if own_share.counterfactual_R is not None:
            objective_B = objective_B * ~own_share.counterfactual_R
        self._beside.step(objective_B.sum() / num * self._worker.world_size)
        return losses_B

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
        if isinstance(weigh, AdaptiveWeights | Companion):
            return None
        weights = [
            self._note(weigh(train.label_N[positions_B], train.generated_N[positions_B]), positions_B)[
                self._own(len(positions_B))
            ]
            for positions_B in batches
        ]
        return torch.from_numpy(np.concatenate(weights)).float().to(worker.device)

    def _adapted(self, found: Sequence[torch.Tensor], positions_B: np.ndarray) -> torch.Tensor:
        """Weights of this worker's share by its losses, and by what is right or by the second network's losses."""
        worker = self._worker
        # A slice where it can be one: an index would have to be sent to the device.
        share: Any = slice(worker.rank, None, worker.world_size)
        if self._are_pairs:
            share = self._own(len(positions_B))
        # Every worker's values, each at its image's place in the batch; in one piece, since each look is a wait.
        found_2B = torch.zeros((2, len(positions_B)), dtype=torch.float64, device=found[0].device)
        found_2B[0, share], found_2B[1, share] = found[0].double(), found[1].double()
        if worker.world_size > 1:
            torch.distributed.all_reduce(found_2B)  # a sum with zeros: nothing is rounded
        all_losses_B, others_B = found_2B.cpu().numpy()
        if isinstance(self._weights, Companion):
            weight_B = self._weights.weigh_beside(positions_B, all_losses_B, others_B)
        else:
            assert isinstance(self._weights, AdaptiveWeights)
            weight_B = self._weights.weigh(positions_B, all_losses_B, others_B > 0)
        self._note(weight_B, positions_B)
        return on_device(torch.from_numpy(weight_B[share]).float(), worker.device)


def twice_differentiable() -> contextlib.AbstractContextManager[None]:
    """In it, attention is computed in steps that have a gradient of their gradient, which the fused ones have not."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    found: contextlib.AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return found


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
