"""Repaint masks from words: the object is found by its name.

DBB (arXiv 2503.17226) asks LangSAM for the dataset's word for its objects and takes the union of the instance masks.
"""

# N images, H height, W width, C colour channels

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field

from raygen.datasets.table import DatasetInfo
from raygen.errors import ConfigError, RowError
from raygen.maskers.base import MaskerBase, Repaint
from raygen.maskers.clipseg import ClipsegConfig
from raygen.maskers.grounded_sam import GroundedSamConfig
from raygen.maskers.truth import dilate
from raygen.model_files import TINY

AnyFinder = ClipsegConfig | GroundedSamConfig
# Whose pictures the shipped CLIPSeg knows.
TINY_DATASET = "scenes"
FinderConfig = Annotated[AnyFinder, Field(discriminator="kind")]


class LanguageConfig(MaskerBase):
    """Repaint what a text names.

    Attributes:
        finder: Which models look for it.
        texts: What to look for, per class of the row.
        dilation_px: Radius by which the object is grown, pixels of the picture.
    """

    name: Literal["language"] = "language"
    finder: FinderConfig = ClipsegConfig()
    texts: tuple[str, ...] = Field(min_length=1)
    dilation_px: int = Field(8, ge=0)


class Finder(Protocol):
    """Pictures and labels in, object masks in the pictures' own frames out; a RowError where nothing is found."""

    def __call__(self, images: Sequence[np.ndarray], labels: Sequence[int]) -> list[np.ndarray | RowError]: ...  # noqa: D102


class LanguageMasker:
    """Repaint = what a text names, grown.

    Args:
        config: How far the object is grown.
        finder: Finds it.
    """

    label_column: ClassVar = "source_label"

    def __init__(self, config: LanguageConfig, finder: Finder) -> None:
        self._dilation_px, self._finder = config.dilation_px, finder

    def __call__(
        self, images: Sequence[np.ndarray], objects: Sequence[np.ndarray | RowError | None], labels: Sequence[int]
    ) -> list[Repaint | RowError]:
        """Masks per picture; a RowError where nothing of that name is found."""
        return [
            found if isinstance(found, RowError) else Repaint(dilate(found, radius_px=self._dilation_px), found)
            for found in self._finder(images, labels)
        ]


Config = LanguageConfig


def load(config: LanguageConfig, classifier_folder: str, *, device: str) -> LanguageMasker:
    """The masker of a config."""
    return LanguageMasker(config, config.finder.load(config.texts, device=device))


def object_texts(config: AnyFinder, dataset: DatasetInfo) -> tuple[str, ...]:
    """What to look for, per class.

    Args:
        config: Its `text` is taken where it is given.
        dataset: Has its own words for its objects.

    Raises:
        ConfigError: A list with another number of entries than there are classes, an empty text, classes that have
            no names, or the shipped model on pictures that it does not know.
    """
    given, num_classes = config.text, len(dataset.class_names)
    if given is None and isinstance(config, ClipsegConfig) and config.model == TINY and dataset.name != TINY_DATASET:
        raise ConfigError(
            f"synthesis.language.model is '{TINY}', which knows only the birds of '{TINY_DATASET}', but the dataset is "
            f"'{dataset.name}'. Name a model that knows its objects (synthesis.language.model, or "
            "synthesis.language.kind=grounded_sam with detector and segmenter), or set synthesis.mask to truth, box or "
            "cam. If the pictures are scenes, say what to look for: synthesis.language.text=bird"
        )
    if given is None and dataset.has_numbered_classes and dataset.object_words == dataset.class_names:
        raise ConfigError(
            f"nothing names the classes of the dataset '{dataset.name}', so the masker would look for "
            f"'{dataset.object_words[0]}'. Set dataset.class_names, such as '[landbird, waterbird]' in the order of "
            "the labels, or synthesis.language.text"
        )
    texts = dataset.object_words if given is None else (given,) * num_classes if isinstance(given, str) else given
    if len(texts) != num_classes:
        raise ConfigError(
            f"synthesis.language.text has {len(texts)} entries, but the dataset has {num_classes} classes"
        )
    if not all(text.strip() for text in texts):
        raise ConfigError(f"synthesis.language.text is {list(texts)}; an empty text names nothing")
    return texts
