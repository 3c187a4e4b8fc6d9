"""NSF: neutral centroids, features that are drawn to them, and a new head on who was wrong as much as on who was right.

Li et al., CVPR 2025 (arXiv 2512.22874). Everything happens on the frozen features of validation; no group of any image
is read. Identify: an outlier is nearer to another class's centroid than to its own, as images of the minority are.
Neutralise: halfway between the means of a class's inliers and of its outliers the cue has no say. Eliminate: an affine
map of each feature, T, draws all rows to their class's neutral centroid. Update: a new head on T's features, in every
step as many rows that were outliers, and are recovered by T, as rows that never were.
"""

# N rows, B of a batch, D features, C classes

import logging
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from raygen.algorithms.features import Features, Role, check_present
from raygen.algorithms.heads import HeadConfig, HeadInputs, Linear, fit_frozen
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier
from raygen.config import PositiveInt
from raygen.errors import DataError
from raygen.seeding import row_seed
from raygen.worker import Worker

logger = logging.getLogger(__name__)

# Added to counts and to differences, as the authors' code does it (the latter is that of torch's PairwiseDistance).
COUNT_EPS, DISTANCE_EPS = 1e-5, 1e-6
# The scale-free form: the distance is taken per square root of the features, so that the regulariser weighs as it does
# in the paper's 2048 dimensions; the head has an L2 penalty, without which it grows for ever where it can be right.
PAPER_FEATURES, SCALE_FREE_DECAY = 2048, 1e-3


class NsfConfig(HeadConfig):
    """NSF. The defaults are those of Waterbirds; the table has the published step counts.

    | | eliminate_steps (N1) | update_steps (N2) |
    |---|---|---|
    | Waterbirds | 10 | 500 |
    | CelebA | 350 | 110 |
    | MultiNLI | 1200 | 1500 |
    | CivilComments | 300 | 100 |
    | CheXpert (in a comment) | 650 | 10000 |

    AdamW moves a weight by about `learning_rate` a step, so these counts hold for features of one scale only.

    Differs: a class without inliers takes the mean of its outliers, as one without outliers takes that of its inliers
    (with 1e-5 added to a count of 0 the origin would be their mean). Rows that are wrong before and after T are in
    neither part of the last step, as in the released code; their share is noted (`dropped`).

    Attributes:
        scale_free: False: as published. True: the features are centred and all divided by one number, the root of
            their mean variance, before anything else, the distance by the root of their count; and the head, with an L2
            penalty of 1e-3 and all rows of both parts, goes on until its loss stops falling. Then `update_steps` is not
            read, `eliminate_steps` mean the same for all features, and scaling or moving them changes nothing. (T by
            itself does not go on until it converges: its regulariser would draw every feature to a constant.)
        eliminate_steps: N1, full-batch steps on T.
        update_steps: N2, steps on the new head.
        learning_rate: Of AdamW, in both.
        regularization: Weight of the mean of T's beta beside the distance.
        init: Always the ERM classifier: of the run, or, after a synthesis, one fitted with the pictures.
    """

    paper = "NSF (Li et al., CVPR 2025, arXiv 2512.22874)"
    label_access: ClassVar[str] = "train: class; validation: class"
    reads_first = False

    name: Literal["nsf"] = "nsf"
    scale_free: bool = False
    eliminate_steps: PositiveInt = 10
    update_steps: PositiveInt = 500
    learning_rate: float = Field(1e-3, gt=0)
    regularization: float = Field(10.0, ge=0)
    init: Literal["erm"] = "erm"

    def check_counts(self, train_C: np.ndarray, val_C: np.ndarray) -> None:
        """Checks that every class has a centroid."""
        check_present(val_C, what=self.name)


Config = NsfConfig


def fit(
    config: NsfConfig, classifier: Classifier, train: TrainingSet, val: TrainingSet, *, seed: int, worker: Worker
) -> list[dict[str, float]]:
    """Replaces the classifier's head in place, T folded into it; gives back one entry.

    Raises:
        DataError: There is no outlier, or T recovers none; or a class has no validation image.
    """
    return fit_frozen(fit_head, config, classifier, train, val, seed=seed, worker=worker)


def fit_head(config: NsfConfig, given: HeadInputs, *, seed: int) -> tuple[Linear, list[dict[str, float]]]:
    """The head, for features as they are, and one entry: rows by what became of them.

    Raises:
        DataError: As `fit`.
    """
    rows = given.val.use(Role.FIT)
    check_present(rows.counts_C, what="nsf")
    scale, shift_D = 1.0, np.zeros(rows.features_ND.shape[1])
    if config.scale_free:
        scale, shift_D = standardising(rows.features_ND)
    features_ND = rows.features_ND * scale + shift_D
    centroids_CD = centroids(features_ND, rows)
    outlier_N = nearest(features_ND, centroids_CD) != rows.label_N
    neutral_CD = neutral_centroids(features_ND, rows, outlier_N)
    target_ND = neutral_CD[rows.label_N]
    beta_D, b_D = eliminated(features_ND, target_ND, config)
    moved_ND = transformed(features_ND, beta_D, b_D)
    recovered_N = outlier_N & (nearest(moved_ND, neutral_CD) == rows.label_N)
    counts = {
        "outliers": float(outlier_N.sum()),
        "recovered": float(recovered_N.sum()),
        "dropped": float((outlier_N & ~recovered_N).mean()),
        "largest_change": float(np.abs(beta_D - 1).max()),
    }
    _check_parts(outlier_N, recovered_N)
    logger.info(
        "NSF: %(outliers)d outliers, %(recovered)d recovered, %(dropped).1%% of all rows dropped",
        {**counts, "dropped": 100 * counts["dropped"]},
    )
    head = updated(moved_ND, rows, recovered_N, ~outlier_N, config, seed=row_seed(seed, "nsf/head"))
    # T(x) = (x + b) * beta - b is affine in each feature, and so is the standardising before it.
    return head.of_affine(beta_D, (beta_D - 1) * b_D).of_affine(np.full(len(shift_D), scale), shift_D), [counts]


def standardising(features_ND: np.ndarray) -> tuple[float, np.ndarray]:
    """One scale, and a shift of each feature, (D,), that make all means 0 and the mean variance 1.

    One scale for all, since which centroid is nearest depends on how large features are beside each other: a cue is
    found because it is large.
    """
    deviation = float(np.sqrt(features_ND.var(axis=0).mean()))
    largest = float(np.abs(features_ND).max(initial=0))
    scale = 1 / deviation if deviation > 1e-12 * largest else 1.0
    return scale, -features_ND.mean(axis=0) * scale


def mean_of(features_ND: np.ndarray, is_one_N: np.ndarray) -> np.ndarray:
    """Mean of some rows, (D,), as the released code has it: over their number + 1e-5."""
    return np.asarray(features_ND[is_one_N].sum(axis=0) / (is_one_N.sum() + COUNT_EPS))


def centroids(features_ND: np.ndarray, rows: Features) -> np.ndarray:
    """Of each class, (C, D)."""
    return np.stack([mean_of(features_ND, rows.label_N == label) for label in range(rows.num_classes)])


def nearest(features_ND: np.ndarray, centroids_CD: np.ndarray) -> np.ndarray:
    """The class whose centroid is nearest, (N,) int; the first of those that are equally near."""
    squared_CN = [((features_ND - centroid_D) ** 2).sum(axis=1) for centroid_D in centroids_CD]
    return np.asarray(np.argmin(squared_CN, axis=0))


def neutral_centroids(features_ND: np.ndarray, rows: Features, outlier_N: np.ndarray) -> np.ndarray:
    """Halfway between the means of each class's inliers and outliers, (C, D); of one where the other is empty."""
    found = []
    for label in range(rows.num_classes):
        own_N = rows.label_N == label
        parts = [part_N for part_N in (own_N & ~outlier_N, own_N & outlier_N) if part_N.any()]
        found.append(np.mean([mean_of(features_ND, part_N) for part_N in parts], axis=0))
    return np.stack(found)


def transformed(features_ND: np.ndarray, beta_D: np.ndarray, b_D: np.ndarray) -> np.ndarray:
    """T(x) = (x + b) * beta - b."""
    return np.asarray((features_ND + b_D) * beta_D - b_D)


def eliminated(features_ND: np.ndarray, target_ND: np.ndarray, config: NsfConfig) -> tuple[np.ndarray, np.ndarray]:
    """Beta and b of T, (D,) each, from 1 and 0: mean |T(f) - target| + regularization * mean beta goes down."""
    features, target = torch.from_numpy(features_ND), torch.from_numpy(target_ND)
    beta_D = torch.ones(features.shape[1], dtype=torch.float64, requires_grad=True)
    b_D = torch.zeros(features.shape[1], dtype=torch.float64, requires_grad=True)
    scale, weight = 1.0, config.regularization
    if config.scale_free:
        scale, weight = features.shape[1] ** -0.5, config.regularization * PAPER_FEATURES**-0.5
    optimizer = torch.optim.AdamW([beta_D, b_D], lr=config.learning_rate, weight_decay=0)
    for _ in range(config.eliminate_steps):
        moved = (features + b_D) * beta_D - b_D
        distance_N = torch.linalg.vector_norm(moved - target + DISTANCE_EPS, dim=1)
        loss = scale * distance_N.mean() + weight * beta_D.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return beta_D.detach().numpy(), b_D.detach().numpy()


def _check_parts(outlier_N: np.ndarray, recovered_N: np.ndarray) -> None:
    if not outlier_N.any():
        raise DataError(
            f"NSF has no outlier: each of the {len(outlier_N)} validation rows is nearest to its own class's centroid, "
            "so no image speaks against a cue. Take evals or dfr, or fit ERM for fewer epochs"
        )
    if not recovered_N.any():
        raise DataError(
            f"NSF's outlier group is empty: {int(outlier_N.sum())} of {len(outlier_N)} validation rows are outliers, "
            "and none of them comes to its own class's neutral centroid. Raise algorithm.eliminate_steps, set "
            "algorithm.scale_free=true, or take evals or dfr"
        )
    if outlier_N.all():
        raise DataError("NSF has outliers only: no validation row is nearest to its own class's centroid")


def updated(
    features_ND: np.ndarray,
    rows: Features,
    recovered_N: np.ndarray,
    inlier_N: np.ndarray,
    config: NsfConfig,
    *,
    seed: int,
) -> Linear:
    """A new head: the sum of the mean cross entropies of two parts goes down, as many rows of each in every step.

    Args:
        features_ND: T's features.
        rows: Whose they are.
        recovered_N: The first part.
        inlier_N: The second.
        config: Steps and rate.
        seed: Of the head's start and of the rows that are drawn.
    """
    features, label_N = torch.from_numpy(features_ND), torch.from_numpy(rows.label_N)
    parts = [np.flatnonzero(part_N) for part_N in (recovered_N, inlier_N)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = torch.nn.Linear(features.shape[1], rows.num_classes).double()
    if config.scale_free:
        _converge(layer, features, label_N, [torch.from_numpy(part) for part in parts])
    else:
        rng, num = np.random.default_rng(seed), min(map(len, parts))
        optimizer = torch.optim.AdamW(layer.parameters(), lr=config.learning_rate, weight_decay=0)
        for _ in range(config.update_steps):
            # The smaller part whole, of the larger one as many, drawn with replacement.
            drawn = [part if len(part) == num else rng.choice(part, size=num) for part in parts]
            both = torch.from_numpy(np.concatenate(drawn))
            loss = 2 * F.cross_entropy(layer(features[both]), label_N[both])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Linear(layer.weight.detach().numpy(), layer.bias.detach().numpy())


def _converge(layer: torch.nn.Linear, features: torch.Tensor, label_N: torch.Tensor, parts: list[torch.Tensor]) -> None:
    """The minimum over all rows of both parts, by L-BFGS."""
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), max_iter=1000, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        total = SCALE_FREE_DECAY * layer.weight.square().sum()
        for part in parts:
            total = total + F.cross_entropy(layer(features[part]), label_N[part])
        total.backward()
        return total

    optimizer.step(loss)
