"""What is said about a folder that cannot be used; nothing is loaded for it."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from real_architectures import SD15_INPAINTING, edit_json, narrowed, save_architecture

from raygen.errors import ModelError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.loading import load_pipeline
from raygen.inpainters.model_folder import PIPELINES, check_model_folder, resolve_model
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_architecture(narrowed(SD15_INPAINTING), tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A whole model to spoil; big files are shared with the others."""
    shutil.copytree(made, tmp_path / "model", copy_function=lambda a, b: Path(b).hardlink_to(a))
    for path in (tmp_path / "model").rglob("*.json"):  # written to in place
        text = path.read_text()
        path.unlink()
        path.write_text(text)
    return tmp_path / "model"


def refused(folder: Path, pattern: str, **options: object) -> str:
    with pytest.raises(ModelError, match=pattern) as caught:
        check_model_folder(folder, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_whole_folder_passes(model: Path) -> None:
    check_model_folder(model)


@pytest.mark.parametrize(
    "name",
    [
        "StableDiffusionXLInpaintPipeline",
        "StableDiffusion3Pipeline",
        "FluxInpaintPipeline",
        "OnnxStableDiffusionPipeline",
        "FlaxStableDiffusionPipeline",
        "StableDiffusionDepth2ImgPipeline",
    ],
)
def test_another_architecture_is_refused_with_what_is_supported(model: Path, name: str) -> None:
    edit_json(model / "model_index.json", _class_name=name)
    message = refused(model, name)
    assert all(supported in message for supported in PIPELINES)
    assert "sd2-community/stable-diffusion-2-inpainting" in message
    with pytest.raises(ModelError, match="Stable Diffusion 1 and 2"):
        load_pipeline(str(model), InpainterConfig(), "cpu")  # as for a hub id, whose folder nobody can check


@pytest.mark.parametrize(
    ("part", "file", "pattern"),
    [
        ("tokenizer", None, "no tokenizer/;"),
        ("tokenizer", "merges.txt", r"no tokenizer/tokenizer\.json or tokenizer/vocab\.json and tokenizer/merges\.txt"),
        ("scheduler", "scheduler_config.json", r"no scheduler/scheduler_config\.json"),
        ("text_encoder", "config.json", r"no text_encoder/config\.json"),
        ("vae", None, "no vae/;"),
        ("unet", "diffusion_pytorch_model.safetensors", r"unet: no weights; expected \.safetensors"),
        ("feature_extractor", None, r"no feature_extractor/;.*or set inpainter\.safety_checker=false"),
        ("safety_checker", "model.safetensors", r"safety_checker: no weights.*inpainter\.safety_checker=false"),
    ],
)
def test_what_is_missing_is_named(model: Path, part: str, file: str | None, pattern: str) -> None:
    if file is None:
        shutil.rmtree(model / part)
    else:
        (model / part / file).unlink()
    refused(model, pattern)


def test_without_the_safety_checker_its_parts_may_be_missing(model: Path) -> None:
    for part in ("safety_checker", "feature_extractor"):
        shutil.rmtree(model / part)
    check_model_folder(model, safety_checker=False)
    config = InpainterConfig(model=str(model), safety_checker=False)
    assert StableDiffusionInpainter(config, 1, "cpu").pipe.safety_checker is None


def test_weights_that_only_pickle_reads_are_refused(model: Path) -> None:
    for part, name in {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}.items():
        (model / part / f"{name}.safetensors").unlink()
        torch.save({}, model / part / f"{name}.bin")
    message = refused(model, r"only diffusion_pytorch_model\.bin; expected \.safetensors")
    assert "never loaded" in message
    assert "safe_serialization=True" in message
    with pytest.raises(ModelError, match="safetensors"):
        load_pipeline(str(model), InpainterConfig(), "cpu")  # diffusers too is told to read no pickle


def test_a_checker_that_only_pickle_reads_can_be_left_out(model: Path) -> None:
    (model / "safety_checker" / "model.safetensors").rename(model / "safety_checker" / "pytorch_model.bin")
    refused(model, r"safety_checker: only pytorch_model\.bin.*inpainter\.safety_checker=false")
    check_model_folder(model, safety_checker=False)


def test_weights_of_another_variant_name_the_setting(model: Path) -> None:
    (model / UNET).rename(model / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    refused(model, r"unet: no weights without a variant; found: fp16\. Set inpainter\.variant=fp16")
    check_model_folder(model, variant="fp16")  # diffusers takes the plain files of the other parts
    refused(model, r"no weights of variant 'bf16'; found: fp16", variant="bf16")


def test_a_variant_that_no_part_has_is_refused(model: Path) -> None:
    refused(model, r"no weights of variant 'fp16'; leave inpainter\.variant out", variant="fp16")


def test_a_shard_that_is_missing_is_named(model: Path) -> None:
    name = "diffusion_pytorch_model-00002-of-00002.safetensors"
    index = {"weight_map": {"a": "diffusion_pytorch_model.safetensors", "b": name}}
    (model / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    refused(model, f"names {name}, which is not there")


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 335\n", r"git-lfs's pointer .*\d+ bytes"),
        (b"<!DOCTYPE html><html><body>Not found</body></html>", r"a page of a web site, not weights: 50 bytes"),
        (b'{"error": "Repository not found"}', r"a page of a web site"),
        (b"", r"cut off or damaged: 0 bytes"),
        (None, r"cut off or damaged: 1,000 bytes"),
    ],
)
def test_weights_that_are_not_whole_are_found_by_their_beginning(
    model: Path, content: bytes | None, pattern: str
) -> None:
    path = model / "vae" / "diffusion_pytorch_model.safetensors"
    start = path.read_bytes()[:1000]
    path.unlink()  # others share it
    path.write_bytes(start if content is None else content)
    assert str(path) in refused(model, pattern)


def test_parts_of_two_models_are_refused(model: Path) -> None:
    edit_json(model / "text_encoder" / "config.json", hidden_size=64)
    refused(model, "the UNet reads text vectors of 48 numbers, the text encoder gives 64")


@pytest.mark.parametrize("channels", [3, 5, 8])
def test_other_input_channels_are_refused(model: Path, channels: int) -> None:
    edit_json(model / "unet" / "config.json", in_channels=channels)
    refused(model, f"takes {channels} input channels; an inpainting model has 9")


def test_a_folder_around_the_model_names_the_inner_one(model: Path) -> None:
    refused(model.parent, f"did you mean {model}")
    cached = model.parent / "models--owner--name" / "snapshots" / "0123abcd"
    shutil.copytree(model, cached)
    refused(cached.parent.parent, f"did you mean {cached}")


def test_a_checkpoint_in_one_file_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "512-inpainting-ema.safetensors").touch()
    refused(tmp_path, "checkpoint in one file.*from_single_file")
    with pytest.raises(ModelError, match="neither a folder nor a hub id"):
        resolve_model(str(tmp_path / "512-inpainting-ema.safetensors"))


def test_a_damaged_config_is_named(model: Path) -> None:
    (model / "unet" / "config.json").write_text("{")
    refused(model, r"unet/config\.json is damaged")
