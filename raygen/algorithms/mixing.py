"""Mixed pictures: a fit sees two pictures as one, and each of their labels counts by how much is there of its own."""

# B mixed pictures of a batch, S side of the classifier's square, C colour channels

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

# Top, left, height and width in pixels of the classifier's square.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Mixed:
    """A batch of mixed pictures.

    Attributes:
        first_B: Positions of the first picture of each pair in the training set, (B,) int.
        second_B: The same of the second.
        share_B: How much of the first there is, (B,) float in [0, 1]; its label's share of the loss too.
        box: What is cut out of the second and put over the first; None: every pixel is the mean of both by `share_B`.
    """

    first_B: np.ndarray
    second_B: np.ndarray
    share_B: np.ndarray
    box: Box | None = None

    @property
    def positions(self) -> np.ndarray:
        """Of all that is loaded, (2B,) int: the first pictures, then the second ones."""
        return np.concatenate([self.first_B, self.second_B])

    def own(self, rank: int, world_size: int) -> "Mixed":
        """A worker's share of the batch; both pictures of a pair are on the same worker."""
        part = slice(rank, None, world_size)
        return Mixed(self.first_B[part], self.second_B[part], self.share_B[part], self.box)


class Mixing(Protocol):
    """Draws pairs."""

    def draw(self, sizes: Sequence[int], rng: np.random.Generator) -> list[Mixed]:
        """The mixed batches of an epoch.

        Args:
            sizes: Mixed pictures of each batch.
            rng: Draws.
        """
        ...


def mix_inputs(inputs_NCSS: torch.Tensor, share_B: torch.Tensor, box: Box | None) -> torch.Tensor:
    """Mixed pictures, (B, 3, S, S).

    Args:
        inputs_NCSS: The first picture of each pair, then the second ones, (2B, 3, S, S).
        share_B: How much of the first.
        box: See `Mixed`.
    """
    first_BCSS, second_BCSS = inputs_NCSS.chunk(2)
    if box is None:
        share_B111 = share_B.to(inputs_NCSS.dtype)[:, None, None, None]
        return share_B111 * first_BCSS + (1 - share_B111) * second_BCSS
    top, left, height, width = box
    mixed_BCSS = first_BCSS.clone()
    part = (..., slice(top, top + height), slice(left, left + width))
    mixed_BCSS[part] = second_BCSS[part]
    return mixed_BCSS


def label_shares(share_B: torch.Tensor) -> torch.Tensor:
    """What each label of the pairs counts in a mean over all 2B of them, (2B,): twice its picture's share.

    The mean is then that of the mixed pictures' soft cross entropies, share * CE_first + (1 - share) * CE_second.
    """
    return 2 * torch.cat([share_B, 1 - share_B])
