"""What the steps of an epoch compute on: a worker's share of each batch, varied, with copies or with partners."""

# M draws of an epoch, B draws of a batch or of a worker's share of it, R rows of a step: the share's draws and their
# copies, C classes or colour channels, T side of the whole picture's square, S side of the classifier's

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raygen.algorithms.augmenting import Augment, Variation, uniforms
from raygen.algorithms.inference import on_device
from raygen.algorithms.infilling import Draws, copy_seeds, fills_of
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier.framing import Frame
from raygen.inpainters.fills import Infilling
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
        num_own: B, rows that are no copies.
        start: Which of the worker's draws of the epoch the first is.
        seeds_B: Seed of each draw's copies; None where there are none.
    """

    inputs_RCSS: torch.Tensor
    target_R: torch.Tensor
    counterfactual_R: torch.Tensor | None
    object_RSS: torch.Tensor | None
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
        with_masks: Whether object masks are asked for, copies or not.
    """

    def __init__(self, train: TrainingSet, frame: Frame, worker: Worker, *, augment: Augment, with_masks: bool) -> None:
        self._train, self._frame, self._worker, self._augment = train, frame, worker, augment
        self._with_masks = with_masks or makes_copies(train.infilling)
        self._roles = [role for role, _, _ in fills_of(train.infilling)]

    def own(self, num: int, *, are_pairs: bool) -> np.ndarray:
        """Which of a batch's images are this worker's; of pairs, whose second images follow the first, both."""
        worker = self._worker
        if not are_pairs:
            return np.arange(worker.rank, num, worker.world_size)
        first = np.arange(worker.rank, num // 2, worker.world_size)
        return np.concatenate([first, num // 2 + first])

    def shares(
        self, batches: Sequence[np.ndarray], *, number: int, seed: int, are_pairs: bool = False
    ) -> Iterator[Share]:
        """This worker's share of each batch.

        Args:
            batches: Positions of each whole batch's images.
            number: Of the epoch, from 0.
            seed: The fit's.
            are_pairs: Whether the second half of each batch is mixed into the first.
        """
        train, device, position_M, copies = self._train, self._worker.device, np.concatenate(batches), len(self._roles)
        firsts = np.cumsum([0, *(len(positions_B) for positions_B in batches)]).tolist()
        draws = [
            first + self.own(len(positions_B), are_pairs=are_pairs)
            for first, positions_B in zip(firsts, batches, strict=False)
        ]
        # Once an epoch, not at every step: whatever is sent from memory that is not pinned makes the device wait.
        uniform_MU = uniforms(self._augment, position_M, seed=seed, epoch=number)
        varied = np.concatenate([np.tile(draws_B, 1 + copies) for draws_B in draws])
        vary = Variation(self._augment, uniform_MU[varied], self._frame, device)
        position_D = position_M[np.concatenate(draws)]
        target_D = torch.from_numpy(train.label_N[position_D]).to(device)
        counterfactual_D = self._counterfactual(position_D)
        seed_M = copy_seeds(position_M, seed=seed, epoch=number) if self._with_masks else None
        start = first = 0
        for draws_B, images_BTTC in zip(draws, self._loaded(position_M, draws, seed_M), strict=True):
            own = slice(start, start + len(draws_B))
            inputs_RCSS, objects_RSS = vary(on_device(images_BTTC, device), first), None
            if self._with_masks:
                inputs_RCSS, objects_RSS = inputs_RCSS[:, :3], inputs_RCSS[:, 3] > 0
                inputs_RCSS = inputs_RCSS.contiguous(memory_format=torch.channels_last)
            yield Share(
                inputs_RCSS,
                target_D[own].repeat(1 + copies) if copies else target_D[own],
                None if counterfactual_D is None else self._with_copies(counterfactual_D[own]),
                objects_RSS,
                len(draws_B),
                start,
                None if seed_M is None else seed_M[draws_B],
            )
            start, first = own.stop, first + len(images_BTTC)

    def _loaded(
        self, position_M: np.ndarray, draws: Sequence[np.ndarray], seed_M: np.ndarray | None
    ) -> Iterator[torch.Tensor]:
        if seed_M is None:
            return self._train.batches([position_M[draws_B] for draws_B in draws])
        return self._train.copies([Draws(position_M[draws_B], seed_M[draws_B]) for draws_B in draws])

    def _counterfactual(self, position_D: np.ndarray) -> torch.Tensor | None:
        found = self._train.counterfactual_N
        if not found.any() and "counterfactual" not in self._roles:
            return None
        return torch.from_numpy(found[position_D]).to(self._worker.device)

    def _with_copies(self, counterfactual_B: torch.Tensor) -> torch.Tensor:
        copies = [torch.full_like(counterfactual_B, role == "counterfactual") for role in self._roles]
        return torch.cat([counterfactual_B, *copies])


def makes_copies(infilling: Infilling | None) -> bool:
    """Whether pictures are filled while a classifier is fitted."""
    return bool(fills_of(infilling)) or (infilling is not None and infilling.factual == "fgsm")
