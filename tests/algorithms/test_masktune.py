"""MaskTune: what is masked, and that one epoch goes on from the start on the masked pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch

from raygen import algorithms
from raygen.algorithms.masktune import MaskTuneConfig, blacken_attended, hottest
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.classifier.framing import as_input
from raygen.datasets.rows import RowIndex
from raygen.maskers.cam import cam_heatmaps
from raygen.storage.progress import noted
from raygen.worker import Worker

FRAMED = ClassifierConfig(width=8, image_size_px=28, framing="resize_crop")  # of pictures of 32 x 32


@pytest.fixture(scope="module")
def sets(scenes_folder: Path) -> tuple[TrainingSet, TrainingSet]:
    index, side_px = RowIndex(scenes_folder), FRAMED.frame.whole_px
    return TrainingSet(index, "train", size_px=side_px), TrainingSet(index, "val", size_px=side_px)


def classifier(*, bias: float = 0.0) -> Classifier:
    built = build_classifier(FRAMED, 2, seed=3).eval()
    built.head.bias.data[0] += bias
    return built


def test_one_hot_pixel_among_ten_warm_ones_is_masked() -> None:
    heat_HW = np.zeros((4, 5))
    heat_HW.flat[:10], heat_HW.flat[12] = 0.1, 1.0
    positive = heat_HW[heat_HW > 0]
    assert positive.mean() + 2 * positive.std() == pytest.approx(0.699282, abs=1e-6)
    assert np.flatnonzero(hottest(heat_HW, deviations=2)).tolist() == [12]
    # The zeros are not counted: with them the threshold would be 0.88 here, and it is 1.19.
    heat_HW.flat[:10] = [1.0] * 3 + [0.1] * 7
    heat_HW.flat[12] = 0.0
    assert heat_HW.mean() + 2 * heat_HW.std() < 1
    assert not hottest(heat_HW, deviations=2).any()


@pytest.mark.parametrize("heat_N", [np.full(9, 0.3), np.linspace(0, 1, 100), np.zeros(9), -np.ones(9)])
def test_flat_rising_and_absent_heat_masks_nothing(heat_N: np.ndarray) -> None:
    assert not hottest(heat_N.reshape(1, -1), deviations=2).any()


def test_at_most_a_fifth_of_the_positive_pixels_is_masked() -> None:
    rng = np.random.default_rng(0)
    for heat_HW in (rng.exponential(size=(20, 20)), rng.pareto(1.5, size=(20, 20)), rng.integers(0, 2, size=(9, 9))):
        assert hottest(heat_HW, deviations=2).sum() <= 0.2 * (heat_HW > 0).sum()


def test_pixels_are_masked_where_the_map_of_the_predicted_class_is_hottest(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    """In the frame that the classifier sees, and nowhere outside of it; what is not masked stays to the byte."""
    train, _ = sets
    model = classifier()
    black_NP, share_N = blacken_attended(model, train, Worker(0, 1, "cpu", tmp_path), deviations=1.0)
    chosen = np.array([150, 3, 77])
    (before,) = train.batches([chosen])
    (after,) = train.with_black(black_NP).batches([chosen])
    inside = FRAMED.frame.inside
    inputs = as_input(before[:, inside, inside])
    predicted = model(inputs).argmax(1).tolist()
    heat = cam_heatmaps(model, inputs, predicted, method="xgradcam")
    for row in range(3):
        expected = np.zeros((32, 32), dtype=bool)
        expected[inside, inside] = hottest(heat[row], deviations=1.0)
        assert expected.any()
        assert share_N[chosen[row]] == pytest.approx(expected.mean())
        np.testing.assert_array_equal(after[row].numpy(), np.where(expected[..., None], 0, before[row].numpy()))


def test_it_goes_on_from_its_start_for_one_epoch_and_says_what_was_masked(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    config, model, worker = MaskTuneConfig(learning_rate=1e-9), classifier(), Worker(0, 1, "cpu", tmp_path)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    (entry,) = algorithms.of(config).fit(config, model, *sets, seed=0, worker=worker)
    for name, tensor in model.named_parameters():
        torch.testing.assert_close(tensor, before[name], atol=1e-6, rtol=1e-6)
    assert 0 < entry["masked_share"] <= 0.2
    assert noted(tmp_path) == []


def test_masks_that_are_empty_are_warned_of(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    config, worker = MaskTuneConfig(deviations=1000.0), Worker(0, 1, "cpu", tmp_path)
    (entry,) = algorithms.of(config).fit(config, classifier(), *sets, seed=0, worker=worker)
    assert (entry["masked_share"], entry["untouched_share"]) == (0, 1)
    (line,) = noted(tmp_path)
    assert "masks nothing in 100% of the 160 training pictures" in line
