"""Counterfactual and factual pictures through the stages of a pool."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raygen.classifier import ClassifierConfig, build_classifier, save_classifier
from raygen.classifier.framing import Resizing
from raygen.datasets.rows import RowIndex
from raygen.errors import RowError
from raygen.images import decode_image, decode_mask, encode_image, encode_mask
from raygen.inpainters.fills import box_of, tiled
from raygen.inpainters.square import Square
from raygen.stages.fill import FillStage, moved
from raygen.stages.inpaint import InpaintStage
from raygen.stages.region import RegionStage
from raygen.stages.spec import Batch, object_column

MASKED = {"masker": {"name": "truth", "dilation_px": 0}, "classifier_folder": ""}
REGIONS = {"counterfactual": "box", "factual": "segmentation"}


class RedPainter:
    """Paints everything red, and notes what it is asked for."""

    model_revision, side_px, stride_px, num_rows = "red", 64, 8, 4

    def __init__(self) -> None:
        self.prompts: list[str | None] = []

    def paint(self, squares: Sequence[Square | None]) -> list[np.ndarray | RowError | None]:
        self.prompts += [None if square is None else square.prompt for square in squares]
        red_HWC = np.full((64, 64, 3), (255, 0, 0), np.uint8)
        return [None if square is None else red_HWC for square in squares]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    save_classifier(build_classifier(ClassifierConfig(width=8), 2, seed=0), folder)
    return folder


@pytest.fixture(scope="module")
def rows(scenes_folder: Path) -> Batch:
    """Three scenes, each as a counterfactual and as a factual one."""
    index = RowIndex(scenes_folder)
    train = index.split("train")
    ids = [image_id for image_id in train["image_id"].to_pylist()[:3] for _ in range(2)]
    labels = dict(zip(train["image_id"].to_pylist(), train["label"].to_pylist(), strict=True))
    found = index.fetch(ids, ["image_png", "object_png"])
    return {
        "key": object_column([f"{image_id}/{i}" for i, image_id in enumerate(ids)]),
        "image_id": object_column(ids),
        "image_png": object_column(found["image_png"].to_pylist()),
        "object_png": object_column(found["object_png"].to_pylist()),
        "source_label": np.array([labels[image_id] for image_id in ids]),
        "predicted_label": np.zeros(6, int),
        "prompt": object_column(["a lake"] * 6),
        "role": object_column(["counterfactual", "factual"] * 3),
        "seed": np.arange(6) + 100,
        "status": object_column(["ok"] * 6),
        "error": object_column([None] * 6),
    }


def filled(
    rows: Batch, data: Path, classifier: Path, values: dict[str, str], painter: RedPainter | None = None
) -> Batch:
    paints: Any = None if painter is None else {"inpainter": {}, "num_rows": 4, "device": "cpu", "painter": painter}
    stage = FillStage(values=values, fgsm_epsilon=0.1, data=str(data), classifier_folder=str(classifier), paints=paints)
    return stage(RegionStage(**MASKED, regions=REGIONS)(rows))  # type: ignore[arg-type]


@pytest.mark.parametrize("factual", ["random", "shuffle", "mixed_rand", "fgsm"])
@pytest.mark.parametrize("counterfactual", ["grey", "random", "shuffle", "tile", "telea", "inpaint"])
def test_a_role_keeps_what_it_has_to_keep_to_the_bit(
    rows: Batch, scenes_folder: Path, classifier: Path, counterfactual: str, factual: str
) -> None:
    painter = RedPainter() if counterfactual == "inpaint" else None
    made = filled(rows, scenes_folder, classifier, {"counterfactual": counterfactual, "factual": factual}, painter)
    assert made["status"].tolist() == ["ok"] * 6
    for i in range(6):
        source, object_HW = decode_image(rows["image_png"][i]), decode_mask(rows["object_png"][i])
        found, repaint = decode_image(made["generated_png"][i]), decode_mask(made["repaint_png"][i])
        expected = box_of(object_HW) if i % 2 == 0 else ~object_HW
        assert np.array_equal(repaint, expected)
        assert np.array_equal(found[~repaint], source[~repaint])
        assert (found[repaint] != source[repaint]).any(axis=1).mean() > 0.2
        value = (counterfactual, factual)[i % 2]
        assert made["model_id"][i] == ("tiny" if value == "inpaint" else f"infill/{value}")
        if value == "fgsm":  # eps 0.1 is 25.5 steps of 8 bits
            assert np.abs(found[repaint].astype(int) - source[repaint]).max() <= 26
        if value == "inpaint":
            assert (found[repaint] == (255, 0, 0)).all()
    if painter is not None:
        assert painter.prompts == ["a lake", None] * 3


def test_the_background_of_another_class_has_no_object_in_it(
    rows: Batch, scenes_folder: Path, classifier: Path
) -> None:
    """What is in the background is a band of one picture of the other class, repeated."""
    made = filled(rows, scenes_folder, classifier, {"counterfactual": "grey", "factual": "mixed_rand"})
    index = RowIndex(scenes_folder)
    train = index.split("train")
    for i in (1, 3, 5):
        found, repaint = decode_image(made["generated_png"][i]), decode_mask(made["repaint_png"][i])
        others = train.filter([label != rows["source_label"][i] for label in train["label"].to_pylist()])
        pictures = index.fetch(others["image_id"].to_pylist(), ["image_png", "object_png"]).to_pylist()
        tiles = [tiled(decode_image(p["image_png"]), box_of(decode_mask(p["object_png"]))) for p in pictures]
        assert sum(np.array_equal(found[repaint], tile[repaint]) for tile in tiles) == 1


def test_a_row_is_the_same_whatever_is_beside_it(rows: Batch, scenes_folder: Path, classifier: Path) -> None:
    values = {"counterfactual": "shuffle", "factual": "mixed_rand"}
    whole = filled(rows, scenes_folder, classifier, values)
    turned = filled({name: column[::-1] for name, column in rows.items()}, scenes_folder, classifier, values)
    part = filled({name: column[2:4] for name, column in rows.items()}, scenes_folder, classifier, values)
    pictures = whole["generated_png"].tolist()
    assert turned["generated_png"].tolist() == pictures[::-1]
    assert part["generated_png"].tolist() == pictures[2:4]
    assert len({*pictures}) == 6


def test_rows_without_a_region_fail_with_their_reason_and_spare_the_others(
    rows: Batch, scenes_folder: Path, classifier: Path
) -> None:
    objects, size = rows["object_png"].copy(), decode_mask(rows["object_png"][0]).shape
    objects[0], objects[1] = None, encode_mask(np.zeros(size, bool))
    objects[2], objects[3] = encode_mask(np.eye(size[0], dtype=bool)), encode_mask(np.ones(size, bool))
    values = {"counterfactual": "inpaint", "factual": "fgsm"}
    damaged = {**rows, "object_png": objects, "image_png": object_column([*rows["image_png"][:5], b"no picture"])}
    made = filled(damaged, scenes_folder, classifier, values, RedPainter())
    reasons = made["error"].tolist()
    assert "ships no object mask" in reasons[0]
    assert "selects no pixel" in reasons[1]
    assert "bounding rectangle covers the whole picture" in reasons[2]
    assert "the object mask covers the whole picture" in reasons[3]
    assert reasons[4] is None
    assert "image_png" in reasons[5]
    assert [picture is None for picture in made["generated_png"]] == [True, True, True, True, False, True]
    alone = filled(rows, scenes_folder, classifier, values, RedPainter())
    assert made["generated_png"][4] == alone["generated_png"][4]


def test_a_model_paints_as_it_does_without_fills(rows: Batch, scenes_folder: Path, classifier: Path) -> None:
    masked = RegionStage(**MASKED, regions=REGIONS)(rows)  # type: ignore[arg-type]
    config: Any = {"inpainter": {"num_inference_steps": 2}, "num_rows": 2, "device": "cpu"}
    values = {"counterfactual": "inpaint", "factual": "random"}
    stage = FillStage(values=values, fgsm_epsilon=0.1, data="", classifier_folder="", paints=config)
    found, expected = stage(masked), InpaintStage(**config)(masked)
    assert found["generated_png"][::2].tolist() == expected["generated_png"][::2].tolist()
    assert set(found["unet_rows"].tolist()) == {2}


def test_a_change_is_brought_to_a_picture_by_its_nearest_pixel() -> None:
    image = np.full((4, 6, 3), 100, np.uint8)
    change = np.zeros((2, 2, 3), np.float32)
    change[0, 1], change[1, 0] = 0.1, -1
    found = moved(image, np.ones((4, 6), bool), change)
    assert np.array_equal(found[..., 0], [[100] * 3 + [126] * 3] * 2 + [[0] * 3 + [100] * 3] * 2)
    assert np.array_equal(moved(image, np.zeros((4, 6), bool), change), image)
    # Of a classifier that sees the square in the middle only, the columns beside it stay.
    seen = moved(image, np.ones((4, 6), bool), np.full((2, 2, 3), 0.1, np.float32), Resizing("cut"))
    assert np.array_equal(np.flatnonzero((seen != image).any((0, 2))), [1, 2, 3, 4])


def test_encoded_pictures_say_what_they_are(rows: Batch, scenes_folder: Path, classifier: Path) -> None:
    import io

    from PIL import Image

    made = filled(rows, scenes_folder, classifier, {"counterfactual": "tile", "factual": "random"})
    text = Image.open(io.BytesIO(made["generated_png"][0])).info
    assert (text["synthetic"], text["model"], text["role"], text["seed"]) == (
        "true",
        "infill/tile@1",
        "counterfactual",
        "100",
    )
    assert encode_image(decode_image(made["generated_png"][0]))
