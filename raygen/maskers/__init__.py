"""Maskers: which pixels of a picture are generated anew. Pure model code, no Ray."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol, assert_never

import numpy as np
from pydantic import Field

from raygen.classifier import load_frozen
from raygen.errors import RowError
from raygen.maskers.box import BoxConfig, BoxMasker
from raygen.maskers.cam import CamConfig, CamMasker
from raygen.maskers.language import LanguageConfig, LanguageMasker, load_finder
from raygen.maskers.regions import Repaint
from raygen.maskers.truth import TruthConfig, TruthMasker
from raygen.maskers.whole import WholeConfig, WholeMasker

AnyMasker = TruthConfig | BoxConfig | CamConfig | LanguageConfig | WholeConfig
MaskerConfig = Annotated[AnyMasker, Field(discriminator="name")]


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


def load_masker(config: AnyMasker, classifier_folder: str, *, device: str = "cpu") -> Masker:
    """The masker of a config.

    Args:
        config: One of `MaskerConfig`.
        classifier_folder: The classifier that CAM maskers look into; the others ignore it.
        device: "cpu" or "cuda".

    Raises:
        ModelError: The classifier, or a model that the masker loads, is absent or incomplete.
        ConfigError: The masker's model cannot read an object text.
    """
    match config:
        case TruthConfig():
            return TruthMasker(config)
        case BoxConfig():
            return BoxMasker(config)
        case CamConfig():
            return CamMasker(config, load_frozen(Path(classifier_folder), device))
        case WholeConfig():
            return WholeMasker()
        case LanguageConfig():
            return LanguageMasker(config, load_finder(config, device=device))
        case _:
            assert_never(config)
