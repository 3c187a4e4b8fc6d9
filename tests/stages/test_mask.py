from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_classifiers

from raygen.classifier import save_classifier
from raygen.images import decode_mask, encode_image, encode_mask
from raygen.maskers import load_masker
from raygen.maskers.base import Repaint
from raygen.maskers.cam import CamConfig
from raygen.maskers.truth import dilate
from raygen.stages.mask import MaskStage
from raygen.stages.spec import object_column

SIZE_PX = 24


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(SIZE_PX, SIZE_PX, 3), dtype=np.uint8)


def blob(row: int) -> np.ndarray:
    mask_HW = np.zeros((SIZE_PX, SIZE_PX), dtype=bool)
    mask_HW[row, 10:13] = True
    return mask_HW


def unit(images: Any, objects: Any, *, predicted: Any = 0, source: Any = 0) -> Any:
    num = len(images)
    return {
        "image_png": object_column(images),
        "object_png": object_column(objects),
        "predicted_label": np.full(num, predicted),
        "source_label": np.full(num, source),
        "status": object_column(["ok"] * num),
        "error": object_column([None] * num),
    }


def test_truth_masks_are_stored_with_their_share_of_the_picture() -> None:
    batch = unit([encode_image(picture(n)) for n in range(3)], [encode_mask(blob(n + 8)) for n in range(3)])
    stage = MaskStage(masker={"name": "truth", "dilation_px": 2}, classifier_folder="")
    masked = stage(batch)
    for n in range(3):
        expected_HW = dilate(blob(n + 8), radius_px=2)
        np.testing.assert_array_equal(decode_mask(masked["repaint_png"][n]), expected_HW)
        assert masked["repaint_fraction"][n] == pytest.approx(expected_HW.sum() / SIZE_PX**2)
        assert masked["object_iou"][n] == 1


def test_the_masks_agreement_with_the_object_is_taken_before_growing() -> None:
    object_HW = blob(9) | blob(10) | blob(12)  # 9 pixels in a box of 4 x 3
    masked = MaskStage(masker={"name": "box"}, classifier_folder="")(
        unit([encode_image(picture(0))], [encode_mask(object_HW)])
    )
    assert masked["object_iou"][0] == pytest.approx(9 / 12)


def test_rows_without_picture_or_usable_mask_keep_their_place_and_say_why() -> None:
    image, empty = encode_image(picture(0)), encode_mask(np.zeros((SIZE_PX, SIZE_PX), dtype=bool))
    batch = unit([image, b"damaged", image, image, image], [encode_mask(blob(9)), None, None, empty, b"damaged"])
    masked = MaskStage(masker={"name": "box"}, classifier_folder="")(batch)
    assert masked["status"].tolist() == ["ok"] + ["failed"] * 4
    reasons = ["image_png", "no object mask", "selects no pixel", "object_png"]
    for n, reason in enumerate(reasons, start=1):
        assert reason in masked["error"][n]
        assert masked["repaint_png"][n] is None
        assert masked["repaint_fraction"][n] is None


def test_an_object_mask_that_cannot_be_read_fails_only_those_who_need_it() -> None:
    """Numbers of classes: what is the object? The other row's mask is compared with, this one's is not."""
    classes = np.repeat(np.arange(3, dtype=np.uint8), SIZE_PX // 3)[:, None] + np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    objects = [encode_mask(blob(9)), encode_image(np.repeat(classes[..., None], 3, axis=2))]
    batch = unit([encode_image(picture(n)) for n in range(2)], objects)
    whole = MaskStage(masker={"name": "whole"}, classifier_folder="")(batch)
    assert whole["status"].tolist() == ["ok", "ok"]
    for name in ("truth", "box"):
        masked = MaskStage(masker={"name": name}, classifier_folder="")(batch)
        assert masked["status"].tolist() == ["ok", "failed"]
        assert "object_png: nothing in it is white: its values are 0, 1, 2" in masked["error"][1]
        assert masked["object_iou"].tolist() == [1 if name == "box" else pytest.approx(1), None]


@pytest.mark.parametrize(("explain", "label"), [("predicted_label", 1), ("source_label", 0)])
def test_cam_explains_the_label_of_the_column_that_the_masker_names(tmp_path: Path, explain: str, label: int) -> None:
    save_classifier(toy_classifiers.small_resnet(seed=3), tmp_path)
    images = [picture(n) for n in range(2)]
    fields = {"name": "cam", "tau": 0.5, "explain": explain, "dilation_px": 0}
    stage = MaskStage(masker=fields, classifier_folder=str(tmp_path))
    masked = stage(unit([encode_image(image) for image in images], [None, None], predicted=1, source=0))
    expected = load_masker(CamConfig(**fields), str(tmp_path))(images, [None, None], [label, label])
    for n, repaint in enumerate(expected):
        assert isinstance(repaint, Repaint)
        np.testing.assert_array_equal(decode_mask(masked["repaint_png"][n]), repaint.mask_HW)
        assert masked["object_iou"][n] is None  # the dataset has no mask to compare with
