"""DaC's head training: its loss by hand, and that nothing but the head moves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from extra_sets import extra_of

from raygen import algorithms
from raygen.algorithms.dac_head import DacHeadConfig, batches_of, head_loss, new_head
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import Classifier, ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.worker import Worker


def classifier() -> Classifier:
    return build_classifier(ClassifierConfig(width=8, image_size_px=16), 2, seed=0)


def fit(
    train: TrainingSet, val: TrainingSet, folder: Path, **fields: float
) -> tuple[Classifier, list[dict[str, float]]]:
    torch.set_num_threads(1)
    config, fitted = DacHeadConfig.model_validate(fields), classifier()
    history = algorithms.of(config).fit(config, fitted, train, val, seed=0, worker=Worker(0, 1, "cpu", folder))
    return fitted, history


def test_composed_pictures_count_twice_alpha() -> None:
    """Zero logits: log 2 each; then by hand for logits of one image and two composed pictures."""
    head = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    features, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 1, 0])
    loss = head_loss(head, features, labels, np.array([0]), np.array([1, 2]), alpha=3.0)
    assert loss.item() == pytest.approx((1 + 6) * np.log(2))
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    own = np.log(1 + np.exp(-1))
    composed = (np.log(1 + np.exp(-1)) + np.log(2)) / 2
    loss = head_loss(head, features, labels, np.array([0]), np.array([1, 2]), alpha=3.0)
    assert loss.item() == pytest.approx(own + 6 * composed, rel=1e-6)
    alone = head_loss(head, features, labels, np.array([0]), np.zeros(0, dtype=int), alpha=3.0)
    assert alone.item() == pytest.approx(own, rel=1e-6)


def test_every_picture_is_in_one_batch_of_an_epoch() -> None:
    generated_N = np.arange(150) >= 130
    batches = batches_of(generated_N, 64, np.random.default_rng(0))
    own, composed = (np.sort(np.concatenate(part)).tolist() for part in zip(*batches, strict=True))
    assert (own, composed) == ([*range(130)], [*range(130, 150)])
    assert max(len(rows) for rows, _ in batches) <= 64
    assert all(len(others) for _, others in batches)


def test_a_new_head_is_xavier_uniform_with_zero_bias() -> None:
    head = new_head(torch.nn.Linear(4000, 2), seed=0)
    bound = (6 / (4000 + 2)) ** 0.5
    assert 0.95 * bound < head.weight.abs().max().item() <= bound
    assert head.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert head.bias.tolist() == [0, 0]
    assert torch.equal(new_head(torch.nn.Linear(4000, 2), seed=0).weight, head.weight)


def test_the_rate_is_halved_every_so_many_epochs(scenes_folder: Path, tmp_path: Path) -> None:
    """One step an epoch: Adam goes as far in each as its rate, so the loss falls half as much after every epoch."""
    index = RowIndex(scenes_folder)
    train, val = (TrainingSet(index, split, size_px=16) for split in ("train", "val"))
    _, history = fit(train, val, tmp_path, epochs=3, batch_size=len(train), learning_rate=1e-5, halve_after=1)
    first, second, third = (entry["loss"] for entry in history)
    assert (second - third) / (first - second) == pytest.approx(0.5, abs=0.05)


def test_only_the_head_moves_and_composed_pictures_decide(scenes_folder: Path, tmp_path: Path) -> None:
    """Extra pictures that are the training images with the other label, with a large weight, turn it round."""
    index = RowIndex(scenes_folder)
    train, val = (TrainingSet(index, split, size_px=16) for split in ("train", "val"))
    fitted, history = fit(train, val, tmp_path, epochs=3)
    before = classifier().state_dict()
    for name, tensor in fitted.state_dict().items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("head.")), name
    best = max((entry["val_worst_group"], entry["val_average"]) for entry in history)
    chosen = next(entry for entry in history if (entry["val_worst_group"], entry["val_average"]) == best)
    features = torch.cat(
        [fitted.features(b.permute(0, 3, 1, 2).float() / 255) for b in val.batches([np.arange(len(val))])]
    )
    found = (fitted.head(features).argmax(1).numpy() == val.label_N).mean()
    assert found == pytest.approx(chosen["val_average"])
    (images_NHWC,) = train.batches([np.arange(len(train))])
    wrong = train.with_extra(extra_of(images_NHWC.numpy(), (1 - train.label_N).tolist()))
    agree = [
        (fit(data, val, tmp_path, alpha=alpha, epochs=30)[1][-1]["loss"])
        for data, alpha in ((wrong, 0.0), (wrong, 50.0))
    ]
    assert agree[1] > agree[0]
