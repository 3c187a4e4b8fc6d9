"""Maskers: which pixels of a picture are generated anew. Pure model code, no Ray."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import SerializeAsAny

from raygen.config import HasConfig, one_of
from raygen.errors import RowError
from raygen.maskers import box, cam, language, truth, whole
from raygen.maskers.base import MaskerBase, Repaint


class Masker(Protocol):
    """Pictures in, repaint masks in the pictures' own frames out.

    Attributes:
        label_column: The plan's column from which `labels` are taken.
    """

    @property
    def label_column(self) -> str: ...  # noqa: D102

    def __call__(
        self, images: Sequence[np.ndarray], objects: Sequence[np.ndarray | RowError | None], labels: Sequence[int]
    ) -> list[Repaint | RowError]:
        """A repaint mask per picture, True = generated anew; a RowError where there is none.

        Args:
            images: Pictures, (H, W, 3) uint8 each.
            objects: The dataset's object masks, (H, W) bool each, None where it ships none, and why not where one
                cannot be read: no failure but to a masker that needs it.
            labels: A label per picture, for maskers that explain one or look for what it names.
        """
        ...


class MaskerModule(HasConfig[MaskerBase], Protocol):
    """What a masker's module has."""

    def load(self, config: Any, classifier_folder: str, *, device: str) -> Masker:
        """The masker of a config.

        Args:
            config: The module's.
            classifier_folder: The classifier, for maskers that look into it.
            device: "cpu" or "cuda".

        Raises:
            ModelError: The classifier, or a model that the masker loads, is absent or incomplete.
            ConfigError: The masker's model cannot read an object text.
        """
        ...


# The registry, by the `name` of the config; what is put into it later counts too.
MASKERS: dict[str, MaskerModule] = {"truth": truth, "box": box, "cam": cam, "language": language, "whole": whole}
MaskerConfig = Annotated[SerializeAsAny[MaskerBase], one_of(MASKERS)]


def load_masker(config: MaskerBase, classifier_folder: str, *, device: str = "cpu") -> Masker:
    """The masker of a config; see `MaskerModule.load`."""
    return MASKERS[config.name].load(config, classifier_folder, device=device)
