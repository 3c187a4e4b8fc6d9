"""What raygen asks a synthesis's config, with the answer that holds for most: a paper overrides what is its own."""

# C classes

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa

from raygen.config import Decides, Strict
from raygen.inpainters import InpainterConfig
from raygen.inpainters.fills import Infilling
from raygen.maskers.language import AnyFinder
from raygen.schema import SCORE
from raygen.stages.spec import Stage

# What is looked at before a plan: the share of a picture's pixels that its mask has painted anew.
REPAINT_FRACTION = "repaint_fraction"


@dataclass(frozen=True, slots=True)
class OwnPainter:
    """What makes a synthesis's pictures where no model does, as a stage of the inpainter's pool.

    Attributes:
        stage: Built with `masker` (fields), `classifier_folder`, `data_folder`, `num_rows`, `device`, `seed`, and
            `settings`; reads and writes what `raygen.stages.inpaint.InpaintStage` does.
        name: Of the stage, for what pictures depend on.
        settings: Its other arguments, plain data; they decide the pictures.
    """

    stage: Callable[..., Stage]
    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class MaskSearch:
    """A look at training images that decides how they are masked, before any mask is made.

    Attributes:
        num_images: Training images that are looked at; drawn by the run's seed.
        column: What the stage writes for each, a list of float32.
        stage: Built with `classifier_folder`, `device` and `settings`; runs in the masker's pool on `image_png` and
            `label`.
        settings: Its other arguments, plain data.
        found: From the column's values, (images, values), to fields of the masker's config.
    """

    num_images: int
    column: str
    stage: Callable[..., Stage]
    settings: Mapping[str, Any]
    found: Callable[[np.ndarray], dict[str, Any]]

    @property
    def schema(self) -> pa.Schema:
        """Of its table."""
        return pa.schema(
            [
                *(SCORE.field(name) for name in ("image_id", "label")),
                pa.field(self.column, pa.list_(pa.float32())),
                *(SCORE.field(name) for name in ("status", "error")),
            ]
        )


class SynthesisBase(Strict, decides=Decides.RESULTS):
    """Base of every synthesis's config.

    One field is marked `Decides.AMOUNT`; what only decides which candidates are kept, `Decides.FIT`.

    Attributes:
        paper: Where it comes from.
        label_access: Labels that it reads of each split, "class" or "group" (class and attribute): "train: class".
        algorithm: Name of the algorithm of the paper's own recipe.
        space: What of its fields a sweep searches by default: fields of a `tune.domains.Domain` by the field's name.
        presets: Settings of a run by a name of their own, which `raygen run --preset NAME` takes: values by the field's
            path in the run's config, such as {"paper": {"synthesis.k": 200, "algorithm.gamma": 5}}.
        asks_by_class: Whether its prompts are those of the classes.
        name: That of the registry, and of the paper's own recipe.
    """

    paper: ClassVar[str]
    label_access: ClassVar[str]
    algorithm: ClassVar[str] = "erm"
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    asks_by_class: ClassVar[bool] = True

    name: str

    @classmethod
    def inpainter_defaults(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults of the inpainter's config that differ from its own.

        Args:
            fields: The config as it was given, not checked yet.
        """
        return {}

    @classmethod
    def preset_fields(cls, preset: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a preset sets: that of `presets`, and where a paper needs it what suits the rest of the run.

        Args:
            preset: One of `presets`.
            config: The run's config as it was given, not checked yet.
        """
        return cls.presets[preset]

    def plans(self) -> bool:
        """Whether candidates are made; else its pictures are made while a classifier is fitted."""
        return True

    def paints(self) -> bool:
        """Whether the inpainting model paints any of them."""
        return True

    def as_candidates(self) -> Infilling | None:
        """The values that candidates get in place of what a model paints for a prompt; None: they do not."""
        return None

    def in_training(self) -> Infilling | None:
        """What a fit does with counterfactual and factual pictures; None: it meets none."""
        return None

    def check_inpainter(self, inpainter: InpainterConfig) -> None:
        """Checks that the pictures can be painted as the inpainter's config says.

        Raises:
            ValueError: They cannot.
        """

    def check_classes(self, counts: Mapping[str, int]) -> None:
        """Checks before any work that the config fits a dataset's classes.

        Args:
            counts: Training images by class name, in order of label.

        Raises:
            ConfigError: A list in the config does not fit the classes.
            DataError: A class has fewer images than asked for.
        """

    def num_sources(self, counts_C: np.ndarray) -> list[int] | None:
        """Training images of each class that are taken, whether or not there are as many; None: not known before.

        Raises:
            ConfigError: The config has another number of classes.
        """
        return None

    def looks_at(self, scores: pa.Table) -> pa.Table | None:
        """Rows of the scores whose repaint masks are to be made before `select`; None, or no row: of no image.

        `select` then finds the column REPAINT_FRACTION in its scores, null for an image that was not looked at or that
        no mask could be made of.
        """
        return None

    def identification_epochs(self) -> int | None:
        """Epochs of the ERM classifier whose scores are selected by; None: all of them."""
        return None

    def identification_folds(self) -> int | None:
        """Folds by whose out-of-fold predictions is selected; None: by those of the one identification classifier."""
        return None

    def score_columns(self) -> Sequence[str]:
        """Columns of the scores that `select` and `thresholds` read; features are most of the bytes."""
        return SCORE.names

    def measure(self) -> tuple[Literal["exact", "ig"], int]:
        """How rho is computed, and the steps of integrated gradients.

        Where nothing is pruned by it two forward passes are cheap enough for the report.
        """
        return "exact", 1

    def tolerance(self) -> float | None:
        """The completeness error at which integrated gradients stop before all of their steps; None: they do not."""
        return None

    def own_painter(self) -> OwnPainter | None:
        """What makes the pictures in place of the inpainting model; None: that model does."""
        return None

    def mask_search(self) -> MaskSearch | None:
        """What has to be known of the training images before any is masked; None: nothing."""
        return None

    def object_growth_px(self) -> int | None:
        """How far repaint masks reach beyond the object; None: what is repainted is not the object."""
        return None

    def finder(self) -> AnyFinder | None:
        """The models that find objects by name, where the masker uses any."""
        return None

    def with_absolute_models(self) -> Self:
        """The config with the folders of these models in full, for workers."""
        return self

    def map_setting(self) -> str:
        """The setting that asks for class activation maps, for messages."""
        return f"synthesis.name={self.name}"
