"""`raygen evaluate`: a classifier's accuracies on a dataset, and what it refuses to compare."""

from pathlib import Path

import pytest

from raygen.algorithms.inference import right_predictions
from raygen.algorithms.training_set import TrainingSet
from raygen.classifier import ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.datasets.rows import RowIndex
from raygen.errors import DataError
from raygen.run.evaluation import evaluate_classifier
from raygen.worker import Worker


def saved(folder: Path, num_classes: int) -> Path:
    save_classifier(build_classifier(ClassifierConfig(width=8), num_classes, seed=0), folder)
    return folder


def test_accuracies_are_those_of_the_classifiers_predictions(scenes_folder: Path, tmp_path: Path) -> None:
    classifier = saved(tmp_path / "classifier", 2)
    found = evaluate_classifier(classifier, {"name": "folder", "path": str(scenes_folder)}, seed=0)
    for split in ("val", "test"):
        images = TrainingSet(RowIndex(scenes_folder), split, size_px=64)
        correct_N = right_predictions(load_classifier(classifier), images, Worker(0, 1, "cpu", classifier))
        assert images.group_N is not None
        by_group = [float(correct_N[images.group_N == group].mean()) for group in range(4)]
        assert found[split]["average"] == pytest.approx(float(correct_N.mean()))
        assert [group["accuracy"] for group in found[split]["groups"]] == pytest.approx(by_group)
        assert found[split]["worst_group"] == pytest.approx(min(by_group))


@pytest.mark.parametrize("num_classes", [3, 1])
def test_classifier_of_other_classes_is_refused(scenes_folder: Path, tmp_path: Path, num_classes: int) -> None:
    with pytest.raises(DataError, match=rf"tells {num_classes} classes apart, and the dataset has 2 \(landbird, water"):
        evaluate_classifier(
            saved(tmp_path / "classifier", num_classes), {"name": "folder", "path": str(scenes_folder)}, seed=0
        )
