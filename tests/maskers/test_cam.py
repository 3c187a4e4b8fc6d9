from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
import toy_classifiers

from raygen.classifier import Classifier, ClassifierConfig, build_classifier, save_classifier
from raygen.classifier.framing import preprocess
from raygen.errors import RowError
from raygen.images import resize_mask
from raygen.maskers import load_masker
from raygen.maskers.base import Repaint
from raygen.maskers.cam import (
    CamConfig,
    CamMasker,
    attended,
    cam_heatmaps,
    scgs_to_edit,
    top_pixels,
)
from raygen.maskers.truth import dilate
from raygen.maskers.whole import WholeConfig

# cv2 and numpy in float32, and the library's 1e-7 in the min-max: METHODS measured 4e-7 on the unscaled map.
CAM_TOLERANCE = 2e-5


def pictures(num: int, *, size_px: int = toy_classifiers.SIZE_PX, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(256, size=(size_px, size_px, 3), dtype=np.uint8) for _ in range(num)]


def test_grad_cam_plus_plus_equals_its_closed_form_on_a_pooled_convolution() -> None:
    classifier = toy_classifiers.convolutional([[0.5, -1.0, 2.0], [-0.3, 1.5, 0.1]])
    images_NCHW = preprocess(pictures(2), toy_classifiers.FRAME)
    activations = []
    handle = classifier.target_layer.register_forward_hook(lambda *args: activations.append(args[-1].detach()))
    classifier(images_NCHW)
    handle.remove()
    heatmaps_NHW = cam_heatmaps(classifier, images_NCHW, [1, 0], method="gradcam++")
    weight_CK = classifier.head.weight.detach().numpy()
    for n, label in enumerate([1, 0]):
        expected_HW = oracles.grad_cam_plus_plus(activations[0][n].double().numpy(), weight_CK[label])
        np.testing.assert_allclose(heatmaps_NHW[n], expected_HW, atol=CAM_TOLERANCE)


def activations(classifier: Classifier, normal_NCHW: torch.Tensor) -> torch.Tensor:
    """What the one convolution of `toy_classifiers.convolutional` gives."""
    assert isinstance(classifier.backbone, toy_classifiers.ConvolutionThenMean)
    return classifier.backbone.features(normal_NCHW)


def test_grad_cam_is_the_weighted_sum_of_the_activations() -> None:
    classifier = toy_classifiers.convolutional([[0.5, -1.0, 2.0], [-0.3, 1.5, 0.1]])
    images_NCHW = preprocess(pictures(1), toy_classifiers.FRAME)
    normal_NCHW = (images_NCHW - classifier.mean_C11) / classifier.std_C11
    activations_NKHW = activations(classifier, normal_NCHW)
    cam_HW = torch.einsum("k,khw->hw", classifier.head.weight[0], activations_NKHW[0]).relu().detach().numpy()
    expected_HW = (cam_HW - cam_HW.min()) / (cam_HW.max() - cam_HW.min())
    (heatmap_HW,) = cam_heatmaps(classifier, images_NCHW, [0], method="gradcam")
    np.testing.assert_allclose(heatmap_HW, expected_HW, atol=CAM_TOLERANCE)


def test_label_with_only_negative_weights_has_an_empty_map_and_is_refused() -> None:
    classifier = toy_classifiers.convolutional([[-0.5, -1.0, -2.0], [1.0, 1.0, 1.0]])
    heatmaps_NHW = cam_heatmaps(classifier, preprocess(pictures(1), toy_classifiers.FRAME), [0], method="gradcam++")
    assert not heatmaps_NHW.any()
    with pytest.raises(RowError, match="0 everywhere"):
        attended(heatmaps_NHW[0], tau=0.5)


def test_map_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RowError, match="not finite"):
        attended(np.array([[0.5, np.nan]]), tau=0.5)


def test_threshold_itself_counts_as_attended() -> None:
    np.testing.assert_array_equal(attended(np.array([[0.69, 0.7, 1.0]]), tau=0.7), [[False, True, True]])


def test_scgs_mask_and_its_repaint_mask_add_up_to_one_everywhere() -> None:
    keep_HW = np.random.default_rng(0).random((8, 9)) > 0.5
    np.testing.assert_array_equal(scgs_to_edit(keep_HW).astype(int) + keep_HW, np.ones((8, 9), dtype=int))


def test_hooks_are_gone_and_frozen_parameters_can_be_explained() -> None:
    classifier = toy_classifiers.small_resnet().requires_grad_(False)
    images_NCHW = preprocess(pictures(2), toy_classifiers.FRAME)
    heatmaps_NHW = cam_heatmaps(classifier, images_NCHW, [0, 1], method="gradcam++")
    assert heatmaps_NHW.shape == (2, toy_classifiers.SIZE_PX, toy_classifiers.SIZE_PX)
    assert heatmaps_NHW.max() <= 1
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("classifier")
    save_classifier(toy_classifiers.small_resnet(seed=3), folder)
    return folder


def test_attended_and_unattended_regions_partition_a_picture_of_any_size(classifier_folder: Path) -> None:
    images = pictures(3, size_px=40)
    masks = {}
    for side in ("attended", "unattended"):
        config = CamConfig(repaint=side, explain="predicted_label", tau=0.6, dilation_px=0)
        masks[side] = load_masker(config, str(classifier_folder))(images, [None] * 3, [0, 1, 0])
    for found, rest in zip(masks["attended"], masks["unattended"], strict=True):
        assert isinstance(found, Repaint)
        assert isinstance(rest, Repaint)
        assert found.mask_HW.shape == (40, 40)
        np.testing.assert_array_equal(found.mask_HW, ~rest.mask_HW)
        np.testing.assert_array_equal(found.object_HW, found.mask_HW)
        assert rest.object_HW is None


def test_a_map_of_a_centre_crop_is_put_back_where_it_was_seen() -> None:
    """Not stretched over the whole picture; the margin, which the classifier does not see, is not attended."""
    config = ClassifierConfig(width=8, image_size_px=56, framing="resize_crop")
    classifier = build_classifier(config, 2, seed=1).eval()
    assert (classifier.frame.margin_px, classifier.frame.whole_px) == (4, 64)
    images = pictures(1, size_px=64)
    masker = CamMasker(CamConfig(repaint="attended", method="xgradcam", quantile=0.5, dilation_px=0), classifier)
    (found,) = masker(images, [None], [0])
    (heat_HW,) = cam_heatmaps(classifier, preprocess(images, classifier.frame), [0], method="xgradcam")
    assert isinstance(found, Repaint)
    np.testing.assert_array_equal(found.mask_HW, np.pad(heat_HW >= np.quantile(heat_HW, 0.5), 4))


def test_attended_region_is_the_dilated_threshold_of_the_map(classifier_folder: Path) -> None:
    images = pictures(2, size_px=40)
    config = CamConfig(repaint="attended", tau=0.5, dilation_px=3)
    masks = load_masker(config, str(classifier_folder))(images, [None, None], [1, 0])
    heatmaps_NHW = cam_heatmaps(
        toy_classifiers.small_resnet(seed=3), preprocess(images, toy_classifiers.FRAME), [1, 0], method="gradcam++"
    )
    for mask, heatmap_HW in zip(masks, heatmaps_NHW, strict=True):
        expected_HW = resize_mask(heatmap_HW >= 0.5, height=40, width=40)
        assert isinstance(mask, Repaint)
        np.testing.assert_array_equal(mask.object_HW, expected_HW)
        np.testing.assert_array_equal(mask.mask_HW, dilate(expected_HW, radius_px=3))


def test_masker_gives_the_same_masks_when_called_again(classifier_folder: Path) -> None:
    """The explainer lives as long as its actor; what it keeps of one call must not show in the next."""
    masker = load_masker(CamConfig(), str(classifier_folder))
    images = pictures(2)
    first = masker(images, [None, None], [0, 1])
    masker(pictures(2, seed=1), [None, None], [1, 1])
    for before, after in zip(first, masker(images, [None, None], [0, 1]), strict=True):
        assert isinstance(before, Repaint)
        assert isinstance(after, Repaint)
        np.testing.assert_array_equal(before.mask_HW, after.mask_HW)


@pytest.mark.parametrize("explain", ["predicted_label", "source_label"])
def test_masker_says_which_column_it_explains(classifier_folder: Path, explain: str) -> None:
    assert load_masker(CamConfig(explain=explain), str(classifier_folder)).label_column == explain


def test_where_the_map_is_empty_the_pixels_that_speak_least_against_the_label_are_attended() -> None:
    """On a pooled convolution gradient times activation is the label's weights times the activations."""
    classifier = toy_classifiers.convolutional([[-0.5, -1.0, -2.0], [1.0, 1.0, 1.0]])
    images = pictures(2)
    images_NCHW = preprocess(images, toy_classifiers.FRAME)
    normal_NCHW = (images_NCHW - classifier.mean_C11) / classifier.std_C11
    signed_NHW = torch.einsum("k,nkhw->nhw", classifier.head.weight[0], activations(classifier, normal_NCHW))
    config = CamConfig(explain="predicted_label", dilation_px=0, top_q=0.25)
    masker = CamMasker(config, classifier)
    masks = masker(images, [None, None], [0, 0])
    for repaint, signed_HW in zip(masks, signed_NHW.detach().numpy(), strict=True):
        assert isinstance(repaint, Repaint)
        mask_HW = repaint.mask_HW
        assert mask_HW.sum() == mask_HW.size // 4
        assert signed_HW[mask_HW].min() >= signed_HW[~mask_HW].max()
    # A map that is not empty is thresholded as ever.
    plain = masker(images, [None, None], [1, 1])
    for repaint, heatmap_HW in zip(
        plain, cam_heatmaps(classifier, images_NCHW, [1, 1], method="gradcam++"), strict=True
    ):
        assert isinstance(repaint, Repaint)
        np.testing.assert_array_equal(repaint.mask_HW, heatmap_HW >= config.tau)


def test_top_pixels_are_so_many_and_of_equal_ones_the_first() -> None:
    np.testing.assert_array_equal(
        top_pixels(np.array([[0.0, 5.0], [5.0, 5.0]]), fraction=0.5), [[False, True], [True, False]]
    )
    assert top_pixels(np.zeros((3, 3)), fraction=0.01).sum() == 1
    with pytest.raises(RowError, match="not finite"):
        top_pixels(np.array([[np.nan, 0.0]]), fraction=0.5)


def test_the_whole_masker_repaints_every_pixel() -> None:
    masks = load_masker(WholeConfig(), "")(pictures(2, size_px=20), [None, None], [0, 1])
    for repaint in masks:
        assert isinstance(repaint, Repaint)
        assert repaint.mask_HW.shape == (20, 20)
        assert repaint.mask_HW.all()
        assert repaint.object_HW is None


def test_xgrad_cam_is_grad_cam_on_a_pooled_convolution() -> None:
    """There both weigh a channel by w / HW: as many times the map of the head's weights, which min-max takes out."""
    classifier = toy_classifiers.convolutional([[0.5, -1.0, 2.0], [-0.3, 1.5, 0.1]])
    images_NCHW = preprocess(pictures(3), toy_classifiers.FRAME)
    found, expected = (
        cam_heatmaps(classifier, images_NCHW, [1, 0, 1], method=method) for method in ("xgradcam", "gradcam")
    )
    assert found.any()
    np.testing.assert_allclose(found, expected, atol=CAM_TOLERANCE)
