"""How much each image of a batch counts in its loss: by what it is, or by how the classifier does."""

# B images of a batch

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from raygen.classifier import Classifier

# (label_B, generated_B) -> weight of each image's cross entropy in the loss, (B,) float
LossWeights = Callable[[np.ndarray, np.ndarray], np.ndarray]


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


@runtime_checkable
class Companion(Protocol):
    """A second network that learns from the same batches, and says how much their images count for the first one.

    Both are stepped at the same rates, on the same inputs; of each the losses are those before the step. The network,
    its optimizer and what is remembered are part of every checkpoint. With several workers its gradients are averaged
    over them too.

    Attributes:
        classifier: The second network.
    """

    @property
    def classifier(self) -> Classifier: ...  # noqa: D102

    def objective(self, logits_BC: torch.Tensor, target_B: torch.Tensor) -> torch.Tensor:
        """What the second network's mean loss is over, (B,): its own of each image."""
        ...

    def weigh_beside(self, positions_B: np.ndarray, losses_B: np.ndarray, companion_losses_B: np.ndarray) -> np.ndarray:
        """Weight of each image's cross entropy in the first network's loss, (B,) float.

        Args:
            positions_B: Which images of the training set, (B,) int; the whole batch, on every worker alike.
            losses_B: The first network's cross entropies, (B,) float64.
            companion_losses_B: The second one's.
        """
        ...

    def state(self) -> dict[str, Any]:
        """What is remembered beside the network: tensors and numbers."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` gave."""
        ...


class Remembered:
    """What loss weights remember, as a part of a checkpoint."""

    def __init__(self, weights: AdaptiveWeights | Companion | None) -> None:
        self._weights = weights

    def state_dict(self) -> dict[str, Any] | None:
        """What is remembered; None where nothing is."""
        return None if self._weights is None else self._weights.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        if self._weights is not None:
            self._weights.restore(state)
