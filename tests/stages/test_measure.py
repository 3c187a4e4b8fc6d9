"""The measuring stage on toy classifiers: what stands in each cell, and which cells stay empty."""

# N rows of a model call, C classes or colour channels, H height, W width

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_classifiers

from raygen.attention import DeepLift
from raygen.classifier import Classifier, ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.classifier.framing import preprocess
from raygen.datasets.rows import RowIndex
from raygen.errors import ModelError
from raygen.images import decode_image, encode_image, encode_mask
from raygen.maskers.cam import cam_heatmaps
from raygen.metrics import average_precision, pointing_hit
from raygen.schema import MEASURES
from raygen.stages.measure import MeasureStage
from raygen.stages.spec import Batch, object_column

SIZE = toy_classifiers.SIZE_PX
OBJECT = np.zeros((SIZE, SIZE), dtype=bool)
OBJECT[4:9, 6:14] = True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("classifier")
    save_classifier(toy_classifiers.small_resnet(num_classes=3, seed=3), found)
    return found


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def batch_of(**columns: list[Any]) -> Batch:
    """Four rows, of labels 2, 0, 1 and 2, with masks and without pairs unless they are given."""
    found: dict[str, list[Any]] = {
        "image_png": [encode_image(image(seed)) for seed in range(4)],
        "object_png": [encode_mask(np.roll(OBJECT, seed)) for seed in range(4)],
        "pair_png": [None] * 4,
        "label": [2, 0, 1, 2],
        "split": ["test"] * 4,
        "status": ["ok"] * 4,
        "error": [None] * 4,
        **columns,
    }
    return {name: object_column(values) for name, values in found.items()}


def gradients(classifier: Classifier, images_NCHW: torch.Tensor, labels: list[int]) -> Any:
    """One image at a time, by automatic differentiation of its own logit."""
    found = []
    for image_CHW, label in zip(images_NCHW, labels, strict=True):
        pixels = image_CHW[None].clone().requires_grad_(True)
        classifier(pixels)[0, label].backward()
        assert pixels.grad is not None
        found.append(pixels.grad[0].numpy())
    return np.stack(found)


def test_cells_hold_what_is_asked_about_the_true_label(folder: Path) -> None:
    classifier = load_classifier(folder).requires_grad_(False)
    images_NCHW = preprocess([image(seed) for seed in range(4)], classifier.frame)
    labels = [2, 0, 1, 2]
    found = MeasureStage(classifier_folders={"a": str(folder)}, cam="gradcam")(batch_of())
    gradient_NCHW = gradients(classifier, images_NCHW, labels)
    heat_NHW = cam_heatmaps(classifier, images_NCHW, labels, method="gradcam")
    for row in range(4):
        object_HW = np.roll(OBJECT, row)
        np.testing.assert_allclose(found["a:logits"][row], classifier(images_NCHW)[row].tolist(), atol=1e-5)
        assert found["a:foreground"][row] == pytest.approx(object_HW.mean())
        expected = average_precision(gradient_NCHW[row], object_HW)
        assert found["a:saliency_ap"][row] == pytest.approx(expected, abs=1e-4)  # near ties change places
        assert found["a:pointing"][row] == pointing_hit(heat_NHW[row], object_HW)
    assert list(found["a:pair_logits"]) == list(found["a:deep_lift_ap"]) == [None] * 4
    others = MeasureStage(classifier_folders={"a": str(folder)}, cam="gradcam")(batch_of(label=[0, 1, 2, 0]))
    assert list(others["a:saliency_ap"]) != list(found["a:saliency_ap"])  # it is another logit's gradient


def test_pairs_are_seen_by_the_same_classifier(folder: Path) -> None:
    classifier = load_classifier(folder).requires_grad_(False)
    pairs = [encode_image(image(9)), None, b"no picture", encode_image(image(8))]
    found = MeasureStage(classifier_folders={"a": str(folder)}, cam="gradcam++")(batch_of(pair_png=pairs))
    logits_NC = classifier(preprocess([image(9), image(8)], classifier.frame))
    np.testing.assert_allclose(found["a:pair_logits"][0], logits_NC[0].tolist(), atol=1e-5)
    np.testing.assert_allclose(found["a:pair_logits"][3], logits_NC[1].tolist(), atol=1e-5)
    assert [found["a:pair_logits"][row] for row in (1, 2)] == [None, None]
    assert list(found["status"]) == ["ok"] * 4  # a pair that cannot be read costs the pair


def test_without_a_usable_mask_only_what_needs_one_is_empty(folder: Path) -> None:
    masks = [None, encode_mask(np.zeros((SIZE, SIZE), bool)), encode_mask(np.ones((8, 8), bool)), b"no mask"]
    found = MeasureStage(classifier_folders={"a": str(folder)}, cam="gradcam")(batch_of(object_png=masks))
    for name in ("foreground", "saliency_ap", "pointing"):
        assert list(found[f"a:{name}"]) == [None] * 4
    assert all(logits is not None for logits in found["a:logits"])
    covering = batch_of(object_png=[encode_mask(np.ones((SIZE, SIZE), bool))] * 4)
    covered = MeasureStage(classifier_folders={"a": str(folder)}, cam="gradcam")(covering)
    assert (list(covered["a:foreground"]), list(covered["a:saliency_ap"])) == ([1.0] * 4, [None] * 4)


def test_a_row_does_not_depend_on_its_neighbours_and_a_broken_one_fails_alone(folder: Path) -> None:
    stage = MeasureStage(classifier_folders={"a": str(folder)}, cam="gradcam")
    whole = stage(batch_of())
    images = [encode_image(image(0)), b"broken", None, encode_image(image(3))]
    found = stage(batch_of(image_png=images))
    assert list(found["status"]) == ["ok", "failed", "failed", "ok"]
    for name in MEASURES.names:
        column = found[f"a:{name}"]
        assert (column[0], column[3]) == (whole[f"a:{name}"][0], whole[f"a:{name}"][3])
        assert (column[1], column[2]) == (None, None)


def test_a_classifier_that_diverged_leaves_its_own_cells_empty(folder: Path, tmp_path: Path) -> None:
    diverged = load_classifier(folder)
    diverged.head.bias.data[0] = float("nan")
    save_classifier(diverged, tmp_path)
    folders = {"a": str(folder), "b": str(tmp_path)}
    found = MeasureStage(classifier_folders=folders, cam="gradcam")(batch_of())
    assert list(found["status"]) == ["ok"] * 4
    assert list(found["b:logits"]) == list(found["b:saliency_ap"]) == [None] * 4
    assert all(value is not None for value in found["a:saliency_ap"])


@pytest.mark.parametrize("num_baselines", [1, 3])
def test_deep_lift_compares_with_pictures_of_the_same_split(
    folder: Path, scenes_folder: Path, num_baselines: int
) -> None:
    index = RowIndex(scenes_folder)
    ids = {split: index.split(split)["image_id"].to_pylist()[:num_baselines] for split in ("val", "test")}
    places = {split: index.locate(found) for split, found in ids.items()}

    def stage() -> MeasureStage:
        return MeasureStage(classifier_folders={"a": str(folder)}, cam="gradcam", baselines=places)

    if num_baselines < 2:
        with pytest.raises(ModelError, match=r"two pictures of split val .* 1 can be read"):
            stage()
        return
    found = stage()(batch_of(split=["test", "test", "val", "test"]))
    classifier = load_classifier(folder).requires_grad_(False)
    for row, split in ((1, "test"), (2, "val")):
        pngs = index.fetch(ids[split], ["image_png"])["image_png"].to_pylist()
        baselines_BCHW = preprocess([decode_image(png) for png in pngs], classifier.frame)
        images_NCHW = preprocess([image(row)], classifier.frame)
        label = torch.tensor([[2, 0, 1, 2][row]])
        attribution_NCHW, _ = DeepLift(classifier)(images_NCHW, baselines_BCHW, label)
        assert found["a:deep_lift_ap"][row] == average_precision(attribution_NCHW[0], np.roll(OBJECT, row))
        assert found["a:deep_lift_gap"][row] < 1e-9


def test_a_network_without_a_map_is_measured_by_the_rest(tmp_path: Path) -> None:
    config = ClassifierConfig(architecture="own_networks:pixels_only", image_size_px=32)
    torch.default_generator.manual_seed(0)
    built = build_classifier(config, 2, seed=0)
    torch.nn.init.normal_(built.head.weight)
    save_classifier(built, tmp_path)
    batch = batch_of(label=[0, 1, 0, 1])
    found = MeasureStage(classifier_folders={"a": str(tmp_path)}, cam="gradcam")(batch)
    assert list(found["a:pointing"]) == [None] * 4
    classifier = load_classifier(tmp_path).requires_grad_(False)
    images_NCHW = preprocess([image(seed) for seed in range(4)], classifier.frame)
    gradient_NCHW = gradients(classifier, images_NCHW, [0, 1, 0, 1])
    for row in range(4):
        mask_HW = classifier.frame.mask(np.roll(OBJECT, row))
        assert found["a:saliency_ap"][row] == pytest.approx(average_precision(gradient_NCHW[row], mask_HW), abs=1e-3)
