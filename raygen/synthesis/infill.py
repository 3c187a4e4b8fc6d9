"""CF/F: counterfactual and factual pictures by infilling (Chang et al. 2021, arXiv 2106.01127).

A counterfactual picture has another value where the object is, and the label "not y": what is left must not be taken
for the class. A factual picture keeps the object and its label y before another background. With r = 1 on the object:
CF = x (1 - r) + v r, F = x r + v (1 - r).

Candidates, which are made once and then fitted on like any other, or made anew for every batch of a fit, as the paper
does. Grey, random, shuffle, tile, telea and mixed_rand need no model (`raygen.inpainters.fills`, which also says which
of the authors' defects are not copied); inpaint is what the run's inpainter paints (theirs: a contextual-attention
GAN), fgsm follows a classifier's gradient. "Not y" is a loss of its own (`raygen.algorithms.terms`).
"""

# N images, C classes

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from raygen.config import Decides
from raygen.datasets.table import DatasetInfo
from raygen.errors import DataError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.fills import CounterfactualValue, FactualValue, Infilling, NotLabel, Shape
from raygen.maskers.clipseg import ClipsegConfig
from raygen.maskers.language import FinderConfig
from raygen.pruners import PruneThresholds
from raygen.schema import ROLE, SCORE
from raygen.seeding import row_seed
from raygen.synthesis.amounts import Amount, num_selected
from raygen.synthesis.object_masks import ObjectMaskSynthesis, object_masker
from raygen.synthesis.plan import PlannedImage, plan_table, read_scores

# Number of a source's picture by role, and with it the end of its key.
SAMPLES = {"counterfactual": 0, "factual": 1}


class InfillConfig(ObjectMaskSynthesis):
    """Which values, where, and when.

    The paper's best pairs: on Waterbirds CF(CAGAN) with F(random), on IN-9 CF(CAGAN) with F(shuffle), on CCT CF(tile),
    or F(shuffle), each with the saliency penalty (`algorithm.saliency_penalty`). The defaults are Waterbirds', with the
    tile in place of the GAN: they need no model. F(mixed_rand) makes what IN-9's test pictures are.

    Attributes:
        counterfactual: What is put where the object is: "grey"; "random", one colour with noise; "shuffle", its own
            values in another order; "tile", the widest band without object, repeated; "telea", what a classical
            inpainter continues from around it (not of the paper); "inpaint", what the run's inpainter paints for
            `prompt`; null: no counterfactual pictures.
        factual: What is put around the object: "random"; "shuffle"; "mixed_rand", the background of a training picture
            of another class, tiled; "fgsm", the background moved against the label; null: no factual pictures.
        when: "candidates": made once, in candidates/, by the pools. "training": made anew for every batch, as
            published: a batch of B pictures has B more for each value. "inpaint" is always made once.
        k: Images per class that candidates are made of, drawn at random: a count, a fraction of the class, or a list
            with one of them per class. Published: all.
        mask: Where the object is: "truth", the dataset's mask; "box", its bounding box; "language", where a model finds
            it by name; "cam", where the classifier looks.
        language: Which models find it, and by what name; only for mask "language".
        tau: Heat from which a pixel belongs to the object; only for mask "cam".
        dilation_px: Growth of the object, pixels. Published: 0; Stable Diffusion samples masks at every 8th pixel, so
            for "inpaint" there 8 is better.
        counterfactual_region: What is replaced in counterfactual pictures: the object's bounding rectangle, so that its
            outline does not leak (IN-9, Waterbirds), or its "segmentation".
        factual_region: Around what the background is replaced. CCT, which has no segmentations, has boxes for both.
        prompt: What the inpainter is asked for; empty, or a background such as "a photo of a forest".
        fgsm_epsilon: The most that a pixel changes by "fgsm", of pixels in [0, 1]. Authors' default: 0.6 of pixels in
            [-1, 1].
        counterfactual_loss: "exact", -log(1 - p_y); "uniform", the cross entropy with 1/C for each class;
            "uniform_except", with 1/(C - 1) for each class but y.
    """

    paper = "CF/F infilling (Chang et al. 2021, arXiv 2106.01127)"
    label_access = "train: class and object masks"
    algorithm = "erm"
    asks_by_class = False

    name: Literal["infill"] = "infill"
    counterfactual: CounterfactualValue | None = "tile"
    factual: FactualValue | None = "random"
    when: Literal["candidates", "training"] = "candidates"
    k: Annotated[Amount | tuple[Amount, ...], Decides.AMOUNT] = 1.0  # in an order of the seed: a larger k only adds
    mask: Literal["truth", "box", "language", "cam"] = "truth"
    language: FinderConfig = ClipsegConfig()
    tau: float = Field(0.5, gt=0, le=1)
    dilation_px: int = Field(0, ge=0)
    counterfactual_region: Shape = "box"
    factual_region: Shape = "segmentation"
    prompt: str = ""
    fgsm_epsilon: float = Field(0.3, gt=0, le=1)
    counterfactual_loss: Annotated[NotLabel, Decides.FIT] = "exact"

    @model_validator(mode="after")
    def _makes_something(self) -> "InfillConfig":
        if self.counterfactual is None and self.factual is None:
            raise ValueError("counterfactual and factual are both null, so that nothing is made; name a value of one")
        return self

    @model_validator(mode="after")
    def _others_have_masks(self) -> "InfillConfig":
        if self.factual == "mixed_rand" and self.when == "candidates" and self.mask not in ("truth", "box"):
            raise ValueError(
                f"factual is mixed_rand, which takes the background of another picture and so needs its object mask, "
                f"but mask is {self.mask}, which looks at one picture; set mask to truth or box, or when: training"
            )
        return self

    @model_validator(mode="after")
    def _training_takes_all(self) -> "InfillConfig":
        if not self.plans() and self.k != 1.0:
            raise ValueError(
                f"when is training, where every picture of a batch gets its copies, but k is {self.k}; leave it at 1.0"
            )
        return self

    def as_candidates(self) -> Infilling | None:
        """All values, or in training "inpaint" alone."""
        whole = self._infilling()
        if self.when == "candidates":
            return whole
        return replace(whole, counterfactual="inpaint" if self.paints() else None, factual=None)

    def in_training(self) -> Infilling | None:
        """All values but "inpaint", or of candidates the loss alone."""
        whole = self._infilling()
        if self.when == "candidates":
            return replace(whole, counterfactual=None, factual=None)
        return replace(whole, counterfactual=None) if self.paints() else whole

    def _infilling(self) -> Infilling:
        return Infilling(
            self.counterfactual,
            self.factual,
            counterfactual_region=self.counterfactual_region,
            factual_region=self.factual_region,
            fgsm_epsilon=self.fgsm_epsilon,
            not_label=self.counterfactual_loss,
        )

    def plans(self) -> bool:
        """Unless all is made in training."""
        return self.when == "candidates" or self.paints()

    def paints(self) -> bool:
        """For "inpaint"."""
        return self.counterfactual == "inpaint"

    def check_inpainter(self, inpainter: InpainterConfig) -> None:
        """Checks that the background of a counterfactual picture stays."""
        if self.paints() and not inpainter.composite:
            raise ValueError(
                "inpainter.composite is false, so pixels outside the mask change too, but a counterfactual picture is "
                "its source outside of the object; set inpainter.composite=true"
            )

    def check_classes(self, counts: Mapping[str, int]) -> None:
        """Checks that each class has as many images as asked for."""
        for (name, count), amount in zip(counts.items(), num_selected(self.k, list(counts.values())), strict=True):
            if amount > count:
                raise DataError(
                    f"class '{name}' has {count} training image(s), but synthesis.k asks for {amount}; give a lower "
                    "count, a fraction such as 0.5, or a list with one value per class"
                )

    def num_sources(self, counts_C: np.ndarray) -> list[int]:
        """Any: k."""
        return num_selected(self.k, counts_C)

    def score_columns(self) -> list[str]:
        """Without features and logits."""
        return [name for name in SCORE.names if name not in {"features", "logits"}]


Config = InfillConfig


def select(config: InfillConfig, scores: pa.Table, *, dataset: DatasetInfo, run_seed: int) -> pa.Table:
    """PLAN rows sorted by key, each with its `role`: for each chosen image a counterfactual and a factual picture."""
    train = read_scores(scores)
    num_classes, wanted = len(dataset.class_names), config.as_candidates()
    counts_C = train.class_counts(num_classes)
    config.check_classes(dict(zip(dataset.class_names, counts_C.tolist(), strict=True)))
    assert wanted is not None
    values = {"counterfactual": wanted.counterfactual, "factual": wanted.factual}
    roles = [role for role, value in values.items() if value is not None]
    images = []
    for label, amount in enumerate(num_selected(config.k, counts_C)):
        order = [
            (row_seed(run_seed, f"infill/{train.image_ids[i]}"), i) for i in np.flatnonzero(train.label_N == label)
        ]
        images += [
            PlannedImage(int(row), sample=SAMPLES[role], target_label=label)
            for _, row in sorted(order)[:amount]
            for role in roles
        ]
    plan = plan_table(images, train, prompts=[config.prompt] * num_classes, run_seed=run_seed)
    role_of = {sample: role for role, sample in SAMPLES.items()}
    return plan.append_column(
        ROLE,
        pa.array([role_of[sample] for sample in plan["sample"].to_pylist()], pa.string()),
    )


def thresholds(config: InfillConfig, scores: pa.Table, candidates: pa.Table) -> PruneThresholds:
    """None: nothing is pruned."""
    return PruneThresholds()


def masker(config: InfillConfig, dataset: DatasetInfo) -> dict[str, Any]:
    """Fields of the config of the masker that `mask` names; what it would repaint is the object."""
    return object_masker(config, dataset)
