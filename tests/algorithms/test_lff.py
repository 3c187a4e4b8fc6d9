"""LfF against its closed forms, and its second network through checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from raygen import algorithms
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.lff import (
    ClassScaledAverage,
    LffConfig,
    RelativeDifficulty,
    generalised_cross_entropy,
    relative_difficulty,
)
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.worker import Worker


@pytest.fixture(scope="module")
def sets(scenes_folder: Path) -> tuple[TrainingSet, TrainingSet]:
    index = RowIndex(scenes_folder)
    return TrainingSet(index, "train", size_px=16), TrainingSet(index, "val", size_px=16)


def fit(config: algorithms.AlgorithmConfig, sets: tuple[TrainingSet, TrainingSet], folder: Path) -> Classifier:
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    classifier = build_classifier(ClassifierConfig(width=8, image_size_px=16), 2, seed=0)
    algorithms.of(config).fit(config, classifier, *sets, seed=0, worker=Worker(0, 1, "cpu", folder))
    return classifier


def equal(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_gradient_of_the_generalised_cross_entropy() -> None:
    """z = (.3, -.2, 1.1), y = 1, q = .7; and of (1 - p^q) / q, by torch."""
    gradients = []
    for form in ("ours", "theirs"):
        logits_BC = torch.tensor([[0.3, -0.2, 1.1]], dtype=torch.float64, requires_grad=True)
        if form == "ours":
            loss = generalised_cross_entropy(logits_BC, torch.tensor([1]), q=0.7).sum()
        else:
            loss = (1 - F.softmax(logits_BC, 1)[0, 1] ** 0.7) / 0.7
        loss.backward()
        assert logits_BC.grad is not None
        gradients.append(logits_BC.grad[0])
    expected = torch.tensor([0.071806, -0.231613, 0.159807], dtype=torch.float64)
    for gradient in gradients:
        torch.testing.assert_close(gradient, expected, rtol=0, atol=5e-7)


def test_averages_of_losses_begin_with_the_first_and_are_in_terms_of_the_classs_largest() -> None:
    average = ClassScaledAverage(np.array([0, 0, 1]), momentum=0.7)
    found = [average.update(np.array([0]), np.array([loss])) for loss in (1.0, 0.0, 0.0)]
    assert average.loss_N[0] == pytest.approx(0.49)
    assert [float(value[0]) for value in found] == pytest.approx([1.0] * 3)  # it is its class's largest all the time
    assert average.update(np.array([1, 2]), np.array([0.98, 3.0])) == pytest.approx([1.0, 1.0])
    assert average.update(np.array([0]), np.array([0.49])) == pytest.approx([0.5])  # of .98, not of class 1's 3
    still = ClassScaledAverage(np.array([0]), momentum=0.7)
    assert still.update(np.array([0]), np.array([0.0])) == pytest.approx([0.0])  # not 0 / 0


def test_relative_difficulty() -> None:
    assert relative_difficulty(np.array([1.0]), np.array([0.25])) == pytest.approx([0.8])
    assert relative_difficulty(np.zeros(1), np.zeros(1)).tolist() == [0.0]


def test_hard_for_the_biased_network_counts_more() -> None:
    """The biased network's losses are the second ones; W is over the batch's size."""
    network = build_classifier(ClassifierConfig(width=8, image_size_px=16), 2, seed=0)
    weights = RelativeDifficulty(network, np.zeros(2, dtype=int), q=0.7, momentum=0.7)
    found = weights.weigh_beside(np.array([0, 1]), np.array([1.0, 1.0]), np.array([2.0, 0.5]))
    assert found == pytest.approx([0.5 / 2, 0.2 / 2])


@pytest.mark.parametrize("mixup_alpha", [0.0, 1.0])
def test_with_q_0_the_biased_network_is_erm(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path, mixup_alpha: float
) -> None:
    """Without q the biased network's objective is the cross entropy, and nothing of the other one reaches it."""
    options: Any = {"epochs": 1, "schedule": "constant", "select": "last", "weight_decay": 0.0}
    options["mixup_alpha"] = mixup_alpha
    fit(LffConfig(q=0.0, learning_rate=1e-3, **options), sets, tmp_path / "lff")
    state = torch.load(tmp_path / "lff" / "checkpoint.pt", weights_only=True)
    erm = fit(ErmConfig(learning_rate=1e-3, **options), sets, tmp_path / "erm")
    biased = build_classifier(ClassifierConfig(width=8, image_size_px=16), 2, seed=1)
    biased.load_state_dict(state["companion_classifier"])
    assert equal(biased, erm)


def test_a_fit_that_goes_on_from_a_checkpoint_ends_the_same(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    """With the second network, its optimizer, and the losses of every image as they were."""

    def config(epochs: int) -> LffConfig:
        return LffConfig(epochs=epochs, schedule="constant")

    whole = fit(config(3), sets, tmp_path / "whole")
    fit(config(1), sets, tmp_path / "parts")
    state = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert set(state["adaptive"]) == {"biased", "debiased"}
    assert not torch.equal(state["adaptive"]["biased"], state["adaptive"]["debiased"])
    assert equal(whole, fit(config(3), sets, tmp_path / "parts"))
    ends = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "parts")]
    for part in ("companion_classifier", "companion_optimizer", "adaptive"):
        torch.testing.assert_close(ends[0][part], ends[1][part], rtol=0, atol=0)
