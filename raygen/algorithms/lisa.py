"""LISA: mixes pairs of pictures that break the cue (Yao et al., ICML 2022, arXiv 2201.00299).

Selective augmentation: two pictures of one label with different attributes ("intra-label"), so that the attribute says
nothing, or of one attribute with different labels ("intra-domain"), so that it cannot tell them apart. It needs the
group of every training image. Only mixed pictures are fitted on; nothing is weighted.

Differs from the authors' code, which reads one loader for each of four groups: their epoch ends with the smallest group
(4 steps on Waterbirds), here it has as many mixed pictures as there are training images, so that epochs of all
algorithms cost alike; and groups may be many (after SubpopBench's rule: a mode for each batch, then pairs of it). Their
cutmix takes its alpha from the flag of group DRO, whose default is 0.2; here it is `cutmix_alpha`, with that value.
"""

# N images, C classes, A attributes, B mixed pictures of a batch, S side of the classifier's square

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from raygen.algorithms.feed import Terms
from raygen.algorithms.loop import LoopConfig, fit_loop, mean_weights
from raygen.algorithms.mixing import Box, Mixed
from raygen.algorithms.training_set import TrainingSet, known_groups
from raygen.classifier import Classifier
from raygen.errors import ConfigError, DataError
from raygen.inpainters.fills import Infilling
from raygen.worker import Worker

Mode = Literal["intra_label", "intra_domain"]
MODES: tuple[Mode, ...] = ("intra_label", "intra_domain")


class LisaConfig(LoopConfig):
    """LISA.

    The authors' settings: SGD of a constant rate, 16 pictures of each group a step; Waterbirds mixup, 1e-3, weight
    decay 1e-4, 300 of their epochs (1200 steps); CelebA cutmix, 1e-4, 1e-4, 50. The defaults of the loop are for the
    small ResNet of the scenes.

    Attributes:
        operation: "mixup": pixels are means of both pictures, one share for each pair; "cutmix": a box of the second
            over the first, one share and box for the batch.
        mixup_alpha: Shares are drawn from Beta(alpha, alpha) (authors: 2).
        cutmix_alpha: The same of "cutmix".
        intra_label: Probability that a batch mixes within labels and across attributes; else within attributes and
            across labels. Where no pair of the one kind exists, the other is taken.
        init: Weights to start from.
    """

    paper = "LISA (Yao et al. 2022, arXiv 2201.00299)"
    label_access = "train: group; validation: group to select"
    needs_groups_of = "train"
    without_terms = ("saliency_penalty", "mixup_alpha")  # it mixes by itself, and `mixup_alpha` says how

    name: Literal["lisa"] = "lisa"
    operation: Literal["mixup", "cutmix"] = "mixup"
    mixup_alpha: float = Field(2.0, gt=0)
    cutmix_alpha: float = Field(0.2, gt=0)
    intra_label: float = Field(0.5, ge=0, le=1)
    init: Literal["scratch", "erm"] = "scratch"

    @model_validator(mode="after")
    def _terms_go_together(self) -> "LisaConfig":
        if self.saliency_penalty:
            raise ValueError(
                "saliency_penalty is set, and lisa mixes pictures: the penalty asks for the gradient of one picture's "
                "one label. Set it to 0, or take an algorithm such as erm or group_dro"
            )
        return self

    @property
    def terms(self) -> Terms:
        """Its own mixing is no term of the loss."""
        return Terms(label_smoothing=self.label_smoothing)

    def check_infilling(self, infilling: Infilling) -> None:
        """Mixed pictures have no object that could be replaced, nor a label that they are not."""
        raise ConfigError(
            "algorithm lisa mixes pictures, and counterfactual and factual ones (synthesis infill) cannot be mixed; "
            "take another algorithm, such as erm or jtt"
        )

    def check_groups(self, counts_CA: np.ndarray) -> None:
        """Checks that two groups share a label or an attribute."""
        labels, attributes = np.nonzero(counts_CA)
        group_pairs(labels * counts_CA.shape[1] + attributes, num_attributes=counts_CA.shape[1])


Config = LisaConfig


def fit(
    config: LisaConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Fits on mixed pictures; gives back the history.

    Raises:
        DataError: An image of the dataset has no attribute, or no two groups can be mixed.
    """
    group_N = known_groups(train, algorithm="lisa")
    mixing = SelectiveMixing(group_N, config, num_attributes=train.num_attributes, size_px=classifier.frame.size_px)
    return fit_loop(classifier, train, val, config, seed=seed, worker=worker, loss_weights=mean_weights, mixing=mixing)


def group_pairs(groups: np.ndarray, *, num_attributes: int) -> dict[Mode, np.ndarray]:
    """Ordered pairs of groups that may be mixed, by mode, (pairs, 2) int each; a mode without any is left out.

    Args:
        groups: The groups that occur.
        num_attributes: A; a group is label * A + attribute.

    Raises:
        DataError: There is none.
    """
    present = np.unique(groups[groups >= 0])
    label_G, attribute_G = np.divmod(present, max(num_attributes, 1))
    same_label_GG = label_G[:, None] == label_G
    same_attribute_GG = attribute_G[:, None] == attribute_G
    found: dict[Mode, np.ndarray] = {}
    for mode, allowed_GG in zip(
        MODES, (same_label_GG & ~same_attribute_GG, same_attribute_GG & ~same_label_GG), strict=True
    ):
        if allowed_GG.any():
            found[mode] = present[np.argwhere(allowed_GG)]
    if not found:
        raise DataError(
            "algorithm lisa mixes images of one class with different attributes, or of one attribute with different "
            f"classes, and the training images have none: every one of their {len(present)} group(s) has a class and "
            "an attribute of its own. Take an algorithm that needs no groups, such as jtt, or add images"
        )
    return found


class SelectiveMixing:
    """Draws LISA's pairs.

    Every pair of groups of a batch's mode is drawn equally often, and in a group every image.

    Args:
        group_N: Group of each training image, (N,) int; those of -1 are never drawn.
        config: How.
        num_attributes: A.
        size_px: S.

    Raises:
        DataError: No two groups can be mixed.
    """

    def __init__(self, group_N: np.ndarray, config: LisaConfig, *, num_attributes: int, size_px: int) -> None:
        self._config, self._size_px = config, size_px
        self._pairs = group_pairs(group_N, num_attributes=num_attributes)
        self._order = np.argsort(group_N, kind="stable")
        self._first_of = np.searchsorted(group_N[self._order], np.arange(group_N.max() + 2))

    def draw(self, sizes: Sequence[int], rng: np.random.Generator) -> list[Mixed]:
        """The mixed batches of an epoch."""
        return [self._batch(size, rng) for size in sizes]

    def _batch(self, size: int, rng: np.random.Generator) -> Mixed:
        wanted: Mode = "intra_label" if rng.random() < self._config.intra_label else "intra_domain"
        pairs = self._pairs.get(wanted)
        if pairs is None:
            (pairs,) = self._pairs.values()
        chosen_B2 = pairs[rng.integers(len(pairs), size=size)]
        first_B, second_B = (self._members(group_B, rng) for group_B in chosen_B2.T)
        if self._config.operation == "mixup":
            alpha = self._config.mixup_alpha
            return Mixed(first_B, second_B, rng.beta(alpha, alpha, size=size))
        share = float(rng.beta(self._config.cutmix_alpha, self._config.cutmix_alpha))
        middle = rng.integers(self._size_px, size=2)
        box = cutmix_box(share, row=int(middle[0]), column=int(middle[1]), size_px=self._size_px)
        return Mixed(first_B, second_B, np.full(size, share_outside(box, size_px=self._size_px)), box)

    def _members(self, group_B: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """An image of each group."""
        begin_B, end_B = self._first_of[group_B], self._first_of[group_B + 1]
        return np.asarray(self._order[begin_B + rng.integers(end_B - begin_B)])


def cutmix_box(share: float, *, row: int, column: int, size_px: int) -> Box:
    """The box that is cut out of the second picture (Yun et al. 2019, arXiv 1905.04899).

    Its side is int(S sqrt(1 - share)), half of it, rounded down, each way from the middle, cut off at the edges.

    Args:
        share: How much of the first picture is to be left.
        row: Of the middle.
        column: Of the middle.
        size_px: S.
    """
    half = int(size_px * np.sqrt(1 - share)) // 2
    top, left = max(row - half, 0), max(column - half, 0)
    return top, left, min(row + half, size_px) - top, min(column + half, size_px) - left


def share_outside(box: Box, *, size_px: int) -> float:
    """The exact share of pixels that a box leaves."""
    _, _, height, width = box
    return 1 - height * width / size_px**2
