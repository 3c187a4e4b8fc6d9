"""Rows of features have a role each, and only one."""

from pathlib import Path

import numpy as np
import pytest
from extra_sets import extra_of
from feature_toys import rows, table

from raygen.algorithms import afr
from raygen.algorithms.features import Role, feature_table, halves
from raygen.algorithms.heads import Linear, head_of, set_linear
from raygen.algorithms.inference import extract_features, extract_logits
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import ClassifierConfig, build_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError, StageError
from raygen.worker import Worker


def test_a_row_has_one_role() -> None:
    four = table(rows(np.arange(8).reshape(4, 2), [0, 1, 0, 1], [0, 2, 1, 3]))
    part = four.use(Role.FIT, np.array([2, 0]))
    assert part.features_ND.tolist() == [[4, 5], [0, 1]]
    assert (part.label_N.tolist(), part.group_N.tolist()) == ([0, 0], [1, 0])  # type: ignore[union-attr]
    for taken in ([0], [3, 2], [1, 1]):
        with pytest.raises(AssertionError):
            four.use(Role.SELECT, np.array(taken))
    four.use(Role.SELECT, np.array([3]))
    assert four.roles()["role"].to_pylist() == ["fit", "held out", "fit", "select"]
    assert not four.is_all_to_fit


def test_halves_hold_every_class_and_no_row_twice() -> None:
    label_N = np.repeat([0, 1, 2], [7, 2, 40])
    three = table(rows(np.zeros((49, 1)), label_N, num_classes=3))
    first_M, second_M = halves(three, seed=0, what="toy")
    assert sorted([*first_M, *second_M]) == list(range(49))
    assert np.bincount(label_N[first_M]).tolist() == [4, 1, 20]
    assert not np.array_equal(first_M, halves(three, seed=1, what="toy")[0])
    with pytest.raises(DataError, match=r"algorithm toy splits validation .* class 1 has 1 validation image"):
        halves(table(rows(np.zeros((5, 1)), [0, 0, 0, 0, 1])), seed=0, what="toy")


def test_pictures_become_rows_with_ids_and_extra_ones_do_not(scenes_folder: Path, tmp_path: Path) -> None:
    worker = Worker(0, 1, "cpu", tmp_path)
    train = TrainingSet(RowIndex(scenes_folder), "train", size_px=64)
    classifier = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    chosen = np.array([150, 3, 40])
    found = feature_table(classifier, train, worker, split="train", row_M=chosen)
    assert found.roles()["image_id"].to_pylist() == train.image_ids(chosen)
    part, all_ND = found.use(Role.FIT), extract_features(classifier, train, worker)
    np.testing.assert_allclose(part.features_ND, all_ND[chosen], rtol=0, atol=1e-6)  # batches of other sizes
    assert np.array_equal(part.label_N, train.label_N[chosen])
    logits_NC = head_of(classifier).logits(all_ND)
    np.testing.assert_allclose(logits_NC, extract_logits(classifier, train, worker), rtol=0, atol=1e-5)  # float32
    with_extra = train.with_extra(extra_of(np.zeros((4, 64, 64, 3), np.uint8), [1] * 4))
    assert len(feature_table(classifier, with_extra.without_extra(), worker, split="train")) == len(train)
    set_linear(classifier, Linear(np.full((2, 32), 0.5), np.array([1.0, 2.0])))
    assert head_of(classifier).bias_C.tolist() == [1, 2]
    next(iter(classifier.backbone.parameters())).data.fill_(float("nan"))
    with pytest.raises(StageError, match="features of train image"):
        feature_table(classifier, train, worker, split="train")


def test_a_head_is_fitted_on_the_datasets_own_images_alone(scenes_folder: Path, tmp_path: Path) -> None:
    """Pictures beside them are for the features, which are there when the head is fitted."""
    train, val = (TrainingSet(RowIndex(scenes_folder), split, size_px=16) for split in ("train", "val"))
    with_extra = train.with_extra(extra_of(np.zeros((40, 16, 16, 3), np.uint8), [1] * 40))
    heads = []
    for data in (train, with_extra):
        classifier = build_classifier(ClassifierConfig(width=8, image_size_px=16), 2, seed=0)
        afr.fit(afr.AfrConfig(num_steps=3), classifier, data, val, seed=0, worker=Worker(0, 1, "cpu", tmp_path))
        heads.append(head_of(classifier))
    np.testing.assert_array_equal(heads[0].weight_CD, heads[1].weight_CD)


def test_a_head_behind_an_affine_map_is_a_head() -> None:
    rng = np.random.default_rng(0)
    head, features_ND = Linear(rng.normal(size=(3, 5)), rng.normal(size=3)), rng.normal(size=(7, 5))
    scale_D, shift_D = rng.normal(size=5), rng.normal(size=5)
    found = head.of_affine(scale_D, shift_D).logits(features_ND)
    np.testing.assert_allclose(found, head.logits(features_ND * scale_D + shift_D), atol=1e-12)
