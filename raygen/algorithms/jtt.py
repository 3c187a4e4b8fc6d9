"""JTT, just train twice: what one classifier gets wrong counts more for the next (Liu et al. 2021, arXiv 2107.09044).

No group labels of training images. Two fits: `find_errors` (the identification classifier and its error set E), which
runs once for a run and all its controls, and `fit`.
"""

# N images, M draws of an epoch, B images of a batch

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from raygen.algorithms.base import AlgorithmBase, FirstFit
from raygen.algorithms.inference import right_predictions
from raygen.algorithms.loop import LoopConfig, fit_loop, mean_weights
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import Identity
from raygen.errors import DataError
from raygen.worker import Worker

# `up_weight` by the rule of the authors' code.
BY_RULE = -1


class JttConfig(LoopConfig):
    """JTT. All fields of the loop hold for both fits, but for `epochs` and `select`, which are the second's.

    The paper's settings: Waterbirds T = 60, lambda = 100, learning rate 1e-5, weight decay 1, 300 epochs of batches of
    64; CelebA T = 1, lambda = 50, 1e-5, 0.1, 50 epochs. The defaults are for the small ResNet of the scenes.

    Attributes:
        epochs: Passes of the second fit, over the training set with E repeated.
        learning_rate: Of both fits (authors: the same for both, and constant).
        identification_epochs: T, epochs of the identification classifier; its last epoch is taken. The authors' code
            counts from 0: its `--final_epoch 60` is 61 here.
        identification_schedule: How its rate goes. "own": as `schedule` says, all of it in these T epochs, so that it
            is a fit of its own and not the beginning of a longer one. "constant": `learning_rate` throughout, as in the
            paper, whose rate never changes; `schedule` is then the second fit's alone.
        online: Where E comes from. False: an evaluation pass over the training images after T epochs (the paper). True:
            the training passes of epoch T themselves, with batch statistics, augmentation, and weights that move on
            from batch to batch (the authors' code).
        up_weight: lambda: an image of E counts lambda + 1 times (authors' code: E is appended lambda times). -1: their
            rule int((n - |E|) / |E|) - 1, which makes both parts about equally large; n and |E| are of the images that
            E is looked for in (`identify_on`), so by default generated pictures do not change lambda.
        identify_on: "original": E is taken from the dataset's own images, and a generated picture weighs 1; "all": the
            identification classifier is fitted and asked on the generated pictures too, once for every fit.
        init: Weights that the second classifier starts from. The identification classifier always starts anew.
    """

    paper = "JTT (Liu et al. 2021, arXiv 2107.09044)"
    label_access = "train: class; validation: group to select"

    name: Literal["jtt"] = "jtt"
    identification_epochs: int = Field(2, ge=1)
    identification_schedule: Annotated[Literal["own", "constant"], Identity.ABSENT_BY_DEFAULT] = "own"
    online: bool = False
    up_weight: int = Field(BY_RULE, ge=BY_RULE)
    identify_on: Literal["original", "all"] = "original"
    init: Literal["scratch", "erm"] = "scratch"

    def first_fit(self, erm: AlgorithmBase, *, has_extra: bool) -> FirstFit | None:
        """The identification classifier, for its error set."""
        # What only the second fit reads must not make the first one again; both start from new weights.
        second = {"epochs": 1, "select": "last", "select_by": "auto", "up_weight": 0, "init": "scratch"}
        second["epoch_length"] = "all"
        return FirstFit(
            self.model_copy(update=second),
            folder="jtt_errors",
            what="errors",
            of_original=self.identify_on == "original" or not has_extra,
            find_errors=find_errors,
        )

    def fitted_anew(self, *, has_extra: bool) -> Mapping[str, Any]:
        """Lambda by the rule, which once counted generated pictures too."""
        is_by_rule = self.up_weight == BY_RULE and self.identify_on == "original"
        return {"up_weight_of": "original"} if has_extra and is_by_rule else {}


Config = JttConfig


def find_errors(
    config: JttConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Fits the identification classifier in place; gives back E, (N,) bool, and the history.

    Raises:
        DataError: E is empty.
    """
    schedule = config.schedule if config.identification_schedule == "own" else "constant"
    first = config.model_copy(update={"epochs": config.identification_epochs, "select": "last", "schedule": schedule})
    online = OnlineErrors(len(train))
    weights = online if config.online else mean_weights
    history = fit_loop(classifier, train, val, first, seed=seed, worker=worker, loss_weights=weights)
    error_N = online.error_N if config.online else ~right_predictions(classifier, train, worker)
    if not error_N.any():
        raise DataError(
            f"JTT's error set is empty: after {config.identification_epochs} epoch(s) the identification classifier "
            f"gets all {len(train)} training images right, so there is nothing to count more. Lower "
            "algorithm.identification_epochs or algorithm.learning_rate, or raise algorithm.weight_decay."
        )
    return error_N, history


def fit(
    config: JttConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Fits the second classifier, with E in `train.error_N`; gives back the history. Without errors this is ERM."""
    assert train.error_N is not None, "JTT is fitted in two steps: find_errors comes first"
    asked_N = ~train.generated_N if config.identify_on == "original" else slice(None)
    copies = num_copies(train.error_N[asked_N], up_weight=config.up_weight)
    return fit_loop(
        classifier,
        train,
        val,
        config,
        seed=seed,
        worker=worker,
        loss_weights=mean_weights,
        occurrences_M=occurrences(train.error_N, copies=copies),
    )


def num_copies(error_N: np.ndarray, *, up_weight: int) -> int:
    """lambda: how often E is appended; by the rule of the authors' code where `up_weight` is -1.

    Args:
        error_N: Which of the images that E was looked for in are wrong, (N,) bool.
        up_weight: See `JttConfig`.
    """
    num_errors = int(error_N.sum())
    if up_weight != BY_RULE:
        return up_weight
    return max(0, (len(error_N) - num_errors) // num_errors - 1) if num_errors else 0


def occurrences(error_N: np.ndarray, *, copies: int) -> np.ndarray:
    """Positions of all images, then of E as often as `copies` says, (N + copies * |E|,) int."""
    return np.concatenate([np.arange(len(error_N)), np.tile(np.flatnonzero(error_N), copies)])


class OnlineErrors:
    """Plain mean weights, noting which images were wrong when the classifier last saw them in training.

    Every image is seen once an epoch, so after an epoch this is that epoch's error set.

    Attributes:
        error_N: (N,) bool.
    """

    def __init__(self, num_images: int) -> None:
        self.error_N = np.zeros(num_images, dtype=bool)

    def weigh(self, positions_B: np.ndarray, losses_B: np.ndarray, correct_B: np.ndarray) -> np.ndarray:
        """1 / B for every image; notes the wrong ones."""
        self.error_N[positions_B] = ~correct_B
        return np.full(len(positions_B), 1 / len(positions_B))

    def state(self) -> dict[str, Any]:
        """The notes."""
        return {"error": torch.from_numpy(self.error_N.copy())}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up the notes."""
        self.error_N = state["error"].cpu().numpy()
