"""What the steps of an epoch compute on: a worker's share of each batch, varied, with copies or with partners."""

# M draws of an epoch, B draws of a batch or of a worker's share of it, R rows of a step: the share's draws and their
# copies, C classes or colour channels, T side of the whole picture's square, S side of the classifier's

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raygen.algorithms.augmenting import Augment, Variation, uniforms
from raygen.algorithms.inference import on_device
from raygen.algorithms.infilling import Draws, copy_seeds, fills_of
from raygen.algorithms.terms import draw_mixing, mixed
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier.framing import Frame
from raygen.inpainters.fills import Infilling
from raygen.seeding import row_seed
from raygen.worker import Worker


@dataclass(frozen=True, slots=True)
class Terms:
    """What a loss has beside the algorithm's weighted cross entropies; see `raygen.algorithms.terms`.

    Attributes:
        saliency_penalty: Weight of the mean squared gradient outside of the object.
        mixup_alpha: Of the Beta distribution of pictures' shares; 0: pictures are not mixed.
        label_smoothing: What a label gives to all classes alike.
    """

    saliency_penalty: float = 0.0
    mixup_alpha: float = 0.0
    label_smoothing: float = 0.0


PLAIN = Terms()


@dataclass(frozen=True, slots=True)
class Share:
    """A worker's rows of one step: its share of the batch, then the copies of it, fill by fill.

    Attributes:
        inputs_RCSS: The classifier's input.
        target_R: Labels.
        counterfactual_R: Whose label is what they do not show, (R,) bool; None: nobody's.
        object_RSS: Where the object is, bool; None where nobody asked. Of a copy that could not be made: nowhere.
        other_target_B: Labels of the pictures that are mixed in; None: nothing is.
        own_fraction: How much is a picture's own where others are mixed in.
        num_own: B, rows that are no copies.
        start: Which of the worker's draws of the epoch the first is.
        seeds_B: Seed of each draw's copies; None where there are none.
    """

    inputs_RCSS: torch.Tensor
    target_R: torch.Tensor
    counterfactual_R: torch.Tensor | None
    object_RSS: torch.Tensor | None
    other_target_B: torch.Tensor | None
    own_fraction: float
    num_own: int
    start: int
    seeds_B: np.ndarray | None


class Feed:
    """Loads and varies.

    Args:
        train: Pictures.
        frame: What the classifier sees of one.
        worker: Whose share.
        augment: How pictures are varied.
        terms: Of the loss.
    """

    def __init__(self, train: TrainingSet, frame: Frame, worker: Worker, *, augment: Augment, terms: Terms) -> None:
        self._train, self._frame, self._worker, self._augment = train, frame, worker, augment
        self._mixup_alpha = terms.mixup_alpha
        self._has_masks = terms.saliency_penalty > 0 or makes_copies(train.infilling)
        self._roles = [role for role, _, _ in fills_of(train.infilling)] if self._has_masks else []

    def shares(self, batches: Sequence[np.ndarray], *, number: int, seed: int) -> Iterator[Share]:
        """This worker's share of each batch.

        Args:
            batches: Positions of each whole batch's images.
            number: Of the epoch, from 0.
            seed: The fit's.
        """
        worker, train, position_M = self._worker, self._train, np.concatenate(batches)
        own, read, fractions, places = self._plan(batches, number=number, seed=seed)
        copies = 1 + len(self._roles)
        # Once an epoch, not at every step: whatever is sent from memory that is not pinned makes the device wait.
        vary = self._variation(position_M, np.concatenate([np.tile(draws, copies) for draws in read]), number, seed)
        target_M = train.label_N[position_M]
        target_D, other_D, counterfactual_D = (
            None if values is None else torch.from_numpy(values).to(worker.device)
            for values in (
                target_M[np.concatenate(own)],
                target_M[np.concatenate(places)] if places else None,
                self._counterfactual(position_M[np.concatenate(own)]),
            )
        )
        assert target_D is not None
        seed_M = copy_seeds(position_M, seed=seed, epoch=number) if self._has_masks else None
        start = varied = 0
        for step, images_BTTC in enumerate(self._loaded(position_M, read, seed_M)):
            num, inputs_BCSS = len(own[step]), vary(on_device(images_BTTC, worker.device), varied)
            varied += len(images_BTTC)
            mine = slice(start, start + num)
            objects = inputs_BCSS[:, 3] > 0 if self._has_masks else None
            if self._has_masks:
                inputs_BCSS = inputs_BCSS[:, :3].contiguous(memory_format=torch.channels_last)
            if places:
                others_BCSS = self._others(inputs_BCSS, num, read[step], places[step])
                inputs_BCSS = mixed(inputs_BCSS[:num], others_BCSS, share=fractions[step])
            yield Share(
                inputs_BCSS,
                target_D[mine].repeat(copies) if copies > 1 else target_D[mine],
                None if counterfactual_D is None else self._with_copies(counterfactual_D[mine]),
                objects,
                None if other_D is None else other_D[mine],
                fractions[step] if places else 1.0,
                num,
                start,
                None if seed_M is None else seed_M[own[step]],
            )
            start = mine.stop

    def _plan(self, batches: Sequence[np.ndarray], *, number: int, seed: int) -> Any:
        """Of each batch: own draws, draws that are read, the own fraction, and the draws that are mixed in."""
        worker, rng = self._worker, np.random.default_rng(row_seed(seed, f"mixup/{number}"))
        own, read, fractions, places, first = [], [], [], [], 0
        for positions_B in batches:
            draws_B = np.arange(first, first + len(positions_B))
            first += len(positions_B)
            own.append(draws_B[worker.rank :: worker.world_size])
            read.append(own[-1])
            if self._mixup_alpha > 0:
                fraction, partner_B = draw_mixing(len(positions_B), self._mixup_alpha, rng)
                fractions.append(fraction)
                places.append(draws_B[partner_B][worker.rank :: worker.world_size])
                if worker.world_size > 1:  # partners may be in others' shares
                    read[-1] = np.concatenate([own[-1], places[-1]])
        return own, read, fractions, places

    def _others(self, inputs_BCSS: torch.Tensor, num: int, read_B: np.ndarray, place_B: np.ndarray) -> torch.Tensor:
        """The pictures that are mixed in, of those that were read."""
        if len(read_B) > num:
            return inputs_BCSS[num:]
        return inputs_BCSS[on_device(torch.from_numpy(place_B - read_B[0]), self._worker.device)]

    def _variation(self, position_M: np.ndarray, draws: np.ndarray, number: int, seed: int) -> Variation:
        uniform_MU = uniforms(self._augment, position_M, seed=seed, epoch=number)
        return Variation(self._augment, uniform_MU[draws], self._frame, self._worker.device)

    def _loaded(
        self, position_M: np.ndarray, read: Sequence[np.ndarray], seed_M: np.ndarray | None
    ) -> Iterator[torch.Tensor]:
        if seed_M is None:
            return self._train.batches([position_M[draws_B] for draws_B in read])
        return self._train.copies([Draws(position_M[draws_B], seed_M[draws_B]) for draws_B in read])

    def _counterfactual(self, position_D: np.ndarray) -> np.ndarray | None:
        found = self._train.counterfactual_N
        return found[position_D] if found.any() or "counterfactual" in self._roles else None

    def _with_copies(self, counterfactual_B: torch.Tensor) -> torch.Tensor:
        copies = [torch.full_like(counterfactual_B, role == "counterfactual") for role in self._roles]
        return torch.cat([counterfactual_B, *copies])


def makes_copies(infilling: Infilling | None) -> bool:
    """Whether pictures are filled while a classifier is fitted."""
    return bool(fills_of(infilling)) or (infilling is not None and infilling.factual == "fgsm")
