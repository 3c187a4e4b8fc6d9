"""What raygen asks an algorithm's config, with the answer that holds for most: a paper overrides what is its own."""

# N images, C classes, A attributes

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from raygen.algorithms.selection import SelectBy
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import Decides, Strict
from raygen.errors import ConfigError
from raygen.inpainters.fills import Infilling
from raygen.worker import Numerics, Worker


class AlgorithmBase(Strict, decides=Decides.RESULTS):
    """Base of every algorithm's config.

    Attributes:
        paper: Where it comes from.
        label_access: Labels that it reads of each split, "class" or "group" (class and attribute), and what for where
            that is less than the fit itself: "train: class; validation: group to select". Where groups only select,
            a dataset without attributes is selected on by its worst class.
        recipe_name: What it is called in a recipe's name; by default as in the registry.
        is_recipe: Whether it is a recipe by itself too, without a synthesis.
        needs_groups_of: The split whose images must all have an attribute; None: neither.
        without_terms: Fields of terms of the loss that a recipe's name cannot ask it for, although it has them.
        space: What of its fields a sweep of its synthesis's own recipe searches by default: fields of a
            `tune.domains.Domain` by the field's name.
        former_space: Domains that stood there before: a sweep that was begun with one goes on with it.
    """

    paper: ClassVar[str]
    label_access: ClassVar[str]
    recipe_name: ClassVar[str | None] = None
    is_recipe: ClassVar[bool] = True
    needs_groups_of: ClassVar[Literal["train", "val"] | None] = None
    without_terms: ClassVar[tuple[str, ...]] = ()
    space: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    former_space: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    if TYPE_CHECKING:  # fields that each declares itself, and so at a place of its own in a config's file
        name: str  # that of the registry
        init: Literal["scratch", "erm"]  # weights to start from: new ones, or the first fit's

    def check_classes(self, num_classes: int) -> None:
        """Checks before any work that the config fits a dataset's classes.

        Raises:
            ConfigError: A list in it does not.
        """

    def check_groups(self, counts_CA: np.ndarray) -> None:
        """Checks before any work that the groups of the split `needs_groups_of` are large enough.

        Args:
            counts_CA: Images of each class with each attribute, (C, A) int.

        Raises:
            DataError: They are not.
        """

    def needs_masks(self) -> bool:
        """Whether object masks of the training images are needed."""
        return False

    def map_setting(self) -> str | None:
        """What of it needs class activation maps, for messages; None: nothing does."""
        return None

    def check_numerics(self, numerics: Numerics) -> None:
        """Checks before any work that the fit can be computed so.

        Raises:
            ConfigError: It cannot.
        """

    def check_infilling(self, infilling: Infilling) -> None:
        """Checks before any work that the fit can take counterfactual and factual pictures, as these settings say.

        Most cannot: of a counterfactual picture only a loss that knows of it learns what its label is not.

        Raises:
            ConfigError: It cannot.
        """
        raise ConfigError(
            f"algorithm {self.name} knows no counterfactual or factual pictures (synthesis infill); take one that fits "
            "all of a network by the loss of each picture, such as erm, jtt or group_dro, or dfr"
        )

    def check_counts(self, train_C: np.ndarray, val_C: np.ndarray) -> None:
        """Checks before any work that the classes of both splits are large enough.

        Args:
            train_C: Training images of each class, (C,) int.
            val_C: Validation images of each class, (C,) int.

        Raises:
            DataError: They are not.
        """

    def selects_by(self) -> SelectBy | None:
        """What validation images are told apart by where the worst of them is selected by; None: nothing is."""
        return None

    def held_out_fold(self) -> tuple[int, int] | None:
        """The fold (number, of how many) of the training images that this fit takes and its first fits leave out.

        None: all of them take all images.
        """
        return None

    def fitted_anew(self, *, has_extra: bool) -> Mapping[str, Any]:
        """Plain data that such a fit depends on beside the fields; empty where it is what it always was.

        Where a method is mended that has no field for it, what is given here makes folders of before fit again.

        Args:
            has_extra: Whether pictures stand beside the dataset's.
        """
        return {}

    def first_fits(self, erm: "AlgorithmBase", *, has_extra: bool) -> "Sequence[FirstFit]":
        """The fits that have to come before this algorithm's own, where there may be more than one."""
        first = self.first_fit(erm, has_extra=has_extra)
        return [] if first is None else [first]

    def first_fit(self, erm: "AlgorithmBase", *, has_extra: bool) -> "FirstFit | None":
        """The fit that has to come before this algorithm's own; None: there is none.

        Args:
            erm: How the run fits "as usual".
            has_extra: Whether its own has pictures beside the dataset's.
        """
        return None


class FindErrors(Protocol):
    """Fits in place, as an algorithm's `fit` does, and finds what is still wrong."""

    def __call__(
        self, config: Any, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
    ) -> tuple[np.ndarray, list[dict[str, float]]]:
        """The error set, (N,) bool, and the history."""
        ...


@dataclass(frozen=True, slots=True)
class FirstFit:
    """A fit that comes before an algorithm's own.

    Attributes:
        config: How; all of it decides the result.
        folder: Where such fits stand in a run's folder.
        what: What is got from it, for messages.
        of_original: Whether it takes the dataset's own images only, and is one for all fits of a run.
        find_errors: For an error set (`TrainingSet.error_N`): what fits and finds it. None: the algorithm starts from
            the weights of this fit, which is an ordinary one.
        beside: Whether the algorithm reads this classifier (`Worker.beside`) in place of starting from its weights.
    """

    config: AlgorithmBase
    folder: str
    what: str
    of_original: bool = False
    find_errors: FindErrors | None = None
    beside: bool = False
