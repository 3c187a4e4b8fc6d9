"""Several workers of a fit: each has its share of every batch, and together they fit as one does."""

from pathlib import Path
from typing import Any

import gloo_workers
import numpy as np
import pytest
import torch

from raygen.algorithms.batches import batch_sizes, least_rows
from raygen.classifier import ClassifierConfig, build_classifier
from raygen.errors import ConfigError, DataError
from raygen.worker import Worker


@pytest.fixture(scope="module")
def one(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    torch.set_num_threads(1)
    return gloo_workers.fitted(scenes_folder, tmp_path_factory.mktemp("one"), rank=0, world_size=1)


@pytest.fixture(scope="module")
def two(scenes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return gloo_workers.run(scenes_folder, tmp_path_factory.mktemp("two") / "workers", world_size=2)


def test_each_worker_loads_and_computes_its_share_of_the_same_pictures(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    for step, positions in enumerate(one["asked"]):
        assert [worker["asked"][step] for worker in two] == [positions[0::2], positions[1::2]]
    assert len(one["inputs"]) == 2 * len(one["asked"])  # two epochs
    for step, inputs in enumerate(one["inputs"]):
        for rank, worker in enumerate(two):
            assert torch.equal(worker["inputs"][step], inputs[rank::2])


def test_the_loss_and_the_weights_are_those_of_one_worker_and_alike_on_both(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    assert two[0]["history"] == two[1]["history"]
    # Float32 sums in another order.
    for found, expected in zip(two[0]["history"], one["history"], strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    for name, weights in one["weights"].items():
        torch.testing.assert_close(two[0]["weights"][name], weights, rtol=1e-4, atol=1e-6)
        assert torch.equal(two[0]["weights"][name], two[1]["weights"][name])


@pytest.mark.parametrize("name", ["lff", "lisa", "copies", "perturbed", "mixup"])
def test_a_second_network_mixed_pictures_copies_and_terms_are_shared_too(
    name: str, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    for part, weights in one[name].items():
        torch.testing.assert_close(two[0][name][part], weights, rtol=1e-4, atol=1e-6)
        assert torch.equal(two[0][name][part], two[1][name][part])
    for history in ("lff_history", "copies_history", "mixup_history"):
        assert two[0][history] == two[1][history]
        for found, expected in zip(two[0][history], one[history], strict=True):
            assert found == pytest.approx(expected, rel=1e-5)


def test_the_weights_of_groups_follow_the_losses_of_all_workers(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    torch.testing.assert_close(two[0]["q"], one["q"], rtol=1e-4, atol=1e-6)
    assert (one["q"] - 0.25).abs().max() > 0.01
    for name, weights in one["grouped"].items():
        torch.testing.assert_close(two[0]["grouped"][name], weights, rtol=1e-4, atol=1e-6)
        assert torch.equal(two[0]["grouped"][name], two[1]["grouped"][name])


def test_what_layers_draw_is_another_in_every_step_epoch_and_worker(
    one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    for drawn in (one["drawn"], two[0]["drawn"] + two[1]["drawn"]):
        assert len(drawn) > 8
        assert len({*drawn}) == len(drawn)


def test_validation_and_features_are_shared_and_known_to_both(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for worker in two:
        assert torch.equal(worker["right"], one["right"])
        # No layer changes what is seen: a feature is a pixel.
        assert torch.equal(worker["features"], one["features"])
        assert len(worker["right"]) > 0


def test_a_head_on_features_of_two_workers_is_that_of_one(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    """The leading worker fits it; the other's classifier is not saved, and stays as it was."""
    torch.testing.assert_close(two[0]["head"], one["head"], rtol=1e-4, atol=1e-6)
    assert torch.equal(two[1]["head"], two[1]["weights"]["head.weight"])
    assert not torch.equal(two[0]["head"], two[1]["head"])


def test_workers_leave_with_the_same_running_statistics(two: list[dict[str, Any]]) -> None:
    for name, weights in two[0]["normalised"].items():
        assert torch.equal(weights, two[1]["normalised"][name]), name
    assert torch.equal(two[0]["normalised_right"], two[1]["normalised_right"])


def test_two_workers_put_an_old_checkpoint_aside_and_go_on_from_their_own(two: list[dict[str, Any]]) -> None:
    for worker in two:
        assert all(torch.equal(worker["resumed"][name], weights) for name, weights in worker["weights"].items())


def test_no_step_leaves_a_worker_without_a_picture(tmp_path: Path) -> None:
    classifier, workers = build_classifier(ClassifierConfig(width=8), 2, seed=0), Worker(0, 3, "cpu", tmp_path)
    assert least_rows(classifier, workers, num=65, batch_size=64) == 3
    assert batch_sizes(66, 64, least=3) == [66]
    with pytest.raises(DataError, match="3 workers needs as many images, and the training set has 2"):
        least_rows(classifier, workers, num=2, batch_size=64)
    with pytest.raises(ConfigError, match="batch_size is 2"):
        least_rows(classifier, workers, num=65, batch_size=2)
    assert np.sum(batch_sizes(130, 64, least=3)) == 130
