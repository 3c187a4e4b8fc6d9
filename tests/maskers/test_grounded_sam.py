from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_finders
import torch
from transformers import AutoModel, AutoProcessor

from raygen.errors import ConfigError, ModelError, RowError
from raygen.maskers.base import Repaint
from raygen.maskers.grounded_sam import GroundedSamConfig, GroundedSamFinder, as_phrases
from raygen.maskers.language import LanguageConfig, LanguageMasker
from raygen.maskers.truth import dilate

SIDE_PX = tiny_finders.SIDE_PX
# Tokens of "a bird.": [CLS] a bird . [SEP]
CLS, BIRD = 0, 2


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("finders")
    return {
        "detector": tiny_finders.save_grounding_dino(folder / "detector"),
        "sam": tiny_finders.save_sam(folder / "sam"),
        "sam2": tiny_finders.save_sam2(folder / "sam2"),
    }


def config(folders: dict[str, Path], *, segmenter: str = "sam", **fields: Any) -> GroundedSamConfig:
    return GroundedSamConfig(detector=str(folders["detector"]), segmenter=str(folders[segmenter]), **fields)


def picture(seed: int, height: int = SIDE_PX, width: int = SIDE_PX) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


# Centre and size of a box as fractions, its one token, and that token's score.
Box = tuple[tuple[float, float, float, float], int, float]


def give_boxes(*boxes: Box) -> Callable[..., Any]:
    """A hook that makes a detector see these boxes in every picture."""
    boxes_B4 = torch.tensor([box for box, _, _ in boxes])
    logits_BT = torch.full((len(boxes), tiny_finders.MAX_TOKENS), -torch.inf)
    for i, (_, token, score) in enumerate(boxes):
        logits_BT[i, token] = torch.logit(torch.tensor(score, dtype=torch.float64)).float()

    def answer(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        num = len(kwargs["pixel_values"])
        output.logits, output.pred_boxes = logits_BT.repeat(num, 1, 1), boxes_B4.repeat(num, 1, 1)
        return output

    return answer


def mark_boxes(module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    """A hook that makes a segmenter mark each box's own pixels."""
    assert kwargs["multimask_output"] is False
    assert len(kwargs["image_embeddings"]) == 1
    boxes = kwargs["input_boxes"][0].round().int().tolist()
    output.pred_masks = torch.full((1, len(boxes), 1, SIDE_PX, SIDE_PX), -1.0)
    for i, box in enumerate(boxes):
        output.pred_masks[0, i, 0, box[1] : box[3], box[0] : box[2]] = 1
    return output


@pytest.fixture
def stubbed(folders: dict[str, Path]) -> Callable[..., GroundedSamFinder]:
    """A finder of "a bird" whose models' answers are known: from boxes to masks in closed form."""

    def make(*boxes: Box, **fields: Any) -> GroundedSamFinder:
        finder = GroundedSamFinder(config(folders, **fields), ["a bird", "a cat"], device="cpu")
        finder.detector.register_forward_hook(give_boxes(*boxes), with_kwargs=True)
        finder.segmenter.register_forward_hook(mark_boxes, with_kwargs=True)
        return finder

    return make


UPPER_LEFT, LOWER_RIGHT, MIDDLE = (0.25, 0.25, 0.25, 0.5), (0.75, 0.75, 0.5, 0.25), (0.5, 0.5, 0.25, 0.25)


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask_HW = np.zeros((SIDE_PX, SIDE_PX), dtype=bool)
    mask_HW[top:bottom, left:right] = True
    return mask_HW


# 64 times (center - size / 2) to 64 times (center + size / 2).
UPPER_LEFT_HW, LOWER_RIGHT_HW = rectangle(0, 32, 8, 24), rectangle(40, 56, 32, 64)


def test_object_is_the_union_of_the_instances_whose_boxes_pass_both_thresholds(
    stubbed: Callable[..., GroundedSamFinder],
) -> None:
    boxes = [(UPPER_LEFT, BIRD, 0.9), (LOWER_RIGHT, BIRD, 0.31), (MIDDLE, BIRD, 0.29), (MIDDLE, CLS, 0.8)]
    found_HW, _ = stubbed(*boxes)([picture(0)] * 2, [0, 0])
    np.testing.assert_array_equal(found_HW, UPPER_LEFT_HW | LOWER_RIGHT_HW)
    # A text threshold above its score takes a box's word away.
    found_HW, _ = stubbed(*boxes, text_threshold=0.5)([picture(0)] * 2, [0, 0])
    np.testing.assert_array_equal(found_HW, UPPER_LEFT_HW)
    found_HW, _ = stubbed(*boxes, box_threshold=0.25)([picture(0)] * 2, [0, 0])
    np.testing.assert_array_equal(found_HW, UPPER_LEFT_HW | LOWER_RIGHT_HW | rectangle(24, 40, 24, 40))


def test_boxes_are_in_pixels_of_each_picture(stubbed: Callable[..., GroundedSamFinder]) -> None:
    finder = stubbed((UPPER_LEFT, BIRD, 0.9))
    images = [picture(0), picture(1, height=32, width=64), picture(2, height=100, width=50)]
    for detection, (height, width, _) in zip(finder.detect(images, [0, 0, 0]), [i.shape for i in images], strict=True):
        np.testing.assert_allclose(detection.boxes_B4, [[width / 8, 0, width * 3 / 8, height / 2]], rtol=1e-6)


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        ([(MIDDLE, BIRD, 0.12)], r"the detector found no 'a bird' \(best score 0.12 < 0.3\)"),
        ([(MIDDLE, CLS, 0.7)], r"found no 'a bird' \(best score 0.70, but no word of the text\)"),
        ([((0.5, 0.5, 0.0, 0.0), BIRD, 0.7)], r"marked no pixel in the 1 box\(es\) of 'a bird'"),
        ([(MIDDLE, BIRD, float("nan"))], "not finite"),
    ],
)
def test_nothing_found_is_a_row_error_with_the_reason(
    stubbed: Callable[..., GroundedSamFinder], boxes: list[Box], reason: str
) -> None:
    found, _ = stubbed(*boxes)([picture(0)] * 2, [0, 0])
    assert isinstance(found, RowError)
    with pytest.raises(RowError, match=reason):
        raise found


def test_repaint_mask_is_the_grown_object_and_failed_rows_keep_their_place(
    stubbed: Callable[..., GroundedSamFinder],
) -> None:
    finder = stubbed((UPPER_LEFT, BIRD, 0.9))

    def find(images: Sequence[np.ndarray], labels: Sequence[int]) -> list[np.ndarray | RowError]:
        return [RowError("none"), *finder(images[1:], labels[1:])]

    masker = LanguageMasker(LanguageConfig(texts=("a bird", "a cat"), dilation_px=3), find)
    failed, repaint, _ = masker([picture(i) for i in range(3)], [None] * 3, [0] * 3)
    assert isinstance(failed, RowError)
    assert isinstance(repaint, Repaint)
    np.testing.assert_array_equal(repaint.object_HW, UPPER_LEFT_HW)
    np.testing.assert_array_equal(repaint.mask_HW, dilate(UPPER_LEFT_HW, radius_px=3))


@pytest.mark.parametrize("segmenter", ["sam", "sam2"])
def test_real_models_mark_the_union_of_what_they_mark_box_by_box(folders: dict[str, Path], segmenter: str) -> None:
    """Random weights: boxes and masks mean nothing, but they come from the real models and processors."""
    finder = GroundedSamFinder(
        config(folders, segmenter=segmenter, box_threshold=0.01, text_threshold=0.01), ["a bird"], device="cpu"
    )
    images = [picture(0), picture(1, height=40, width=56)]
    detections = finder.detect(images, [0, 0])
    assert all(len(detection.boxes_B4) for detection in detections)
    model, processor = (kind.from_pretrained(folders[segmenter]) for kind in (AutoModel, AutoProcessor))
    for image_HWC, detection, found_HW in zip(images, detections, finder(images, [0, 0]), strict=True):
        expected_HW = np.zeros(image_HWC.shape[:2], dtype=bool)
        for box in detection.boxes_B4.tolist():
            inputs = processor(images=image_HWC, input_boxes=[[box]], return_tensors="pt")
            sizes = [inputs[name] for name in ("original_sizes", "reshaped_input_sizes") if name in inputs]
            names = ("pixel_values", "input_boxes")
            with torch.inference_mode():
                outputs = model(**{name: inputs[name].float() for name in names}, multimask_output=False)
            (mask,) = processor.post_process_masks(outputs.pred_masks, *sizes)
            expected_HW |= mask.squeeze().numpy()
        assert isinstance(found_HW, np.ndarray)
        assert found_HW.dtype == bool
        # A pixel on the edge of a mask may change with the number of boxes of a call.
        assert (found_HW == expected_HW).mean() > 0.999


def test_a_pictures_mask_does_not_depend_on_its_companions(folders: dict[str, Path]) -> None:
    finder = GroundedSamFinder(
        config(folders, box_threshold=0.01, text_threshold=0.01), ["a bird", "a cat. a dog"], device="cpu"
    )
    image_HWC = picture(3, height=30, width=50)
    first = finder([image_HWC, picture(4, height=64, width=20), picture(5)], [0, 1, 1])
    second = finder([image_HWC, image_HWC, picture(6, height=20, width=64)], [0, 0, 0])
    np.testing.assert_array_equal(first[0], second[0])


@pytest.mark.parametrize("segmenter", ["sam", "sam2"])
def test_half_precision_finds_nearly_the_same(folders: dict[str, Path], segmenter: str) -> None:
    low = {"box_threshold": 0.01, "text_threshold": 0.01}
    images = [picture(n) for n in range(3)]
    finders = [
        GroundedSamFinder(config(folders, segmenter=segmenter, dtype=dtype, **low), ["a bird"], device="cpu")
        for dtype in ("float32", "bfloat16")
    ]
    boxes = [np.concatenate([found.boxes_B4 for found in finder.detect(images, [0] * 3)]) for finder in finders]
    np.testing.assert_allclose(boxes[0], boxes[1], atol=1.0)  # pixels
    for expected_HW, found_HW in zip(*(finder(images, [0] * 3) for finder in finders), strict=True):
        # Masks of random weights have logits close to 0, so that many pixels change sides.
        assert np.mean(found_HW == expected_HW) > 0.75


def test_texts_are_as_the_detector_learned_them() -> None:
    assert [as_phrases(text) for text in ("Bird", "a Cat. A dog", " bird. ")] == ["bird.", "a cat. a dog.", "bird."]


def test_a_text_that_the_detector_would_cut_is_refused(folders: dict[str, Path]) -> None:
    text = " ".join(["bird"] * tiny_finders.MAX_TOKENS)
    with pytest.raises(ConfigError, match="is 15 tokens long, but the model reads 12"):
        GroundedSamFinder(config(folders), [text], device="cpu")


def test_wrong_models_are_named_before_any_work(folders: dict[str, Path], tmp_path: Path) -> None:
    swapped = GroundedSamConfig(detector=str(folders["sam"]), segmenter=str(folders["detector"]))
    with pytest.raises(ModelError, match="is of type 'sam', which cannot be used as a GroundingDINO detector"):
        swapped.check()
    with pytest.raises(ModelError, match="is of type 'grounding-dino', which cannot be used as a SAM segmenter"):
        swapped.model_copy(update={"detector": str(folders["detector"])}).check()
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        GroundedSamConfig(detector="/no/such/folder").check()
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(ModelError, match=r"no \.safetensors file"):
        config({**folders, "sam": tmp_path}).check()
    config(folders).check()


def test_revisions_are_those_of_both_models(folders: dict[str, Path]) -> None:
    first, second = (config(folders, segmenter=name).revisions() for name in ("sam", "sam2"))
    assert len(first) == 2
    assert first[0] == second[0]
    assert first[1] != second[1]
    pinned = GroundedSamConfig(detector_revision="abc", segmenter_revision="def")
    assert pinned.revisions() == ["abc", "def"]
