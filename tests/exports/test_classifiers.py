"""Exported classifiers, loaded without raygen by the very lines that the card and the docs have."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from raygen.classifier import Classifier, ClassifierConfig, build_classifier, load_classifier, save_classifier
from raygen.classifier.framing import preprocess
from raygen.errors import DataError, ModelError, RunFolderError
from raygen.exports.classifiers import export_classifier
from raygen.exports.loading_code import loading_code, transformers_code

ROOT = Path(__file__).parents[2]


def with_classifier(run: Path, **fields: Any) -> Classifier:
    """Puts a network with uneven weights and statistics, as after a fit, in the place of the run's own."""
    classifier = build_classifier(ClassifierConfig(**fields), 2, seed=3)
    generator = torch.Generator().manual_seed(4)
    for name, tensor in classifier.state_dict().items():
        if name.endswith("running_mean"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) - 0.5)
        if name.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    save_classifier(classifier.eval(), run / "fit" / "dbb")
    return load_classifier(run / "fit" / "dbb")


def picture(path: Path) -> np.ndarray:
    """A picture of noise that is not square, and larger than any network here takes."""
    image_HWC = np.random.default_rng(5).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    Image.fromarray(image_HWC).save(path)
    return image_HWC


def code_of(card: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL)
    return str(code)


def run_codes(folders: list[Path]) -> list[str]:
    """What the lines of cards print, each in its own folder, where raygen cannot be imported; in one Python."""
    code = "import os, sys\nsys.modules['raygen'] = None  # not to be found\n"
    for folder in folders:
        code += f"os.chdir({str(folder)!r})\nsys.path[0:0] = ['.']\n{code_of(folder / 'README.md')}"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_cards_lines_give_the_classifiers_answers_without_raygen(own_run: Path, tmp_path: Path) -> None:
    networks: list[dict[str, Any]] = [
        {"architecture": "small_resnet", "image_size_px": 64, "width": 8},
        {"architecture": "resnet18", "image_size_px": 64, "framing": "center_crop", "interpolation": "bicubic"},
        {"architecture": "torch_networks:without_a_bias", "mean": [0.5, 0.4, 0.3], "std": [0.5, 0.6, 0.7]},
    ]
    outs, expected = [tmp_path / str(i) for i in range(len(networks))], []
    libraries = ("small_resnet.py", "torchvision", "function")
    for out, fields, library in zip(outs, networks, libraries, strict=True):
        classifier = with_classifier(own_run, **fields)
        export_classifier(own_run, "dbb", to=str(out), format="safetensors")
        assert code_of(out / "README.md") == loading_code(library)
        image_HWC = picture(out / "picture.png")
        shutil.copy(ROOT / "tests" / "torch_networks.py", out)  # what is the user's stays theirs
        with torch.inference_mode():
            expected.append(classifier(preprocess([image_HWC], classifier.frame))[0].softmax(0))
    for line, expected_C in zip(run_codes(outs), expected, strict=True):
        name, _, shares = line.partition(" ")
        # Pillow frames the picture either way, so only the order of float32's sums differs.
        np.testing.assert_allclose(yaml.safe_load(shares), expected_C.numpy(), atol=1e-5)
        assert name == ("landbird", "waterbird")[int(expected_C.argmax())]


def test_the_lines_of_the_docs_are_those_of_the_cards() -> None:
    documented = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text("utf-8"), flags=re.DOTALL)
    assert documented == [loading_code("torchvision"), loading_code("small_resnet.py"), transformers_code()]
    assert all(len([line for line in code.splitlines() if line and "import" not in line]) <= 10 for code in documented)


@pytest.mark.parametrize(
    "name",
    [
        "googlenet",
        "densenet121",
        "vit_b_32",
        "shufflenet_v2_x0_5",
        "convnext_tiny",
        "timm:test_resnet",
        "timm:test_vit",
    ],
)
@pytest.mark.slow
def test_every_family_loads_its_own_names(own_run: Path, tmp_path: Path, name: str) -> None:
    """The exporter compares logits itself: what it writes is what was fitted, or nothing is written."""
    with_classifier(own_run, architecture=name, image_size_px=96)
    export_classifier(own_run, "dbb", to=str(tmp_path / "out"), format="safetensors")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_network_that_no_file_can_be_loaded_into_is_refused(own_run: Path, tmp_path: Path) -> None:
    """MNASNet wants its format's version, which a file of tensors has not."""
    with_classifier(own_run, architecture="mnasnet0_5", image_size_px=64)
    with pytest.raises(ModelError, match="mnasnet0_5 of torchvision does not take the weights from a file"):
        export_classifier(own_run, "dbb", to=str(tmp_path / "out"), format="safetensors")
    assert not (tmp_path / "out").exists()


# Networks of torchvision that transformers has too.
TRANSFORMERS_OWN = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "vit_b_32",
    "convnext_tiny",
    "convnext_small",
]


@pytest.mark.parametrize(
    ("name", "framing"),
    [("resnet18", "squash"), *(pytest.param(name, "resize_crop", marks=pytest.mark.slow) for name in TRANSFORMERS_OWN)],
)
def test_a_network_of_torchvision_is_transformers_own(own_run: Path, tmp_path: Path, name: str, framing: str) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    classifier = with_classifier(own_run, architecture=name, image_size_px=64, framing=framing)
    out = tmp_path / "out"
    export_classifier(own_run, "dbb", to=str(out), format="hf")
    image_HWC = picture(tmp_path / "picture.png")
    model = AutoModelForImageClassification.from_pretrained(out).eval()
    inputs = AutoImageProcessor.from_pretrained(out)(Image.fromarray(image_HWC), return_tensors="pt")
    expected_1CHW = preprocess([image_HWC], classifier.frame)
    found_1CHW = inputs["pixel_values"] * classifier.std_C11 + classifier.mean_C11
    # transformers resizes with torchvision, which rounds otherwise than Pillow: by one step of 255.
    np.testing.assert_allclose(found_1CHW.numpy(), expected_1CHW.numpy(), atol=1.01 / 255)
    with torch.inference_mode():
        expected_1C = classifier(found_1CHW)
        found_1C = model(**inputs).logits
    np.testing.assert_allclose(found_1C.numpy(), expected_1C.numpy(), atol=1e-3 * float(expected_1C.abs().max()))
    assert model.config.id2label == {0: "landbird", 1: "waterbird"}


def test_what_came_from_transformers_goes_back_with_its_new_weights(own_run: Path, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=2, **sizes)).save_pretrained(
        tmp_path / "mine"
    )
    frame = {"image_size_px": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "framing": "center_crop"}
    classifier = with_classifier(own_run, architecture=f"hf:{tmp_path / 'mine'}", resize_px=36, **frame)
    with torch.no_grad():
        classifier.head.weight.mul_(-2.0)  # what a fit did
    save_classifier(classifier, own_run / "fit" / "dbb")
    shutil.rmtree(tmp_path / "mine")
    out = tmp_path / "out"
    export_classifier(own_run, "dbb", to=str(out), format="hf")
    model = AutoModelForImageClassification.from_pretrained(out).eval()
    image = Image.fromarray(picture(tmp_path / "picture.png"))
    inputs = AutoImageProcessor.from_pretrained(out)(image, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    with torch.inference_mode():
        expected_1C = classifier(inputs["pixel_values"] * classifier.std_C11 + classifier.mean_C11)
        np.testing.assert_allclose(model(**inputs).logits.numpy(), expected_1C.numpy(), atol=1e-5)
    assert model.config.id2label == {0: "landbird", 1: "waterbird"}
    with pytest.raises(ModelError, match="take --format hf, which is its own form"):
        export_classifier(own_run, "dbb", to=str(tmp_path / "plain"), format="safetensors")


def test_what_transformers_has_no_network_for_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no network like small_resnet; take --format safetensors"):
        export_classifier(run, "dbb", to=str(tmp_path / "out"), format="hf")
    assert not (tmp_path / "out").exists()


def test_a_fit_that_is_not_there_is_refused_with_those_that_are(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="no finished fit 'jtt'; it has erm, dbb"):
        export_classifier(run, "jtt", to=str(tmp_path / "out"), format="safetensors")


def test_card_has_accuracies_before_and_after(run: Path, tmp_path: Path) -> None:
    export_classifier(run, "dbb", to=str(tmp_path / "out"), format="safetensors")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    # 1 of 6 of the worst group is right before, and 4 of 4, 6 of 8, 5 of 6 and 9 of 10 after.
    assert "| erm | test | 71.4% | 16.7% | 28 |" in text
    assert "| dbb | test | 85.7% | 75.0% | 28 |" in text


def test_a_folder_that_is_not_empty_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(DataError, match="is not empty: it holds mine"):
        export_classifier(run, "erm", to=str(tmp_path), format="safetensors")
