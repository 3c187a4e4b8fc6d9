"""A dataset that was opened: what is known of it before any picture is read, and its rows to be written."""

# C classes, A attributes

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raygen.config import Decides, Strict
from raygen.datasets.pairs import Pair
from raygen.datasets.table import DatasetInfo


class DatasetBase(Strict, decides=Decides.RESULTS):
    """Base of every dataset's config.

    Attributes:
        name: That of the registry.
    """

    name: str


class OpenDataset(ABC):
    """A dataset as it was when it was opened: once, and then passed on.

    Attributes:
        info: Names of classes and attributes, and the prompts.
    """

    def __init__(self, info: DatasetInfo, counts: Counter[tuple[str, int, int | None]]) -> None:
        self.info, self._counts = info, counts

    def class_counts(self, split: str) -> dict[str, int]:
        """Images of each class of a split by the class's name, in order of label."""
        found: Counter[int] = Counter()
        for (where, label, _), count in self._counts.items():
            found[label] += count if where == split else 0
        return {name: found[label] for label, name in enumerate(self.info.class_names)}

    def group_counts(self, split: str) -> np.ndarray | None:
        """Images of each class with each attribute of a split, (C, A) int; None where one has no attribute."""
        counts_CA = np.zeros((len(self.info.class_names), len(self.info.attribute_names)), dtype=np.int64)
        for (where, label, attribute), count in self._counts.items():
            if where == split:
                if attribute is None:
                    return None
                counts_CA[label, attribute] += count
        return counts_CA

    def num_masks(self, split: str) -> int | None:
        """Images of a split that have an object mask; None where that is not known before they are read."""
        return None

    @property
    @abstractmethod
    def lines(self) -> list[str]:
        """What to say of it before work starts."""

    @abstractmethod
    def check(self) -> None:
        """Checks before any work what `write` or the first fit would refuse.

        Raises:
            DataError: The dataset's files, labels or counts are wrong.
        """

    @abstractmethod
    def state(self, *, run_seed: int) -> dict[str, Any]:
        """What decides its rows beside its config: the seed, or what its files are now."""

    @abstractmethod
    def write(self, folder: Path, *, run_seed: int) -> dict[str, int]:
        """Writes its SOURCE rows into an existing folder; the same dataset and seed give the same bytes.

        Returns:
            Rows per split.

        Raises:
            DataError: The dataset's files, labels or counts are wrong.
        """

    def pairs(
        self, image_ids: Sequence[str], groups: Sequence[tuple[int, int | None]], *, run_seed: int
    ) -> list[Pair | None]:
        """The same objects before another background, None for each picture that has none here.

        Args:
            image_ids: Rows that `write` gives.
            groups: Their label and attribute.
            run_seed: As `write` gets it.
        """
        return [None] * len(image_ids)

    def pairs_state(self) -> Any:
        """What decides the pairs beside the rows; None where nothing does."""
        return None
