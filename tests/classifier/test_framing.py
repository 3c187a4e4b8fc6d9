"""What a classifier sees of a picture: the same for all that look with it, and found again in the picture."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import toy_classifiers
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from raygen.classifier import Classifier, ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.classifier.framing import Frame, preprocess
from raygen.images import encode_image, encode_mask, resize_mask
from raygen.maskers.base import Repaint
from raygen.maskers.cam import CamConfig, cam_heatmaps, load
from raygen.stages.prune import PruneStage
from raygen.stages.score import PredictStage, ScoreStage
from raygen.stages.spec import Batch, object_column

CROP = Frame(16, "resize_crop")
# Pictures of its size are not resampled: what is outside of the crop is a border of a pixel.
WHOLE = CROP.whole_px


def picture(seed: int, *, side_px: int = WHOLE) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(side_px, side_px, 3), dtype=np.uint8)


def with_other_border(image_HWC: np.ndarray) -> np.ndarray:
    other_HWC = 255 - image_HWC
    other_HWC[1:-1, 1:-1] = image_HWC[1:-1, 1:-1]
    return other_HWC


@pytest.mark.parametrize(("size_px", "whole_px"), [(224, 256), (64, 73), (16, 18), (112, 128)])
@pytest.mark.parametrize("shape", [(90, 60), (300, 400)])
def test_resize_crop_is_torchvisions_resize_of_both_sides_and_center_crop(
    size_px: int, whole_px: int, shape: tuple[int, int]
) -> None:
    frame = Frame(size_px, "resize_crop")
    assert frame.whole_px == whole_px
    image_HWC = np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8)
    resized = Resize((whole_px, whole_px), InterpolationMode.BILINEAR)(Image.fromarray(image_HWC))
    np.testing.assert_array_equal(frame.picture(image_HWC), np.asarray(CenterCrop(size_px)(resized)))
    np.testing.assert_array_equal(
        Frame(size_px).picture(image_HWC),
        np.asarray(Resize((size_px, size_px), InterpolationMode.BILINEAR)(Image.fromarray(image_HWC))),
    )


@pytest.mark.parametrize("frame", [CROP, Frame(16)], ids=["resize_crop", "squash"])
def test_a_mask_comes_back_where_it_was(frame: Frame) -> None:
    mask_HW = np.random.default_rng(0).random((WHOLE * 2, WHOLE * 3)) < 0.5
    seen_SS = frame.mask(mask_HW)
    assert seen_SS.shape == (16, 16)
    back_TT = frame.on_whole(seen_SS)
    np.testing.assert_array_equal(frame.mask(back_TT), seen_SS)
    outside_TT = np.ones_like(back_TT)
    outside_TT[frame.inside, frame.inside] = False
    assert not back_TT[outside_TT].any()
    assert outside_TT.sum() == frame.whole_px**2 - 16**2


@pytest.fixture(scope="module", params=["resize_crop", "squash"])
def classifier(request: pytest.FixtureRequest) -> Classifier:
    config = ClassifierConfig(image_size_px=16, width=8, framing=request.param)
    return build_classifier(config, 2, seed=5).eval()


@pytest.fixture(scope="module")
def folder(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("classifier")
    save_classifier(classifier, path)
    return str(path)


def unit(images: list[np.ndarray], **columns: Any) -> Batch:
    num = len(images)
    return {
        "image_id": object_column([f"i{n}" for n in range(num)]),
        "label": np.zeros(num, dtype=int),
        "image_png": object_column([encode_image(image) for image in images]),
        "status": object_column(["ok"] * num),
        "error": object_column([None] * num),
        **columns,
    }


def test_scorer_predictor_and_pruner_see_what_the_classifier_sees(classifier: Classifier, folder: str) -> None:
    images = [picture(0), with_other_border(picture(0)), picture(1)]
    with torch.inference_mode():
        logits_NC = classifier(preprocess(images, classifier.frame)).numpy()
    scored = ScoreStage(classifier_folder=folder)(unit(images))
    np.testing.assert_allclose(np.array([*scored["logits"]]), logits_NC, atol=1e-5)
    predicted = PredictStage(classifier_folders={"p": folder})(unit(images))
    assert predicted["p"].tolist() == logits_NC.argmax(1).tolist()
    # Its border is all that differs between the first two: a classifier that crops does not see it.
    is_blind = classifier.config.framing == "resize_crop"
    assert (scored["logits"][0] == scored["logits"][1]) == is_blind
    border_HW = np.ones((WHOLE, WHOLE), dtype=bool)
    border_HW[1:-1, 1:-1] = False
    # Two that differ in the border, and two that differ everywhere, of which the border is repainted.
    batch = unit(
        [images[0], images[0]],
        generated_png=object_column([encode_image(images[1]), encode_image(images[2])]),
        repaint_png=object_column([encode_mask(border_HW)] * 2),
        source_label=np.array([0, 0]),
        target_label=np.array([1, 1]),
    )
    ways: list[tuple[Literal["exact", "ig"], list[bool]]] = [("exact", [True, False]), ("ig", [True, True])]
    for attribution, blind in ways:
        pruned = PruneStage(classifier_folder=folder, attribution=attribution, num_steps=8)(batch)
        assert [value == 0 for value in pruned["attribution_inside"]] == [is_blind and one for one in blind]


@pytest.mark.parametrize("repaint", ["attended", "unattended"])
def test_masks_from_maps_are_over_what_was_seen(classifier: Classifier, folder: str, repaint: Any) -> None:
    images = [picture(n, side_px=3 * WHOLE) for n in range(3)]
    config = CamConfig(repaint=repaint, tau=0.4, dilation_px=0)
    heat_NSS = cam_heatmaps(classifier, preprocess(images, classifier.frame), [0, 1, 0], method="gradcam++")
    for found, heat_SS in zip(load(config, folder, device="cpu")(images, [None] * 3, [0, 1, 0]), heat_NSS, strict=True):
        attended_TT = np.zeros((classifier.frame.whole_px,) * 2, dtype=bool)
        attended_TT[classifier.frame.inside, classifier.frame.inside] = heat_SS >= 0.4
        expected_HW = resize_mask(attended_TT, height=3 * WHOLE, width=3 * WHOLE)
        assert isinstance(found, Repaint)
        np.testing.assert_array_equal(found.mask_HW, expected_HW if repaint == "attended" else ~expected_HW)


def test_a_folder_of_before_there_were_framings_is_squashed(tmp_path: Path) -> None:
    save_classifier(toy_classifiers.small_resnet(), tmp_path)
    file = tmp_path / "classifier.json"
    saved = json.loads(file.read_text(encoding="utf-8"))
    assert saved["config"] == {"architecture": "small_resnet", "image_size_px": 16, "width": 8, "weights": None}
    assert load_classifier(tmp_path).frame == Frame(16, "squash")
