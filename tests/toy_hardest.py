"""A synthesis as short as one can be: repaints the objects that the classifier finds hardest as what they are."""

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from raygen.config import Decides
from raygen.datasets.table import DatasetInfo
from raygen.pruners import PruneThresholds
from raygen.synthesis.base import SynthesisBase
from raygen.synthesis.plan import PlannedImage, plan_table, read_scores


class HardestConfig(SynthesisBase):
    paper = "nobody's"
    label_access = "train: class"
    algorithm = "weighted"
    space: ClassVar = {"share": {"values": (0.1, 0.2)}}

    name: Literal["hardest"] = "hardest"
    share: Annotated[float, Decides.AMOUNT] = Field(0.1, gt=0, le=1)
    masker: str = "truth"


Config = HardestConfig


def select(config: HardestConfig, scores: pa.Table, *, dataset: DatasetInfo, run_seed: int) -> pa.Table:
    train = read_scores(scores)
    counts_C = train.class_counts(len(dataset.class_names))
    easier_C = counts_C - np.round(config.share * counts_C).astype(int)
    rows = np.flatnonzero(train.loss_rank_N >= easier_C[train.label_N])
    images = [PlannedImage(int(row), sample=0, target_label=int(train.label_N[row])) for row in rows]
    return plan_table(images, train, prompts=dataset.prompts, run_seed=run_seed)


def masker(config: HardestConfig, dataset: DatasetInfo) -> dict[str, Any]:
    return {"name": config.masker}


def thresholds(config: HardestConfig, scores: pa.Table, candidates: pa.Table) -> PruneThresholds:
    return PruneThresholds()
