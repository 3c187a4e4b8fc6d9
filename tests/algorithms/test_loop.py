"""Fits: the same twice, the same after an interruption, and good enough to learn."""

import copy
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extra_sets import extra_of

from raygen import algorithms
from raygen.algorithms import AlgorithmConfig, balanced, erm, reweighted
from raygen.algorithms.balanced import BalancedConfig
from raygen.algorithms.batches import batch_sizes, draw_batches, least_rows
from raygen.algorithms.checkpoints import Progress
from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.loop import fit_loop
from raygen.algorithms.reweighted import ReweightedConfig
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError, DataError, RunFolderError, StageError
from raygen.worker import Numerics, Precision, Worker


@pytest.fixture(scope="module")
def sets(scenes_folder: Path) -> tuple[TrainingSet, TrainingSet]:
    index = RowIndex(scenes_folder)
    train, val = (TrainingSet(index, split, size_px=64) for split in ("train", "val"))
    return train.with_extra(extra_of(np.full((6, 64, 64, 3), 200, np.uint8), [1] * 6)), val


def fit(
    sets: tuple[TrainingSet, TrainingSet],
    folder: Path,
    *,
    seed: int = 0,
    epochs: int = 2,
    config: AlgorithmConfig | None = None,
    **where: Any,
) -> Classifier:
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    classifier = build_classifier(ClassifierConfig(width=8), 2, seed=seed)
    config = config or BalancedConfig(epochs=epochs, schedule="constant", select="last")
    algorithms.of(config).fit(config, classifier, *sets, seed=seed, worker=Worker(0, 1, "cpu", folder, **where))
    return classifier


def equal(a: Classifier, b: Classifier) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_same_seed_gives_the_same_weights(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    first = fit(sets, tmp_path / "a")
    assert equal(first, fit(sets, tmp_path / "b"))
    assert not equal(first, fit(sets, tmp_path / "c", seed=1))


def test_gamma_weighs_the_generated_pictures_of_its_class(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    """The extra pictures are all of class 1, so gamma of class 0 weighs nothing."""
    common = {"epochs": 1, "schedule": "constant", "select": "last", "learning_rate": 0.1}
    erm = fit(sets, tmp_path / "erm", config=ErmConfig(**common))
    for name, gamma, is_erm in (("none", 0.0, True), ("other", (3.0, 0.0), True), ("own", (0.0, 3.0), False)):
        found = fit(sets, tmp_path / name, config=BalancedConfig(**common, gamma=gamma))
        assert equal(found, erm) == is_erm, name


def test_the_last_layer_is_drawn_anew_and_nothing_else(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    before = build_classifier(ClassifierConfig(width=8), 2, seed=0).state_dict()
    fields = {"epochs": 1, "schedule": "constant", "select": "last", "learning_rate": 1e-12, "optimizer": "adam"}
    heads = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = BalancedConfig(**fields, last_layer="anew", weight_decay=0)
        classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
        (tmp_path / name).mkdir()
        torch.set_num_threads(1)
        global_numbers = torch.get_rng_state()
        balanced.fit(config, classifier, *sets, seed=seed, worker=Worker(0, 1, "cpu", tmp_path / name))
        assert torch.equal(global_numbers, torch.get_rng_state())
        after = classifier.state_dict()
        heads.append(after["head.weight"])
        assert after["head.bias"].abs().max() < 1e-9 < before["head.bias"].abs().max()
        learned = {key for key in after if key.endswith(("weight", "bias")) and not key.startswith("head")}
        assert all(torch.allclose(after[key], before[key], atol=1e-9) for key in learned)
    assert torch.equal(heads[0], heads[1])
    assert not torch.allclose(heads[0], heads[2])
    assert not torch.allclose(heads[0], before["head.weight"], atol=1e-3)


def test_a_last_layer_is_as_wide_as_glorot_has_it() -> None:
    """Uniform within sqrt(6 / (D + C)): the largest of many is close to it, their mean square is a third of its own."""
    classifier = build_classifier(ClassifierConfig(width=256), 2, seed=0)
    balanced.draw_last_layer(classifier, seed=0)
    bound = math.sqrt(6 / (4 * 256 + 2))
    weight = classifier.head.weight.detach()
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.square().mean().item() == pytest.approx(bound**2 / 3, rel=0.1)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # One batch of all 166 images, 6 of them added and of class 1, whose mean counts gamma beside that of all.
        (BalancedConfig(gamma=(9.0, 1.0)), (6 / 166 + 1) / (1 + 1)),
        (BalancedConfig(gamma=0.05), (6 / 166 + 0.05) / (1 + 0.05)),
        (BalancedConfig(gamma=2.0, ce_over="original"), 2 / 3),
        (ErmConfig(), 6 / 166),
    ],
)
def test_the_share_of_the_loss_that_added_pictures_hold_is_noted(
    config: Any, expected: float, sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    config = config.model_copy(update={"epochs": 1, "batch_size": 256, "schedule": "constant"})
    classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    worker = Worker(0, 1, "cpu", tmp_path)
    history = algorithms.of(config).fit(config, classifier, *sets, seed=0, worker=worker)
    assert [entry["generated_share"] for entry in history] == [pytest.approx(expected)]


def test_without_added_pictures_no_share_is_noted(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    train, val = sets
    classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    config = ErmConfig(epochs=1, schedule="constant")
    worker = Worker(0, 1, "cpu", tmp_path)
    (entry,) = erm.fit(config, classifier, train.without_extra(), val, seed=0, worker=worker)
    assert "generated_share" not in entry


def test_every_image_counts_with_its_own_weight_in_whatever_batch(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    """A classifier of zeros that hardly learns has a loss of log 2 for each image."""
    classifier = Classifier(ClassifierConfig(), torch.nn.Flatten(), num_features=3 * 64 * 64, num_classes=2)
    classifier.load_state_dict({name: torch.zeros_like(value) for name, value in classifier.state_dict().items()})
    config = ErmConfig(epochs=1, batch_size=16, learning_rate=1e-12, schedule="constant", augment="none")
    worker, train = Worker(0, 1, "cpu", tmp_path), sets[0]
    (entry,) = fit_loop(
        classifier,
        *sets,
        config,
        seed=0,
        worker=worker,
        loss_weights=lambda label_B, generated_B: label_B + 10.0 * generated_B,
    )
    num_batches = len(batch_sizes(len(train), 16, least=1))
    expected = math.log(2) * (train.label_N.sum() + 10 * train.generated_N.sum()) / num_batches
    assert entry["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_fit_that_goes_on_from_a_checkpoint_ends_the_same(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    whole = fit(sets, tmp_path / "whole", epochs=3)
    fit(sets, tmp_path / "parts", epochs=1)  # leaves a checkpoint after one epoch
    assert equal(whole, fit(sets, tmp_path / "parts", epochs=3))


def test_dropout_draws_the_same_whatever_was_drawn_before(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    found = []
    for name, noise, epochs in (("whole", 0, (2,)), ("disturbed", 5, (2,)), ("parts", 3, (1, 2))):
        for num in epochs:
            torch.default_generator.manual_seed(0)
            backbone = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Dropout(0.5))
            classifier = Classifier(ClassifierConfig(), backbone, num_features=3 * 8 * 8, num_classes=2)
            torch.rand(noise)
            before = torch.get_rng_state()
            (tmp_path / name).mkdir(exist_ok=True)
            config = ErmConfig(epochs=num, schedule="constant", select="last")
            erm.fit(config, classifier, *sets, seed=0, worker=Worker(0, 1, "cpu", tmp_path / name))
            assert torch.equal(before, torch.get_rng_state())
        found.append(classifier)
    assert equal(found[0], found[1])
    assert equal(found[0], found[2])


def test_a_checkpoint_of_before_is_put_aside_and_the_fit_begins_anew(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    whole = fit(sets, tmp_path / "whole", epochs=2)
    fit(sets, tmp_path / "parts", epochs=1, seed=1)
    file, told = tmp_path / "parts" / "checkpoint.pt", list[str]()
    state = torch.load(file)
    del state["format"]  # as it was when an epoch's augmentation was drawn batch by batch
    torch.save(state, file)
    assert equal(whole, fit(sets, tmp_path / "parts", epochs=2, tell=told.append))
    assert told[0].startswith("the checkpoint is of another version of raygen")
    assert [line.partition(":")[0] for line in told[1:]] == ["epoch 1/2", "epoch 2/2"]
    assert all(re.search(r", [\d,]+ images/s$", line) for line in told[1:])
    assert torch.load(tmp_path / "parts" / "checkpoint.old.pt").keys() == state.keys()


def test_what_a_checkpoint_holds_is_of_its_epoch_though_the_next_has_begun(tmp_path: Path) -> None:
    """Large enough that it is still being written when the weights change."""
    network = torch.nn.Linear(4096, 2048, bias=False)
    before = network.weight.detach().clone()
    entry = {"epoch": 0, "val_worst_group": 0.5, "val_average": 0.5}
    with Progress(network, {"other": network}, Worker(0, 1, "cpu", tmp_path)) as progress:
        progress.add(entry, select="last")
        with torch.no_grad():
            network.weight.zero_()
        progress.wait()
        state = torch.load(tmp_path / "checkpoint.pt")
    assert all(torch.equal(state[name]["weight"], before) for name in ("classifier", "other", "selected"))
    with Progress(network, {"other": network}, Worker(0, 1, "cpu", tmp_path)) as progress:
        assert progress.resume() == 1
    assert torch.equal(network.weight, before)


def test_the_best_epoch_is_the_earliest_of_equal_ones_also_across_an_interruption(tmp_path: Path) -> None:
    network, worker = torch.nn.Linear(1, 1, bias=False), Worker(0, 1, "cpu", tmp_path)
    scores = [(0.5, 0.6), (0.5, 0.6), (0.4, 0.9), (0.5, 0.7), (0.5, 0.7)]
    selected = []
    for epoch, (worst, average) in enumerate(scores):
        with Progress(network, {}, worker) as progress:  # each in a process of its own, as it were
            assert progress.resume() == epoch
            with torch.no_grad():
                network.weight.fill_(epoch)
            progress.add({"val_worst_group": worst, "val_average": average}, select="best")
        selected.append(float(progress.selected["weight"]))
    assert selected == [0, 0, 0, 3, 3]


def test_only_the_leading_worker_writes(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    with Progress(network, {}, Worker(1, 2, "cpu", tmp_path)) as progress:
        progress.add({"val_worst_group": 0.5, "val_average": 0.5}, select="best")
    assert not list(tmp_path.iterdir())
    assert progress.selected.keys() == network.state_dict().keys()


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "object"])
def test_a_damaged_checkpoint_says_so(tmp_path: Path, damage: str) -> None:
    file, network, worker = tmp_path / "checkpoint.pt", torch.nn.Linear(4, 4), Worker(0, 1, "cpu", tmp_path)
    with Progress(network, {}, worker) as progress:
        progress.add({"val_worst_group": 0.5, "val_average": 0.5}, select="last")
    match damage:
        case "empty":
            file.write_bytes(b"")
        case "cut":
            file.write_bytes(file.read_bytes()[:-100])
        case "text":
            file.write_text("hello")
        case _:
            torch.save(network, file)  # an object, which a checkpoint never holds
    with (
        pytest.raises(RunFolderError, match=rf"{file} is damaged \(.*\)\. Delete it; the fit then begins anew"),
        Progress(network, {}, worker) as progress,
    ):
        progress.resume()


def test_a_checkpoint_that_cannot_be_written_ends_the_fit(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.pt").mkdir()
    with pytest.raises(RunFolderError, match="a file or a broken link is in its place"):
        fit(sets, tmp_path, epochs=1)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_fit_of_half_precision_learns_and_goes_on_to_the_byte(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path, precision: Precision
) -> None:
    numerics = Numerics(precision)
    config = ErmConfig(epochs=2, batch_size=16, schedule="constant", learning_rate=0.02, select="last")
    whole = fit(sets, tmp_path / "whole", config=config, numerics=numerics)
    fit(sets, tmp_path / "parts", config=config.model_copy(update={"epochs": 1}), numerics=numerics)
    assert equal(whole, fit(sets, tmp_path / "parts", config=config, numerics=numerics))
    state, gone_on = (torch.load(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    assert state["scaler"] == gone_on["scaler"]  # its scale, and the steps since that was changed
    losses = [entry["loss"] for entry in state["history"]]
    assert losses[1] < losses[0]
    assert bool(state["scaler"]) == (precision == "float16")
    assert {tensor.dtype for tensor in whole.parameters()} == {torch.float32}
    if precision == "bfloat16":
        exact = fit(sets, tmp_path / "exact", config=config)
        assert not equal(whole, exact)
        # Numbers of 8 bits: a step is off by a percent or so of itself.
        assert (whole.head.weight - exact.head.weight).norm() < 0.2 * exact.head.weight.norm()


def test_a_loss_that_is_not_finite_ends_the_fit(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    config = ErmConfig(epochs=1, learning_rate=1e30, schedule="constant", augment="random_resized_crop")
    with pytest.raises(StageError, match=r"the loss of epoch 1 is (nan|inf); lower learning_rate \(now 1e\+30\)"):
        fit(sets, tmp_path, config=config)


def test_extra_pictures_belong_to_no_group(sets: tuple[TrainingSet, TrainingSet]) -> None:
    train, _ = sets
    assert len(train) == 166
    assert train.generated_N.sum() == 6
    assert train.group_N is not None
    assert np.bincount(train.group_N[~train.generated_N]).tolist() == [100, 20, 10, 30]
    assert set(train.group_N[train.generated_N]) == {-1}


def test_reweighting_without_attributes_is_refused(sets: tuple[TrainingSet, TrainingSet], tmp_path: Path) -> None:
    train, val = sets
    classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    without = copy.copy(train)
    without.group_N = None
    with pytest.raises(DataError, match="needs the attribute"):
        reweighted.fit(ReweightedConfig(), classifier, without, val, seed=0, worker=Worker(0, 1, "cpu", tmp_path))


def test_erm_learns_an_easy_split(scenes_folder: Path, tmp_path: Path) -> None:
    index = RowIndex(scenes_folder)
    train, val = (TrainingSet(index, split, size_px=64) for split in ("train", "val"))
    classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    config = ErmConfig(epochs=4, select="last")
    history = algorithms.of(config).fit(config, classifier, train, val, seed=0, worker=Worker(0, 1, "cpu", tmp_path))
    assert history[-1]["loss"] < history[0]["loss"]


def test_every_epoch_is_told_with_its_entry_and_what_was_right(
    sets: tuple[TrainingSet, TrainingSet], tmp_path: Path
) -> None:
    train, val = sets
    told: list[tuple[dict[str, float], np.ndarray, bool]] = []

    def note(entry: Mapping[str, float], correct_N: np.ndarray) -> None:
        told.append((dict(entry), correct_N, (tmp_path / "checkpoint.pt").is_file()))

    classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    worker = Worker(0, 1, "cpu", tmp_path, on_epoch=note)
    history = erm.fit(ErmConfig(epochs=2, select="last"), classifier, train, val, seed=0, worker=worker)
    assert [entry for entry, _, _ in told] == history
    for entry, correct_N, _ in told:
        assert correct_N.shape == (len(val),)
        assert entry["val_average"] == correct_N.mean()
        assert val.group_N is not None
        assert entry["val_worst_group"] == min(correct_N[val.group_N == group].mean() for group in range(4))
    # Before the epoch's checkpoint is written: whoever ends the fit there finds the epoch noted, not lost.
    assert [there for _, _, there in told] == [False, True]
    # The same weights as without anybody listening.
    silent = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    (tmp_path / "silent").mkdir()
    quiet = Worker(0, 1, "cpu", tmp_path / "silent")
    erm.fit(ErmConfig(epochs=2, select="last"), silent, train, val, seed=0, worker=quiet)
    assert equal(classifier, silent)


@pytest.mark.parametrize(
    ("num", "batch_size", "least", "sizes"),
    [
        (130, 64, 1, [64, 64, 2]),
        (129, 64, 1, [64, 64, 1]),
        (129, 64, 2, [64, 65]),
        (128, 64, 2, [64, 64]),
        (131, 64, 4, [64, 67]),
        (1, 64, 2, [1]),
    ],
)
def test_last_batch_that_is_too_small_joins_the_one_before(
    num: int, batch_size: int, least: int, sizes: list[int]
) -> None:
    assert batch_sizes(num, batch_size, least=least) == sizes
    batches = draw_batches(sizes, None, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(np.concatenate(batches)) == list(range(num))


def test_batch_of_one_is_made_only_where_batch_normalisation_can_take_it(scenes_folder: Path, tmp_path: Path) -> None:
    """ResNet-18 halves a picture five times: 32 px become one, so that one picture is one value a channel."""
    small, shrunk = (
        build_classifier(ClassifierConfig(width=8), 2, seed=0),
        ClassifierConfig(architecture="resnet18", image_size_px=32),
    )
    resnet = build_classifier(shrunk, 2, seed=0)
    worker = Worker(0, 1, "cpu", tmp_path)
    state, drawn = {name: value.clone() for name, value in resnet.state_dict().items()}, torch.get_rng_state()
    assert least_rows(small, worker, num=65, batch_size=64) == 1
    assert least_rows(resnet, worker, num=66, batch_size=64) == 1
    assert least_rows(resnet, worker, num=65, batch_size=64) == 2
    assert least_rows(resnet, Worker(0, 3, "cpu", tmp_path), num=69, batch_size=64) == 6
    assert all(torch.equal(value, resnet.state_dict()[name]) for name, value in state.items())
    assert torch.equal(drawn, torch.get_rng_state())
    with pytest.raises(ConfigError, match="batch_size is 1; raise it"):
        least_rows(resnet, worker, num=65, batch_size=1)
    with pytest.raises(DataError, match="the training set has 1"):
        least_rows(resnet, worker, num=1, batch_size=64)

    train, val = (TrainingSet(RowIndex(scenes_folder), split, size_px=32) for split in ("train", "val"))
    config = ErmConfig(epochs=1, batch_size=len(train) - 1, select="last")
    history = algorithms.of(config).fit(config, resnet, train, val, seed=0, worker=worker)
    assert np.isfinite(history[0]["loss"])
