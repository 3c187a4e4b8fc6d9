"""Group DRO against its closed forms, and its state through checkpoints."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from extra_sets import extra_of
from scipy.special import softmax

from raygen import algorithms
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.group_dro import GroupDroConfig, GroupLoss
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.worker import Worker


@pytest.fixture(scope="module")
def sets(scenes_folder: Path) -> tuple[TrainingSet, TrainingSet]:
    index = RowIndex(scenes_folder)
    return TrainingSet(index, "train", size_px=64), TrainingSet(index, "val", size_px=64)


def fit(config: algorithms.AlgorithmConfig, sets: tuple[TrainingSet, TrainingSet], folder: Path) -> Classifier:
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    algorithms.of(config).fit(config, classifier, *sets, seed=0, worker=Worker(0, 1, "cpu", folder))
    return classifier


def equal(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def weigh(loss: GroupLoss, groups: list[int], losses: list[float]) -> np.ndarray:
    """Positions are numbered by group: the training set of these tests has ten images of each."""
    return loss.weigh(np.array(groups) * 10, np.array(losses), np.ones(len(groups), dtype=bool))


def test_constant_losses_make_q_the_softmax_of_their_sum() -> None:
    loss = GroupLoss(np.repeat(np.arange(4), 10), eta=0.01, adjustment=0.0)
    for _ in range(50):
        weigh(loss, [0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(loss.q_G, softmax(0.5 * np.arange(4)), rtol=1e-12)
    np.testing.assert_allclose(loss.q_G, [0.1015, 0.1674, 0.2760, 0.4551], atol=5e-5)


def test_a_groups_loss_is_its_mean_and_its_weight_is_shared_among_its_images() -> None:
    loss = GroupLoss(np.repeat(np.arange(3), 10), eta=0.5, adjustment=0.0)
    weight_B = weigh(loss, [0, 0, 2, 2, 2], [1.0, 3.0, 0.5, 1.0, 1.5])
    # Means 2 and 1; group 1 is absent, so its factor is exp(0).
    expected_G = np.exp([1.0, 0.0, 0.5]) / np.exp([1.0, 0.0, 0.5]).sum()
    np.testing.assert_allclose(loss.q_G, expected_G, rtol=1e-12)
    np.testing.assert_allclose(weight_B, [expected_G[0] / 2] * 2 + [expected_G[2] / 3] * 3, rtol=1e-12)


def test_the_adjustment_is_c_over_the_root_of_the_groups_size_and_only_for_groups_that_are_there() -> None:
    loss = GroupLoss(np.repeat([0, 1, 2], [4, 16, 25]), eta=1.0, adjustment=2.0)
    loss.weigh(np.array([0, 4]), np.array([0.3, 0.3]), np.ones(2, dtype=bool))
    unnormalised_G = np.exp([0.3 + 2 / 2, 0.3 + 2 / 4, 0.0])
    np.testing.assert_allclose(loss.q_G, unnormalised_G / unnormalised_G.sum(), rtol=1e-12)


def test_huge_losses_do_not_overflow() -> None:
    loss = GroupLoss(np.repeat([0, 1], 10), eta=1.0, adjustment=0.0)
    weigh(loss, [0, 1], [5000.0, 1.0])
    assert loss.q_G.tolist() == [1.0, 0.0]


def test_with_one_group_it_is_erm(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    train, val = sets
    alone = copy.copy(train)
    alone.group_N = np.zeros(len(train), dtype=np.int64)
    dro = fit(GroupDroConfig(epochs=2, sampler="uniform", select="last"), (alone, val), tmp_path / "dro")
    assert equal(dro, fit(ErmConfig(epochs=2, select="last"), (train, val), tmp_path / "erm"))


def test_a_fit_that_goes_on_from_a_checkpoint_ends_the_same(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    """With the weights of the groups as they were; a large eta, so that they matter."""

    def config(epochs: int) -> GroupDroConfig:
        return GroupDroConfig(epochs=epochs, eta=1.0, schedule="constant", select="last")

    whole = fit(config(3), sets, tmp_path / "whole")
    fit(config(1), sets, tmp_path / "parts")
    state = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert state["adaptive"]["q"].sum() == pytest.approx(1)
    assert state["adaptive"]["q"].tolist() != [0.25] * 4
    assert equal(whole, fit(config(3), sets, tmp_path / "parts"))


def test_a_picture_with_its_sources_attribute_has_a_group(scenes_folder: Path) -> None:
    train = TrainingSet(RowIndex(scenes_folder), "train", size_px=64)
    for labels, attributes, groups in (([1, 1, 1], [0, 1, -1], [2, 3, -1]), ([0, 1], [1, -1], [1, -1])):
        train = train.with_extra(extra_of(np.zeros((len(labels), 64, 64, 3), np.uint8), labels, attributes))
        assert train.group_N is not None
        assert train.group_N[train.generated_N].tolist() == groups


def test_without_attributes_it_is_refused(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    train, val = sets
    without = copy.copy(train)
    without.group_N = None
    with pytest.raises(DataError, match="algorithm group_dro needs the attribute"):
        fit(GroupDroConfig(), (without, val), tmp_path)
