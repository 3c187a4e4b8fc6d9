import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from raygen.datasets.scene_rendering import render_scene
from raygen.errors import ConfigError, ModelError, NonFiniteError, RowError
from raygen.maskers import load_masker
from raygen.maskers.base import Repaint
from raygen.maskers.clipseg import ClipsegConfig, ClipsegFinder
from raygen.maskers.language import LanguageConfig
from raygen.maskers.truth import dilate
from raygen.model_files import find_model

SHIPPED = Path(find_model("tiny", tiny="segmenter_weights").name)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "clipseg"))


@pytest.fixture(scope="module")
def finder() -> ClipsegFinder:
    return ClipsegFinder(ClipsegConfig(), ["bird", "animal"], device="cpu")


def picture(seed: int, *, label: int = 0) -> np.ndarray:
    return render_scene(30_000 + seed, label=label, attribute=seed % 2).image_HWC


def stubbed(logits_HW: torch.Tensor, **fields: Any) -> ClipsegFinder:
    """A finder whose model gives every picture the same logits."""
    finder = ClipsegFinder(ClipsegConfig(**fields), ["bird"], device="cpu")

    def answer(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        output.logits = logits_HW.expand_as(output.logits)
        return output

    finder.model.register_forward_hook(answer)
    return finder


def test_object_is_where_the_probability_reaches_the_threshold() -> None:
    probability_HW = torch.linspace(0.05, 0.95, 64 * 64, dtype=torch.float64).reshape(64, 64)
    for threshold in (0.2, 0.5, 0.9):
        (found_HW,) = stubbed(probability_HW.logit().float(), threshold=threshold)([picture(0)], [0])
        np.testing.assert_array_equal(found_HW, probability_HW.numpy() >= threshold)


def test_logits_are_brought_to_the_pictures_own_size() -> None:
    logits_HW = torch.full((64, 64), -9.0)
    logits_HW[:, 32:] = 9
    image_HWC = np.zeros((30, 100, 3), dtype=np.uint8)
    (found_HW,) = stubbed(logits_HW)([image_HWC], [0])
    expected_HW = np.zeros((30, 100), dtype=bool)
    expected_HW[:, 50:] = True
    np.testing.assert_array_equal(found_HW, expected_HW)


def test_nothing_above_the_threshold_is_a_row_error_with_the_best_probability() -> None:
    logits_HW = torch.full((64, 64), -3.0)
    logits_HW[3, 4] = torch.logit(torch.tensor(0.37))
    (found,) = stubbed(logits_HW)([picture(0)], [0])
    assert isinstance(found, RowError)
    assert str(found) == "CLIPSeg found no 'bird' (highest probability 0.37 < 0.5)"


def test_numbers_that_are_not_finite_are_a_row_error() -> None:
    (found,) = stubbed(torch.full((64, 64), torch.nan))([picture(0)], [0])
    assert isinstance(found, NonFiniteError)


def test_each_class_has_its_own_text() -> None:
    both = ClipsegFinder(ClipsegConfig(), ["zebra", "bird"], device="cpu")
    zebra, bird_HW, other_zebra = both([picture(0), picture(0), picture(1)], [0, 1, 0])
    assert isinstance(bird_HW, np.ndarray)
    for found in (zebra, other_zebra):
        assert isinstance(found, RowError)
        assert "CLIPSeg found no 'zebra'" in str(found)


def test_a_pictures_mask_does_not_depend_on_its_companions(finder: ClipsegFinder) -> None:
    first = finder([picture(0), picture(1), picture(2)], [0, 1, 1])
    second = finder([picture(0), picture(5), picture(0)], [0, 0, 0])
    np.testing.assert_array_equal(first[0], second[0])


def test_masker_grows_the_object_and_keeps_it() -> None:
    config = LanguageConfig(texts=("bird", "bird"), dilation_px=4)
    (repaint,) = load_masker(config, "")([picture(0)], [None], [0])
    assert isinstance(repaint, Repaint)
    assert repaint.object_HW is not None
    np.testing.assert_array_equal(repaint.mask_HW, dilate(repaint.object_HW, radius_px=4))


def test_half_precision_finds_nearly_the_same(finder: ClipsegFinder) -> None:
    half = ClipsegFinder(ClipsegConfig(dtype="bfloat16"), ["bird"], device="cpu")
    images = [picture(n) for n in range(4)]
    for found_HW, expected_HW in zip(half(images, [0] * 4), finder(images, [0] * 4), strict=True):
        assert np.mean(found_HW == expected_HW) > 0.97


def test_a_text_that_the_model_would_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the object text 'bird bird .* is 32 tokens long, but the model reads 24"):
        ClipsegFinder(ClipsegConfig(), [" ".join(["bird"] * 30)], device="cpu")


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ModelError, match=r"'/no/such/folder' is neither a folder nor a hub id .* nor 'tiny'"):
        ClipsegConfig(model="/no/such/folder").check()


def test_a_model_of_another_architecture_is_named(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    with pytest.raises(
        ModelError, match=r"is of type 'clip', which cannot be used as a CLIPSeg model; expected clipseg"
    ):
        ClipsegConfig(model=str(copy)).check()


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("config.json", r"no config\.json; not a transformers model folder"),
        ("model.safetensors", r"no \.safetensors file"),
        ("processor_config.json", "neither preprocessor_config.json nor processor_config.json"),
    ],
)
def test_an_incomplete_folder_is_named_before_any_work(copy: Path, missing: str, reason: str) -> None:
    ClipsegConfig(model=str(copy)).check()
    (copy / missing).unlink()
    with pytest.raises(ModelError, match=reason):
        ClipsegConfig(model=str(copy)).check()


def test_weights_that_are_not_there_do_not_stay_random(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["decoder.film_mul.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lack 1 weights, such as decoder\.film_mul\.weight"):
        ClipsegFinder(ClipsegConfig(model=str(copy)), ["bird"], device="cpu")


def test_weights_that_are_cut_off_are_found_before_any_work(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"model\.safetensors is cut off or damaged: 5,000 bytes"):
        ClipsegConfig(model=str(copy)).check()


def test_damaged_weights_are_an_error_of_the_model(copy: Path) -> None:
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cut off or damaged"):
        ClipsegFinder(ClipsegConfig(model=str(copy)), ["bird"], device="cpu")


def test_the_revision_is_the_folders_hash_or_the_hubs_revision(copy: Path) -> None:
    assert ClipsegConfig().revisions() == ClipsegConfig(model=str(copy)).revisions()
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert ClipsegConfig().revisions() != ClipsegConfig(model=str(copy)).revisions()
    assert ClipsegConfig(model="someone/clipseg", revision="abc").revisions() == ["abc"]
