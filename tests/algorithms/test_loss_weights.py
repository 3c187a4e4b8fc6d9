"""Loss and sampling weights against the equations, written out."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raygen.algorithms.balanced import balanced_weights, gammas
from raygen.algorithms.batches import batch_sizes, draw_batches
from raygen.algorithms.loop import mean_weights
from raygen.algorithms.training_set import group_weights
from raygen.errors import ConfigError


def weighted_loss(logits: torch.Tensor, label: np.ndarray, weight: np.ndarray) -> float:
    losses = F.cross_entropy(logits, torch.from_numpy(label), reduction="none").double()
    return float((losses * torch.from_numpy(weight)).sum())


def draw(num: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(num, 3)).astype(np.float32)), rng.integers(0, 3, num)


def test_erm_is_the_mean_cross_entropy() -> None:
    logits, label = draw(17, 0)
    loss = weighted_loss(logits, label, mean_weights(label, np.zeros(17, bool)))
    assert loss == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(label))), rel=1e-6)


@pytest.mark.parametrize("ce_over", ["batch", "original"])
def test_without_generated_rows_balanced_is_cross_entropy(ce_over: str) -> None:
    logits, label = draw(17, 1)
    weight = balanced_weights(label, np.zeros(17, bool), gamma_C=np.array([6.0, 10.0, 3.0]), ce_over=ce_over)  # type: ignore[arg-type]
    expected = float(F.cross_entropy(logits, torch.from_numpy(label)))
    assert weighted_loss(logits, label, weight) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ce_over", ["batch", "original"])
def test_balanced_is_equation_six(ce_over: str) -> None:
    logits, label = draw(40, 2)
    generated = np.random.default_rng(3).random(40) < 0.4
    generated &= label != 2  # no generated row of class 2: its term is 0
    gamma = np.array([6.0, 10.0, 3.0])
    losses = F.cross_entropy(logits, torch.from_numpy(label), reduction="none").double().numpy()
    expected = losses.mean() if ce_over == "batch" else losses[~generated].mean()
    for c in (0, 1):
        expected += gamma[c] * losses[generated & (label == c)].mean()
    weight = balanced_weights(label, generated, gamma_C=gamma, ce_over=ce_over)  # type: ignore[arg-type]
    assert weighted_loss(logits, label, weight) == pytest.approx(expected, rel=1e-6)


def test_the_three_means_of_the_authors_and_the_batch_of_algorithm_2() -> None:
    """Originals of losses 0.2 and 0.4, one generated picture of class 0 with loss 1, one of class 1 with loss 2."""
    losses, label = np.array([0.2, 0.4, 1.0, 2.0]), np.array([0, 1, 0, 1])
    generated, gamma = np.array([False, False, True, True]), np.array([6.0, 10.0])
    means = balanced_weights(label, generated, gamma_C=gamma, ce_over="original") @ losses
    batch = balanced_weights(label, generated, gamma_C=gamma, ce_over="batch") @ losses
    assert (means, batch) == pytest.approx((26.3, 26.9))  # 0.3 + 6 + 20; 0.9 + 6 + 20
    # Nothing generated of class 1, nothing generated at all, no originals: the empty term is 0, and the others stay.
    of_0 = balanced_weights(label[:3], generated[:3], gamma_C=gamma, ce_over="original") @ losses[:3]
    none = balanced_weights(label[:2], generated[:2], gamma_C=gamma, ce_over="original") @ losses[:2]
    alone = balanced_weights(label[2:], generated[2:], gamma_C=gamma, ce_over="original") @ losses[2:]
    assert (of_0, none, alone) == pytest.approx((6.3, 0.3, 26.0))


def test_gamma_per_class_must_fit_the_classes() -> None:
    assert gammas(2.0, num_classes=3).tolist() == [2, 2, 2]
    with pytest.raises(ConfigError, match="expected 3 numbers"):
        gammas((1.0, 2.0), num_classes=3)


def test_every_group_is_drawn_equally_often() -> None:
    group = np.repeat([0, 1, 2, 3], [3498, 184, 56, 1057])  # Waterbirds
    weight = group_weights(group)
    assert [weight[group == g].sum() for g in range(4)] == pytest.approx([4795] * 4)


def test_at_gamma_1_few_added_pictures_hold_most_of_the_loss() -> None:
    """The numbers of docs/recipes.md: 375 pictures a class beside Waterbirds' 4,795 images, in the loop's batches."""
    is_added_N = np.arange(4795 + 750) >= 4795
    label_N = np.where(is_added_N, np.arange(4795 + 750) % 2, 0)
    added = total = 0.0
    for positions_B in draw_batches(batch_sizes(len(label_N), 64, least=1), None, np.random.default_rng(0)):
        weight_B = balanced_weights(label_N[positions_B], is_added_N[positions_B], gamma_C=np.ones(2), ce_over="batch")
        added, total = added + weight_B[is_added_N[positions_B]].sum(), total + weight_B.sum()
    assert added / total == pytest.approx(0.71, abs=0.005)
    assert (added / 750) / ((total - added) / 4795) == pytest.approx(15.6, abs=0.3)
