"""JTT: the error set, its repetition, and what it is when there are no errors."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from raygen.algorithms import erm
from raygen.algorithms.inference import right_predictions
from raygen.algorithms.jtt import JttConfig, OnlineErrors, find_errors, fit, num_copies, occurrences
from raygen.algorithms.pictures import InMemory
from raygen.algorithms.training_set import ExtraPictures, TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.worker import Worker


@pytest.fixture(scope="module")
def sets(scenes_folder: Path) -> tuple[TrainingSet, TrainingSet]:
    index = RowIndex(scenes_folder)
    return TrainingSet(index, "train", size_px=64), TrainingSet(index, "val", size_px=64)


def new(folder: Path) -> tuple[Classifier, Worker]:
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    return build_classifier(ClassifierConfig(width=8), 2, seed=0), Worker(0, 1, "cpu", folder)


def equal(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_an_epoch_has_all_images_once_and_errors_lambda_times_more() -> None:
    error_N = np.array([False, True, False, True, False])
    drawn = occurrences(error_N, copies=3)
    assert len(drawn) == 5 + 3 * 2
    assert np.bincount(drawn).tolist() == [1, 4, 1, 4, 1]


def test_repetition_is_a_weight_of_lambda_plus_one() -> None:
    rng = np.random.default_rng(0)
    losses_N, error_N = rng.random(50), rng.random(50) < 0.2
    weight_N = np.where(error_N, 1 + 7, 1)
    assert losses_N[occurrences(error_N, copies=7)].mean() == pytest.approx(
        (weight_N * losses_N).sum() / weight_N.sum()
    )


@pytest.mark.parametrize(("num_errors", "expected"), [(10, 8), (30, 1), (60, 0), (0, 0)])
def test_minus_one_is_the_rule_of_the_authors_code(num_errors: int, expected: int) -> None:
    """int((n - |E|) / |E|) - 1 of n = 100, never below 0."""
    error_N = np.arange(100) < num_errors
    assert num_copies(error_N, up_weight=-1) == expected
    assert num_copies(error_N, up_weight=20) == 20


def test_without_errors_it_is_erm(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    first, worker = new(tmp_path / "jtt")
    nothing_N = np.zeros(len(sets[0]), dtype=bool)
    fit(JttConfig(epochs=2, up_weight=50), first, sets[0].with_errors(nothing_N), sets[1], seed=0, worker=worker)
    second, worker = new(tmp_path / "erm")
    erm.fit(erm.ErmConfig(epochs=2), second, *sets, seed=0, worker=worker)
    assert equal(first, second)


def test_the_error_set_is_what_the_first_classifier_gets_wrong_in_evaluation(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    classifier, worker = new(tmp_path / "first")
    config = JttConfig(identification_epochs=2, epochs=5, learning_rate=0.02)
    error_N, history = find_errors(config, classifier, *sets, seed=0, worker=worker)
    assert len(history) == 2
    assert np.array_equal(error_N, ~right_predictions(classifier, sets[0], worker))
    # The same classifier as ERM's of as many epochs.
    other, worker = new(tmp_path / "erm")
    same = erm.ErmConfig(epochs=2, learning_rate=0.02, select="last")
    erm.fit(same, other, *sets, seed=0, worker=worker)
    assert equal(classifier, other)


def test_the_online_error_set_is_that_of_the_last_epochs_own_passes(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    """The share of wrong ones is the error rate of that epoch; interrupted after it, the checkpoint still has them."""
    config = JttConfig(identification_epochs=2, learning_rate=0.02, online=True)
    classifier, worker = new(tmp_path / "first")
    error_N, _ = find_errors(config, classifier, *sets, seed=0, worker=worker)
    again, _ = new(tmp_path / "first")
    resumed_N, _ = find_errors(config, again, *sets, seed=0, worker=worker)
    assert np.array_equal(error_N, resumed_N)
    assert equal(again, classifier)
    evaluated_N = ~right_predictions(classifier, sets[0], worker)
    assert not np.array_equal(error_N, evaluated_N)


def test_online_notes_hold_the_last_time_that_each_image_was_seen() -> None:
    notes = OnlineErrors(4)
    for correct in ([False, True], [True, True]):
        weights = notes.weigh(np.array([2, 0]), np.zeros(2), np.array(correct))
        assert weights.tolist() == [0.5, 0.5]
    notes.weigh(np.array([3]), np.zeros(1), np.array([False]))
    assert notes.error_N.tolist() == [False, False, False, True]
    other = OnlineErrors(4)
    other.restore(notes.state())
    assert other.error_N.tolist() == notes.error_N.tolist()


def test_an_empty_error_set_is_an_error_that_says_what_to_do(scenes_folder: Path, tmp_path: Path) -> None:
    """One class only: whatever the classifier has learned after some epochs, it says that class."""
    index = RowIndex(scenes_folder)
    keep_N = index.split("train")["label"].to_numpy() == 0
    train = TrainingSet(index, "train", size_px=64, keep_N=keep_N)
    val = TrainingSet(index, "val", size_px=64)
    classifier, worker = new(tmp_path / "first")
    with pytest.raises(DataError, match=r"error set is empty: after 4 epoch.*Lower algorithm\.identification_epochs"):
        find_errors(JttConfig(identification_epochs=4), classifier, train, val, seed=0, worker=worker)


def with_grey(train: TrainingSet, num: int) -> TrainingSet:
    """The training set with so many grey pictures of class 0."""
    pictures = InMemory(np.full((num, 64, 64, 3), 128, dtype=np.uint8))
    none_M = np.full(num, -1, dtype=np.int64)
    extra = ExtraPictures(pictures, np.arange(num), np.zeros(num, dtype=np.int64), none_M)
    return train.with_extra(extra)


@pytest.mark.parametrize(
    ("fields", "num_draws"),
    [
        # 160 images and 10 errors: lambda is int(150 / 10) - 1 = 14, whatever is generated beside them.
        ({}, 160 + 14 * 10 + 40),
        ({"epoch_length": "original"}, 160 + 14 * 10),
        # Of all 200 images, where E is looked for among all: int(190 / 10) - 1 = 18.
        ({"identify_on": "all"}, 160 + 18 * 10 + 40),
        ({"up_weight": 2}, 160 + 2 * 10 + 40),
        ({"up_weight": 2, "epoch_length": "original"}, 160 + 2 * 10),
    ],
)
def test_generated_pictures_do_not_change_lambda_and_need_not_change_the_steps(
    fields: dict[str, Any], num_draws: int, sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    train = with_grey(sets[0], 40)
    assert len(train) == 200
    classifier, worker = new(tmp_path / "fit")
    config = JttConfig(epochs=1, batch_size=20, select="last", schedule="constant", **fields)
    fit(config, classifier, train.with_errors(np.arange(200) < 10), sets[1], seed=0, worker=worker)
    steps = torch.load(tmp_path / "fit" / "checkpoint.pt")["scheduler"]["last_epoch"]
    assert steps == num_draws / 20


def test_an_identification_rate_is_constant_or_runs_its_whole_schedule(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    """By the authors' rate E is that of ERM with a constant one; the second fit's schedule is its own."""
    names: tuple[Literal["own", "constant"], ...] = ("own", "constant")
    schedules: tuple[Literal["cosine", "constant"], ...] = ("cosine", "constant")
    found = {}
    for name, schedule in zip(names, schedules, strict=True):
        found[name], worker = new(tmp_path / name)
        config = JttConfig(learning_rate=0.02, identification_schedule=name, schedule="cosine")
        find_errors(config, found[name], *sets, seed=0, worker=worker)
        other, worker = new(tmp_path / f"erm_{name}")
        same = erm.ErmConfig(epochs=2, learning_rate=0.02, select="last", schedule=schedule)
        erm.fit(same, other, *sets, seed=0, worker=worker)
        assert equal(found[name], other)
    assert not equal(found["own"], found["constant"])


def test_only_a_fit_that_lambda_has_changed_for_is_made_again() -> None:
    """Lambda by the rule, errors of the original images, and pictures beside them."""
    assert JttConfig().fitted_anew(has_extra=True) == {"up_weight_of": "original"}
    assert JttConfig().fitted_anew(has_extra=False) == {}
    assert JttConfig(up_weight=3).fitted_anew(has_extra=True) == {}
    assert JttConfig(identify_on="all").fitted_anew(has_extra=True) == {}
    (first,), (other,) = (
        JttConfig(**fields).first_fits(erm.ErmConfig(), has_extra=True) for fields in ({}, {"epoch_length": "original"})
    )
    assert first == other
    assert first.config.fitted_anew(has_extra=True) == {}
