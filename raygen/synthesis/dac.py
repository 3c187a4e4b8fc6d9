"""DaC, decompose and compose: what easy images are known by, put over others (Noohdani et al., CVPR 2024, 2402.18919).

XGradCAM of the ERM classifier parts each image of low loss into what its prediction rests on and the rest. The first,
alone or over the rest of an image of another class, keeps its label. How much of the heat is kept is found out for the
dataset: as far as the loss stays low when the rest is blanked. No model paints, so it works wherever a classifier does.
The pictures are candidates of the four pools, not made anew in every batch as the authors do it: so they resume, are
shown and are compared with controls as any recipe's are, and since only the head is fitted, features are computed once.

Differs from the authors' code: partners are drawn once for the run, from all low-loss images of other classes
(`fusions` draws several); the mean that fills holes is of 64 training images, not of each batch; each image is the
front of as many fusions as any other. Masks come from the evaluation frame, one map for each picture (on CelebA their
mask is of one random crop and used on another).
"""

# N training images, C classes, Q quantiles

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from raygen.config import Decides
from raygen.datasets.table import DatasetInfo
from raygen.errors import DataError
from raygen.pruners import PruneThresholds
from raygen.schema import SCORE, plan_key
from raygen.seeding import row_seed
from raygen.stages.compose import ALONE, ON, ComposeStage
from raygen.stages.kept_loss import KeptLossStage
from raygen.synthesis.base import MaskSearch, OwnPainter, SynthesisBase
from raygen.synthesis.plan import PlannedImage, plan_table, read_scores

# Quantiles of the heat that are tried, and the one that is taken where the curve of losses has no knee (authors).
TRIED = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
WITHOUT_KNEE = 0.8
# Sensitivity of the knee (authors): a curve may be so far below the straight line, in steps of its points.
SENSITIVITY = 1.0


class DacConfig(SynthesisBase):
    """What DaC composes.

    Attributes:
        quantile: Images whose loss is at most this quantile of all training images' are taken (authors: 0.6 on
            Waterbirds, else 0.8). A class that has none of them is refused.
        fusions: Fusions of each of them, each with a partner of its own. With one, as many as there are images that
            stand alone, the terms of `dac_head` weigh both kinds alike, as the paper's do.
        alone: Whether the cut-out parts alone are pictures too.
        heat: What is kept of a map: from this quantile on. None: found out by the knee of the losses.
        knee_images: Training images that the knee is found by. Assumption: 512 give the curve; authors: all.
        invert: Keep the other part, for classifiers that look at the cue (authors' `--invert_mask`, on Dominoes).
    """

    paper = "DaC (Noohdani et al. 2024, arXiv 2402.18919)"
    label_access = "train: class"
    algorithm = "dac_head"
    space: ClassVar = {"quantile": {"values": (0.4, 0.6, 0.8)}}

    name: Literal["dac"] = "dac"
    quantile: float = Field(0.6, gt=0, le=1)
    fusions: Annotated[int, Decides.AMOUNT] = Field(1, ge=1)
    alone: bool = True
    heat: float | None = Field(None, gt=0, lt=1)
    knee_images: int = Field(512, ge=1)
    invert: bool = False

    def check_classes(self, counts: Mapping[str, int]) -> None:
        """Checks that there is an image of every class."""
        for name, count in counts.items():
            if not count:
                raise DataError(f"class '{name}' has no training image to cut out or to put behind one; DaC needs some")

    def score_columns(self) -> list[str]:
        """Without features and logits."""
        return [name for name in SCORE.names if name not in {"features", "logits"}]

    def own_painter(self) -> OwnPainter:
        """Composition."""
        return OwnPainter(ComposeStage, "compose", {})

    def mask_search(self) -> MaskSearch | None:
        """The knee."""
        if self.heat is not None:
            return None
        settings = {"method": "xgradcam", "quantiles": list(TRIED)}
        return MaskSearch(self.knee_images, "kept_losses", KeptLossStage, settings, found_heat)

    def map_setting(self) -> str:
        """The recipe."""
        return "synthesis.name=dac"


Config = DacConfig


def select(config: DacConfig, scores: pa.Table, *, dataset: DatasetInfo, run_seed: int) -> pa.Table:
    """PLAN rows sorted by key: each low-loss image alone, and over low-loss images of other classes.

    Raises:
        DataError: A class has no image of low loss.
    """
    train = read_scores(scores)
    low_N = train.loss_N <= np.quantile(train.loss_N, config.quantile)
    counts_C = np.bincount(train.label_N[low_N], minlength=len(dataset.class_names))
    for name, count in zip(dataset.class_names, counts_C, strict=True):
        if not count:
            raise DataError(
                f"none of the {int(low_N.sum())} training images of lowest loss (synthesis.quantile "
                f"{config.quantile:g}) is of class '{name}', so nothing of it can be composed; raise synthesis.quantile"
            )
    rows = np.flatnonzero(low_N)
    others = {label: rows[train.label_N[rows] != label] for label in range(len(counts_C))}
    images = []
    for row in rows.tolist():
        label = int(train.label_N[row])
        if config.alone:
            images.append(PlannedImage(row, sample=0, target_label=label, prompt=ALONE))
        for sample in range(1, config.fusions + 1):
            key = plan_key(train.image_ids[row], target_label=label, sample=sample)
            rng = np.random.default_rng(row_seed(run_seed, f"partner/{key}"))
            partner = train.image_ids[others[label][rng.integers(len(others[label]))]]
            images.append(PlannedImage(row, sample=sample, target_label=label, prompt=f"{ON}{partner}"))
    return plan_table(images, train, prompts=dataset.prompts, run_seed=run_seed)


def masker(config: DacConfig, dataset: DatasetInfo) -> dict[str, Any]:
    """Fields of the masker's config: what is kept of an image is what its prediction rests on."""
    return {
        "name": "cam",
        "method": "xgradcam",
        "repaint": "attended" if config.invert else "unattended",
        "explain": "predicted_label",
        "dilation_px": 0,
        **kept(config.heat or WITHOUT_KNEE),
    }


def thresholds(config: DacConfig, scores: pa.Table, candidates: pa.Table) -> PruneThresholds:
    """None: DaC keeps every picture."""
    return PruneThresholds()


def kept(heat: float) -> dict[str, Any]:
    """Fields of the masker's config that keep heat from a quantile on; a map of zeros: by its signed values."""
    return {"quantile": heat, "top_q": round(1 - heat, 6)}


def found_heat(losses_NQ: np.ndarray) -> dict[str, Any]:
    """Fields of the masker's config by the losses of training images at the quantiles that are tried, (N, Q)."""
    knee = knee_of(TRIED, losses_NQ.mean(axis=0))
    return kept(WITHOUT_KNEE if knee is None else knee)


def knee_of(places_Q: tuple[float, ...], values_Q: np.ndarray) -> float | None:
    """Where a rising curve bends up most: the knee of Satopää et al. 2011 ("Kneedle") for convex rising curves.

    Both axes are brought to [0, 1]. The knee is where the curve is farthest below the straight line from corner to
    corner, if it is there by more than SENSITIVITY times the mean step between its points; equally far: the last.

    Args:
        places_Q: In rising order.
        values_Q: The curve there.

    Returns:
        The place, or None where nothing bends so much, or the curve does not rise.
    """
    place_Q = np.asarray(places_Q)
    if values_Q[-1] <= values_Q[0]:
        return None
    step_Q = (place_Q - place_Q[0]) / (place_Q[-1] - place_Q[0])
    below_Q = step_Q - (values_Q - values_Q.min()) / (values_Q.max() - values_Q.min())
    last = len(below_Q) - 1 - int(np.argmax(below_Q[::-1]))
    return float(place_Q[last]) if below_Q[last] > SENSITIVITY * np.diff(step_Q).mean() else None
