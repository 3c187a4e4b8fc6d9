import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import toy_classifiers

from raygen import schema
from raygen.classifier import Classifier, save_classifier
from raygen.classifier.framing import preprocess
from raygen.images import encode_image
from raygen.stages.score import PredictStage, ScoreStage
from raygen.stages.spec import Batch, object_column

COLUMNS = ("logits", "predicted_label", "loss", "confidence", "features")


def picture(seed: int, *, size_px: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(size_px, size_px, 3), dtype=np.uint8)


def unit(pngs: Sequence[bytes | None], statuses: list[str] | None = None) -> Batch:
    num = len(pngs)
    return {
        "image_id": object_column([f"i{n}" for n in range(num)]),
        "label": np.arange(num) % 2,
        "image_png": object_column(pngs),
        "status": object_column(statuses or ["ok"] * num),
        "error": object_column([None] * num),
    }


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return toy_classifiers.small_resnet(seed=5)


@pytest.fixture(scope="module")
def folder(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("classifier")
    save_classifier(classifier, path)
    return str(path)


def test_scores_are_those_of_one_forward_pass_per_picture(classifier: Classifier, folder: str) -> None:
    images = [picture(n) for n in range(5)]
    scored = ScoreStage(classifier_folder=folder)(unit([encode_image(image) for image in images]))
    for n, image in enumerate(images):
        with torch.inference_mode():
            inputs = preprocess([image], toy_classifiers.FRAME)
            logits, features = classifier(inputs)[0], classifier.features(inputs)[0]
        label = torch.tensor(n % 2)
        # The bits of a convolution depend on the number of rows; 1e-5 is ten times what was seen.
        assert scored["logits"][n] == pytest.approx(logits.tolist(), abs=1e-5)
        assert scored["features"][n] == pytest.approx(features.tolist(), abs=1e-5)
        assert scored["predicted_label"][n] == int(logits.argmax())
        assert scored["loss"][n] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, label)), abs=1e-5)
        assert scored["confidence"][n] == pytest.approx(math.exp(-scored["loss"][n]))


def test_rows_that_cannot_be_scored_keep_their_place_and_say_why(folder: str) -> None:
    good = encode_image(picture(0))
    batch = unit([good, b"no picture", None, good, good], ["ok", "ok", "ok", "failed", "padding"])
    scored = ScoreStage(classifier_folder=folder)(batch)
    assert scored["status"].tolist() == ["ok", "failed", "failed", "failed", "padding"]
    assert "not a picture" in scored["error"][1]
    assert "cannot be read" in scored["error"][2]
    for name in COLUMNS:
        assert scored[name][0] is not None
        assert all(value is None for value in scored[name][1:])
    assert batch["status"].tolist() == ["ok", "ok", "ok", "failed", "padding"], "the caller's columns are its own"


def test_failed_neighbours_do_not_change_a_rows_bits(folder: str) -> None:
    stage = ScoreStage(classifier_folder=folder)
    pngs = [encode_image(picture(n)) for n in range(4)]
    together = stage(unit(pngs))
    alone = stage(unit([pngs[0], b"damaged", None, b""]))
    assert together["logits"][0] == alone["logits"][0]


def test_a_unit_of_scores_fits_the_score_schema(folder: str) -> None:
    scored = ScoreStage(classifier_folder=folder)(unit([encode_image(picture(0)), None]))
    table = pa.table({name: pa.array(column.tolist()) for name, column in scored.items() if name != "image_png"})
    assert schema.cast(table, schema.SCORE, what="scores").schema == schema.SCORE


def test_classifier_that_diverged_fails_its_rows(tmp_path: Path) -> None:
    classifier = toy_classifiers.small_resnet()
    classifier.head.weight.data.fill_(float("nan"))
    save_classifier(classifier, tmp_path)
    batch = unit([encode_image(picture(0))])
    scored = ScoreStage(classifier_folder=str(tmp_path))(batch)
    assert scored["status"].tolist() == ["failed"]
    assert "not finite" in scored["error"][0]
    assert scored["logits"][0] is None
    predicted = PredictStage(classifier_folders={"erm": str(tmp_path)})(batch)
    assert predicted["erm"][0] is None
    assert "erm" in predicted["error"][0]


def test_predictions_of_several_classifiers_stand_in_columns_of_their_names(
    classifier: Classifier, folder: str, tmp_path: Path
) -> None:
    save_classifier(toy_classifiers.small_resnet(num_classes=3, seed=9), tmp_path)
    images = [picture(n) for n in range(5)]
    stage = PredictStage(classifier_folders={"erm": folder, "dbb": str(tmp_path)})
    predicted = stage(unit([*(encode_image(image) for image in images), b"damaged"]))
    other = toy_classifiers.small_resnet(num_classes=3, seed=9)
    for name, model in (("erm", classifier), ("dbb", other)):
        with torch.inference_mode():
            expected_N = model(preprocess(images, toy_classifiers.FRAME)).argmax(dim=1)
        assert predicted[name].tolist() == [*expected_N.tolist(), None]
    assert predicted["status"].tolist() == ["ok"] * 5 + ["failed"]
