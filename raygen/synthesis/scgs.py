"""SCGS: keep what fooled the classifier, repaint the rest (Li et al., arXiv 2412.19457).

Misclassified training images are clustered per class, a share of them is drawn per cluster by Gaussian
weights, and from each a number of pictures is generated that keeps the pixels the wrong prediction rests on
and shows the true class. The authors published no code; every choice that the paper leaves open is called an
assumption here.
"""

# N images of a class, D features, K clusters, C classes

import itertools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from raygen.config import Decides, Identity, PositiveInt
from raygen.datasets.table import DatasetInfo
from raygen.errors import ConfigError, DataError
from raygen.inpainters import InpainterConfig
from raygen.pruners import PruneThresholds
from raygen.synthesis.base import REPAINT_FRACTION, SynthesisBase
from raygen.synthesis.gaussian_sampling import (
    Covariance,
    gaussian_log_weights,
    kmeans_clusters,
    largest_remainder,
    sample_without_replacement,
)
from raygen.synthesis.plan import PlannedImage, TrainScores, plan_table, read_scores

logger = logging.getLogger(__name__)

# Fewer have no spread to cluster or to weigh by, and one image would be the source of every picture of its
# class.
MIN_MISCLASSIFIED = 2
# Default of `inpainter.strength` where the whole picture is repainted: Stable Diffusion web UIs' for img2img.
IMG2IMG_STRENGTH = 0.75


class ScgsConfig(SynthesisBase):
    """What SCGS generates.

    Attributes:
        mis_source: Which predictions decide what is misclassified: "epoch", those of an ERM classifier
            stopped early; "kfold", those of classifiers that have not seen the image, each fitted as `erm` says on
            the other folds. (At convergence no training image is misclassified; the paper does not say when it
            looks.) With "kfold" features, loss and heat maps are the ERM classifier's, since features of several
            classifiers cannot be compared; only the predicted label is out of fold. "erm": the ERM classifier's own,
            the default where `erm.from` brings one.
        mis_epoch: The epoch after which it is stopped, 0 = the first. MetaShift's logs suggest 0. Differs: it is a fit
            of its own, whose learning rates run through their whole schedule in these epochs.
        num_folds: Folds of "kfold".
        num_clusters: K-means clusters: a number for every class, or a list with one per class. 2 for Waterbirds and
            CelebA, 4 for MetaShift (paper).
        sample_fraction: Share of a class's misclassified images that become sources (paper: 0.2). Differs: all of them.
            A fifth is few where few are wrong: on the scenes eleven images are the sources of 1,473 pictures, and what
            is learned is their eleven backgrounds (docs/results.md).
        covariance: Of the Gaussian of eq. (3). "pca" (assumption): full covariance in the first principal
            components; "ledoit_wolf": shrunk, in all dimensions; "full": eq. (3) by pseudo-inverse, which
            gives equal weights as soon as there are more features than images; "uniform": equal weights.
        max_components: Components of "pca"; never more than a quarter of the cluster's images, since with all
            of them the weights are equal again.
        temperature: Divides the log-weights; larger is closer to equal.
        cam: Class activation map of the wrong prediction: "gradcam++" (paper) or "gradcam" (its table II); "none":
            the img2img baseline of table II, which keeps no region and repaints the whole picture from its noised
            self (`inpainter.strength`, then 0.75 by default, must be below 1).
        tau: Heat from which pixels are kept. Assumption: 0.7, where "red and orange" end in the usual colour
            maps.
        top_q: What is kept where the map is 0 everywhere, as it is when nothing speaks for the wrong class: this share
            of the pixels, those that speak least against it. By default such an image is no source, and its share of
            the pictures goes to others of its cluster.
        min_kept_fraction: An image of whose pixels less than this share is kept is no source either, in [0, 1).
            Assumption: none is too small; the paper does not say.
        gen_ratio: Pictures generated for a class, as a share of `gen_ratio_base` (paper: 0.4; CelebA 0.2).
        gen_ratio_base: "train_other": training images of the other classes; "mis_other": their misclassified
            ones; "equal": as many pictures in all as by "train_other", and as many for each class.
    """

    paper = "SCGS (Li et al., arXiv 2412.19457)"
    label_access = "train: class"
    space: ClassVar = {
        # 2 and 4 clusters: the paper's. Every pair of clusters and tau is a pool of its own. Clusters decide which
        # images are sources where a share of them is; with `sample_fraction` 1 leave them out (num_clusters: null).
        "num_clusters": {"values": (2, 4)},
        "tau": {"values": (0.5, 0.7)},
        "gen_ratio": {"low": 0.1, "high": 0.4, "step": 0.1},
    }
    presets: ClassVar = {
        "paper": {
            "synthesis.num_clusters": 2,
            "synthesis.sample_fraction": 0.2,
            "synthesis.cam": "gradcam++",
            "synthesis.gen_ratio": 0.4,
            "synthesis.gen_ratio_base": "train_other",
        },
    }

    name: Literal["scgs"] = "scgs"
    mis_source: Literal["epoch", "kfold", "erm"] = "epoch"
    mis_epoch: int = Field(0, ge=0)
    num_folds: int = Field(5, ge=2)
    num_clusters: PositiveInt | tuple[PositiveInt, ...] = 2
    sample_fraction: float = Field(1.0, gt=0, le=1)
    covariance: Covariance = "pca"
    max_components: int = Field(8, ge=1)
    temperature: float = Field(1.0, gt=0)
    cam: Literal["gradcam++", "gradcam", "none"] = "gradcam++"
    tau: float = Field(0.7, gt=0, le=1)
    top_q: float | None = Field(None, gt=0, lt=1)
    min_kept_fraction: Annotated[float, Identity.ABSENT_BY_DEFAULT] = Field(0.0, ge=0, lt=1)
    # A larger ratio only adds pictures to those of a smaller one: sources are taken in turn.
    gen_ratio: Annotated[float, Decides.AMOUNT] = Field(0.4, gt=0)
    gen_ratio_base: Literal["train_other", "mis_other", "equal"] = "train_other"

    @classmethod
    def inpainter_defaults(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """For the img2img baseline a strength that leaves something of the picture."""
        return {"strength": IMG2IMG_STRENGTH} if fields.get("cam") == "none" else {}

    def check_inpainter(self, inpainter: InpainterConfig) -> None:
        """Checks that the img2img baseline leaves something of the picture."""
        if self.cam == "none" and inpainter.strength == 1:
            raise ValueError(
                "synthesis.cam is none, which repaints the whole picture, but inpainter.strength is 1, which leaves "
                f"nothing of it; set inpainter.strength below 1, such as {IMG2IMG_STRENGTH}"
            )

    def check_classes(self, counts: Mapping[str, int]) -> None:
        """Checks the list of clusters."""
        clusters_per_class(self.num_clusters, num_classes=len(counts))

    def identification_epochs(self) -> int | None:
        """With "epoch", up to `mis_epoch`."""
        return self.mis_epoch + 1 if self.mis_source == "epoch" else None

    def identification_folds(self) -> int | None:
        """With "kfold"."""
        return self.num_folds if self.mis_source == "kfold" else None

    def looks_at(self, scores: pa.Table) -> pa.Table | None:
        """The misclassified images, for what the heat map leaves of each; none where every map leaves something."""
        if self.cam == "none" or (self.top_q is not None and not self.min_kept_fraction):
            return None
        ok = scores.filter(pc.equal(scores["status"], "ok"))
        return ok.filter(pc.not_equal(ok["label"], ok["predicted_label"]))

    def map_setting(self) -> str:
        """The map."""
        return f"synthesis.cam={self.cam}"


Config = ScgsConfig


def select(config: ScgsConfig, scores: pa.Table, *, dataset: DatasetInfo, run_seed: int) -> pa.Table:
    """PLAN rows sorted by key: pictures of each class, round-robin over its sampled misclassified images.

    Raises:
        ConfigError: `num_clusters` has another number of entries than there are classes.
        DataError: A class has fewer than two misclassified images, or none that a picture can be made from.
    """
    train = read_scores(scores)
    usable_N = _usable(config, train)
    num_classes = len(dataset.class_names)
    clusters_C = clusters_per_class(config.num_clusters, num_classes=num_classes)
    misclassified = [
        np.flatnonzero((train.label_N == label) & (train.predicted_N != label)) for label in range(num_classes)
    ]
    for label, rows in enumerate(misclassified):
        logger.info("class %d (%s): %d misclassified", label, dataset.class_names[label], len(rows))
        if len(rows) < MIN_MISCLASSIFIED:
            advice = "an earlier look (a lower synthesis.mis_epoch or erm.learning_rate), or synthesis.mis_source=kfold"
            if config.mis_source == "kfold":
                advice = "fewer epochs or a lower learning rate of erm, or mis_source=epoch"
            elif config.mis_source == "erm":
                advice = "synthesis.mis_source=epoch, a classifier that is fitted beside for a short time, or kfold"
            raise DataError(
                f"class {label} ('{dataset.class_names[label]}') has {len(rows)} misclassified training image(s); SCGS "
                f"needs at least {MIN_MISCLASSIFIED} per class. Try {advice}, or another recipe, such as dbb."
            )
    mis_counts_C = np.array([len(rows) for rows in misclassified])
    base_C = mis_counts_C if config.gen_ratio_base == "mis_other" else train.class_counts(num_classes)
    nums_C = num_to_generate(base_C, ratio=config.gen_ratio, equally=config.gen_ratio_base == "equal")
    if not any(nums_C):
        raise DataError(
            f"synthesis.gen_ratio {config.gen_ratio:g} of {int(max(base_C.sum() - base_C))} images "
            f"(gen_ratio_base={config.gen_ratio_base}) is less than half a picture: nothing to generate. Raise it"
        )
    images = []
    for label, count in enumerate(nums_C):
        rows, clusters = misclassified[label], clusters_C[label]
        places, turns = _sample_sources(
            config, train, rows, usable_N[rows], num_clusters=clusters, label=label, run_seed=run_seed
        )
        if not places:
            raise DataError(
                f"class {label} ('{dataset.class_names[label]}') has {len(rows)} misclassified training images, and "
                f"the heat map leaves {'nothing' if not config.min_kept_fraction else 'too little'} of any of them. "
                "Set synthesis.top_q, such as 0.1, or another synthesis.cam, or take another recipe, such as dbb."
            )
        samples: Counter[int] = Counter()
        for source, cluster in itertools.islice(itertools.cycle(places), count):
            row = next(turns[cluster]) if source is None else source
            images.append(PlannedImage(row, sample=samples[row], target_label=label, cluster=cluster))
            samples[row] += 1
    return plan_table(images, train, prompts=dataset.prompts, run_seed=run_seed)


def thresholds(config: ScgsConfig, scores: pa.Table, candidates: pa.Table) -> PruneThresholds:
    """None: SCGS keeps every picture that it generates."""
    return PruneThresholds()


def masker(config: ScgsConfig, dataset: DatasetInfo) -> dict[str, Any]:
    """Fields of the masker's config: keep what the wrong prediction rests on, repaint the rest.

    Not dilated: that would eat into the region to keep.
    """
    if config.cam == "none":
        return {"name": "whole"}
    return {
        "name": "cam",
        "method": config.cam,
        "tau": config.tau,
        "repaint": "unattended",
        "explain": "predicted_label",
        "dilation_px": 0,
        "top_q": config.top_q,
    }


def clusters_per_class(num_clusters: int | Sequence[int], *, num_classes: int) -> list[int]:
    """Clusters of each class.

    Raises:
        ConfigError: A list with another number of entries than there are classes.
    """
    clusters = list(num_clusters) if isinstance(num_clusters, Sequence) else [num_clusters] * num_classes
    if len(clusters) != num_classes:
        raise ConfigError(
            f"synthesis.num_clusters has {len(clusters)} entries, but the dataset has {num_classes} classes"
        )
    return clusters


def num_to_generate(counts_C: Sequence[int] | np.ndarray, *, ratio: float, equally: bool = False) -> list[int]:
    """Pictures to generate for each class: round(ratio * sum of the other classes' counts).

    Args:
        counts_C: Counts of the classes, (C,).
        ratio: The share.
        equally: The mean of these numbers for each class, rounded, in place of its own.
    """
    total, num_classes = int(np.sum(counts_C)), len(counts_C)
    if equally:
        return [round(ratio * total * (num_classes - 1) / num_classes)] * num_classes
    return [round(ratio * (total - int(count))) for count in counts_C]


def _usable(config: ScgsConfig, train: TrainScores) -> np.ndarray:
    """Which images leave enough to keep, (N,) bool; all of them where `looks_at` asked for none."""
    if REPAINT_FRACTION not in train.table.column_names:
        return np.ones(train.table.num_rows, dtype=bool)
    # Null: not looked at, or no mask could be made of its map.
    repaint_N = train.table[REPAINT_FRACTION].to_numpy().astype(np.float64)
    return np.asarray(1 - repaint_N >= config.min_kept_fraction)


def _sample_sources(
    config: ScgsConfig,
    train: TrainScores,
    rows: np.ndarray,
    usable_N: np.ndarray,
    *,
    num_clusters: int,
    label: int,
    run_seed: int,
) -> tuple[list[tuple[int | None, int]], dict[int, Iterator[int]]]:
    """(row, cluster) of the sources of one class, in order of image_id: D_sam; and of each cluster its rows in turn.

    A cluster has its number of places whether or not all of its images are usable. One that is not gives its place to
    the next that is drawn. Where there are not as many, a place without one (None) is for the others of its cluster in
    turn. A cluster without any has no places.
    """
    features_ND = train.vectors("features", rows)
    cluster_N = kmeans_clusters(features_ND, num_clusters=num_clusters, seed=run_seed)
    num_sources = max(1, round(config.sample_fraction * len(rows)))
    sizes_K = np.bincount(cluster_N)
    places: list[tuple[int | None, int]] = []
    turns: dict[int, Iterator[int]] = {}
    for cluster, num in enumerate(largest_remainder(num_sources, sizes_K)):
        members = np.flatnonzero(cluster_N == cluster)
        log_weight_N = gaussian_log_weights(
            features_ND[members],
            covariance=config.covariance,
            max_components=config.max_components,
            temperature=config.temperature,
        )
        rng = np.random.default_rng([run_seed, label, cluster])
        drawn = members[sample_without_replacement(log_weight_N, len(members), rng)]
        usable = drawn[usable_N[drawn]]
        if len(usable) < len(drawn):
            logger.info("class %d, cluster %d: %d of %d usable", label, cluster, len(usable), len(drawn))
        if found := sorted(int(rows[i]) for i in usable[:num]):
            places += [(row, cluster) for row in found]
            places += [(None, cluster)] * (num - len(found))
            turns[cluster] = itertools.cycle(found)
    return sorted(places, key=lambda place: (place[0] is None, place)), turns
