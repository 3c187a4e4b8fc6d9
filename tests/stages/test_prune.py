from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_classifiers

from raygen.classifier import Classifier, save_classifier
from raygen.classifier.framing import preprocess
from raygen.images import encode_image, encode_mask
from raygen.stages.prune import PruneStage
from raygen.stages.spec import Batch, object_column

SIZE, FRAME = toy_classifiers.SIZE_PX, toy_classifiers.FRAME


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(SIZE, SIZE, 3), dtype=np.uint8)


REPAINT = np.zeros((SIZE, SIZE), dtype=bool)
REPAINT[:, :7] = True
ORIGINALS = [picture(n) for n in range(5)]
COMPOSITES = [np.where(REPAINT[..., None], picture(n + 100), ORIGINALS[n]) for n in range(5)]


def unit(generated: Sequence[bytes | None], originals: Sequence[bytes | None] | None = None) -> Batch:
    num = len(generated)
    return {
        "image_png": object_column(originals or [encode_image(image) for image in ORIGINALS[:num]]),
        "generated_png": object_column(generated),
        "repaint_png": object_column([encode_mask(REPAINT)] * num),
        "source_label": np.arange(num) % 2,
        "target_label": 1 - np.arange(num) % 2,
        "status": object_column(["ok"] * num),
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


def test_scores_are_softmax_of_the_source_and_difference_of_the_target_logit(
    classifier: Classifier, folder: str
) -> None:
    stage = PruneStage(classifier_folder=folder, attribution="exact")
    scored = stage(unit([encode_image(image) for image in COMPOSITES]))
    with torch.inference_mode():
        after_NC, before_NC = (classifier(preprocess(images, FRAME)) for images in (COMPOSITES, ORIGINALS))
    for n in range(5):
        source, target = n % 2, 1 - n % 2
        assert scored["source_probability"][n] == pytest.approx(float(after_NC[n].softmax(0)[source]), abs=1e-5)
        difference = float(after_NC[n, target] - before_NC[n, target])
        assert scored["attribution_inside"][n] == pytest.approx(difference, abs=1e-5)
        assert scored["convergence_delta"][n] == 0


def test_integrated_gradients_and_the_exact_difference_agree_on_composites(folder: str) -> None:
    """For pictures that differ inside the mask only, up to the path integral's own error."""
    batch = unit([encode_image(image) for image in COMPOSITES])
    exact = PruneStage(classifier_folder=folder, attribution="exact")(batch)
    gradients = PruneStage(classifier_folder=folder, attribution="ig", num_steps=200)(batch)
    for n in range(5):
        error = abs(gradients["attribution_inside"][n] - exact["attribution_inside"][n])
        assert error == pytest.approx(gradients["convergence_delta"][n], abs=1e-5)
        assert error < 1e-2
    assert gradients["source_probability"].tolist() == exact["source_probability"].tolist()


def test_integrated_gradients_stop_at_a_tolerance(folder: str) -> None:
    batch = unit([encode_image(image) for image in COMPOSITES])
    exact = PruneStage(classifier_folder=folder, attribution="exact")(batch)
    scored = PruneStage(classifier_folder=folder, attribution="ig", completeness_tolerance=0.02)(batch)
    for n in range(5):
        rho, delta = exact["attribution_inside"][n], scored["convergence_delta"][n]
        assert delta <= 0.02 * max(abs(rho), 1)
        assert abs(scored["attribution_inside"][n] - rho) == pytest.approx(delta, abs=1e-5)


def test_integrated_gradients_leave_out_what_changed_outside_the_mask(folder: str) -> None:
    generated = [encode_image(np.where(REPAINT[..., None], ORIGINALS[n], picture(n + 100))) for n in range(2)]
    scored = PruneStage(classifier_folder=folder, attribution="ig", num_steps=20)(unit(generated))
    assert scored["attribution_inside"].tolist() == [0, 0]


def test_rows_that_cannot_be_scored_keep_their_place_and_say_why(folder: str) -> None:
    good = encode_image(COMPOSITES[0])
    batch = unit([good, b"damaged", None], [encode_image(ORIGINALS[0])] * 3)
    batch["repaint_png"] = object_column([encode_mask(REPAINT)] * 3)
    scored = PruneStage(classifier_folder=folder, attribution="exact")(batch)
    assert scored["status"].tolist() == ["ok", "failed", "failed"]
    assert all("generated_png" in scored["error"][n] for n in (1, 2))
    for name in PruneStage.writes:
        assert scored[name][0] is not None
        assert scored[name].tolist()[1:] == [None, None]


def test_classifier_that_diverged_fails_its_rows(tmp_path: Path) -> None:
    classifier = toy_classifiers.small_resnet()
    classifier.head.weight.data.fill_(float("nan"))
    save_classifier(classifier, tmp_path)
    stage = PruneStage(classifier_folder=str(tmp_path), attribution="exact")
    scored = stage(unit([encode_image(COMPOSITES[0])]))
    assert scored["status"].tolist() == ["failed"]
    assert "not finite" in scored["error"][0]
