"""Composition and the losses of what is kept, against the same worked out with the masker alone."""

from pathlib import Path

import numpy as np
import pytest
import score_tables
import torch

from raygen.classifier import Classifier, ClassifierConfig, build_classifier, save_classifier
from raygen.classifier.framing import preprocess
from raygen.datasets.rows import RowIndex
from raygen.images import decode_image, encode_image, encode_mask
from raygen.maskers.cam import cam_heatmaps, hot_pixels
from raygen.stages.compose import ComposeStage, fused, mean_picture
from raygen.stages.kept_loss import KeptLossStage
from raygen.stages.spec import Batch, object_column
from raygen.synthesis.dac import DacConfig, masker

HEAT = 0.6
MASKER = masker(DacConfig(heat=HEAT), score_tables.dataset())


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save_classifier(classifier(), folder)
    return folder


def classifier() -> Classifier:
    """Of the scenes' size: nothing has to be resized."""
    return build_classifier(ClassifierConfig(width=8), 2, seed=1).eval()


def attended(image_HWC: np.ndarray) -> np.ndarray:
    """What the predicted label rests on, (64, 64) bool."""
    model = classifier()
    inputs = preprocess([image_HWC], model.frame)
    (heat,) = cam_heatmaps(model, inputs, model(inputs).argmax(1).tolist(), method="xgradcam")
    assert heat.any()
    hot: np.ndarray = heat >= np.quantile(heat, HEAT)
    return hot


def pictures(num: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(256, size=(64, 64, 3), dtype=np.uint8) for _ in range(num)]


def test_quantile_keeps_its_share_and_ties_keep_all() -> None:
    heat = np.random.default_rng(0).permutation(224 * 224).reshape(224, 224).astype(float)
    assert hot_pixels(heat, quantile=0.6).mean() == pytest.approx(0.4, abs=1e-4)
    assert heat[hot_pixels(heat, quantile=0.6)].min() > heat[~hot_pixels(heat, quantile=0.6)].max()
    assert hot_pixels(np.full((4, 4), 0.3), quantile=0.6).all()


@pytest.mark.parametrize("damaged", [False, True])
def test_pictures_are_composed_of_what_the_masks_leave(
    damaged: bool, scenes_folder: Path, classifier_folder: Path, tmp_path: Path
) -> None:
    index = RowIndex(scenes_folder)
    partner, second = index.split("train")["image_id"].to_pylist()[7:9]
    (image,) = pictures(1)
    keep = np.random.default_rng(1).random((64, 64)) < 0.4
    mask = encode_mask(~keep)
    batch: Batch = {
        "image_id": object_column(["a", "b", "c", "d", "e"]),
        "image_png": object_column([encode_image(image)] * 5),
        "repaint_png": object_column([mask, mask[:40] if damaged else mask, mask, mask, mask]),
        "prompt": object_column(["alone", "alone", f"on {partner}", f"on {partner}", f"on {second}"]),
        "status": object_column(["ok", "ok", "ok", "failed", "ok"]),
        "error": object_column([None, None, None, "before", None]),
    }
    stage = ComposeStage(
        masker=MASKER,
        classifier_folder=str(classifier_folder),
        data_folder=str(scenes_folder),
        num_rows=5,
        device="cpu",
        seed=3,
    )
    result = stage(batch)
    assert result["status"].tolist() == ["ok", "failed" if damaged else "ok", "ok", "failed", "ok"]
    assert not damaged or result["error"][1].startswith("repaint_png")
    mean = mean_picture(index, size_px=64, seed=3)
    alone = decode_image(result["generated_png"][0])
    assert result["generated_png"][3] is None
    np.testing.assert_array_equal(alone, np.where(keep[..., None], image, mean))
    for row, name in ((2, partner), (4, second)):
        behind = decode_image(index.fetch([name], ["image_png"])["image_png"].to_pylist()[0])
        hidden, fusion = attended(behind), decode_image(result["generated_png"][row])
        np.testing.assert_array_equal(fusion, fused(image, keep, behind, hidden, mean_HWC=mean))
        assert (~keep & hidden).any()
        assert (~keep & ~hidden).any()


def test_the_mean_picture_is_that_of_64_training_images(scenes_folder: Path) -> None:
    index = RowIndex(scenes_folder)
    train = [
        decode_image(png)
        for png in index.fetch(index.split("train")["image_id"].to_pylist(), ["image_png"])["image_png"].to_pylist()
    ]
    everything = np.mean(train, axis=0)
    for seed in (0, 1):
        mean = mean_picture(index, size_px=64, seed=seed)
        assert mean.dtype == np.uint8
        # 64 of 160 pictures whose pixels deviate by some 50: by 50 / 8 at most a few times over.
        assert np.abs(mean - everything).mean() < 8
    assert (mean != mean_picture(index, size_px=64, seed=0)).any()


def test_losses_are_those_of_what_is_hottest_with_the_mean_colour_elsewhere(classifier_folder: Path) -> None:
    batch: Batch = {
        "image_png": object_column([*map(encode_image, pictures(3))]),
        "label": np.array([0, 1, 0]),
        "status": object_column(["ok"] * 3),
        "error": object_column([None] * 3),
    }
    stage = KeptLossStage(classifier_folder=str(classifier_folder), method="xgradcam", quantiles=[HEAT, 0.999])
    result = stage(batch)
    model = classifier()
    for i, image in enumerate(pictures(3)):
        kept = preprocess([image], model.frame)
        kept[0][:, ~torch.from_numpy(attended(image))] = model.mean_C11[:, 0]
        expected = torch.nn.functional.cross_entropy(model(kept), torch.tensor([batch["label"][i]]))
        assert result["kept_losses"][i][0] == pytest.approx(expected.item(), rel=1e-4)
        assert result["kept_losses"][i][1] != pytest.approx(expected.item(), rel=1e-4)
