"""What a fit is selected by: known groups, classes, environments of a first fit, clusters of its features."""

from pathlib import Path

import numpy as np
import pytest
from feature_toys import rows

from raygen.algorithms.erm import ErmConfig
from raygen.algorithms.inference import accuracies
from raygen.algorithms.selection import Best, clusters, resolved, score_of, selection_groups
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import ClassifierConfig, build_classifier, save_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.fits.classifiers import selecting
from raygen.worker import Worker

LABEL_N = np.array([0, 0, 0, 1, 1, 1])
GROUP_N = np.array([0, 0, 1, 2, 3, 3])
LOGITS_NC = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
FEATURES_ND = np.array([[0.0], [0.1], [9.0], [5.0], [0.0], [5.2]])


def test_every_way_to_tell_rows_apart() -> None:
    known, unknown = rows(FEATURES_ND, LABEL_N, GROUP_N), rows(FEATURES_ND, LABEL_N)

    def of(by: str, found: object = known) -> list[int]:
        return selection_groups(by, found, LOGITS_NC, seed=0).tolist()  # type: ignore[arg-type]

    assert of("auto") == of("groups") == GROUP_N.tolist()
    assert of("auto", unknown) == of("classes", unknown) == of("classes") == LABEL_N.tolist()
    assert of("environments") == of("environments", unknown) == [0, 1, 0, 2, 2, 3]
    assert of("average") == of("average", unknown) == [0] * 6
    parts = of("inferred_groups", unknown)
    assert [group // 2 for group in parts] == LABEL_N.tolist()
    assert parts[0] == parts[1] != parts[2]
    assert parts[3] == parts[5] != parts[4]
    with pytest.raises(DataError, match="select_by is groups, which needs the attribute"):
        of("groups", unknown)
    assert (resolved("auto", has_groups=True), resolved("auto", has_groups=False)) == ("groups", "classes")


def test_a_class_whose_rows_are_all_alike_is_one_cluster() -> None:
    alike = rows(np.array([[1.0], [1.0], [0.0], [5.0]]), [0, 0, 1, 1])
    found = clusters(alike, seed=0)
    assert found[0] == found[1] == 0
    assert sorted(found[2:]) == [2, 3]


def test_the_first_of_the_best_stays_and_an_empty_group_does_not_count() -> None:
    best: Best[str] = Best()
    assert best.offer((0.5, 0.7), "first")
    assert not best.offer((0.5, 0.7), "as good")
    assert not best.offer((0.4, 0.9), "worse for the worst")
    assert best.offer((0.5, 0.8), "better on average")
    assert (best.item, best.score) == ("better on average", (0.5, 0.8))
    predicted_N = np.array([0, 0, 1, 1, 0, 1])
    assert score_of(predicted_N, LABEL_N, np.array([0, 0, 0, 5, 5, 5])) == (2 / 3, 4 / 6)


def test_validation_is_told_apart_by_a_first_fits_errors(scenes_folder: Path, tmp_path: Path) -> None:
    val = TrainingSet(RowIndex(scenes_folder), "val", size_px=64)
    first = build_classifier(ClassifierConfig(width=8), 2, seed=0)
    first.head.bias.data = first.head.bias.data.new_tensor([100.0, 0.0])  # all are class 0
    save_classifier(first, tmp_path / "first")
    options = {"init": str(tmp_path / "first"), "seed": 0, "worker": Worker(0, 1, "cpu", tmp_path)}

    def of(**fields: str) -> TrainingSet:
        return selecting(ErmConfig(**fields), val, **options)  # type: ignore[arg-type]

    assert of() is val
    assert of(select_by="environments", select="last") is val
    told = of(select_by="environments")
    assert told.selection_group_N.tolist() == [0 if label == 0 else 3 for label in val.label_N]
    assert of(select_by="classes").selection_group_N.tolist() == val.label_N.tolist()
    assert accuracies(np.arange(len(val)) < 20, of(select_by="average"))["val_worst_group"] == 20 / len(val)
    assert set(of(select_by="inferred_groups").selection_group_N) == {0, 1, 2, 3}
    # And that is what an epoch's accuracy is of.
    correct_N = (val.label_N == 0) | (np.arange(len(val)) % 2 == 0)
    assert accuracies(correct_N, told)["val_worst_group"] == correct_N[val.label_N == 1].mean()
    assert accuracies(correct_N, told)["val_worst_group"] != accuracies(correct_N, val)["val_worst_group"]
