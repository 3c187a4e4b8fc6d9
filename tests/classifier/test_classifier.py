"""torchvision's classifiers: those that can be fitted are, with maps where these are asked for; others are refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model

from raygen.classifier import (
    ClassifierConfig,
    MapUse,
    build_classifier,
    check_classifier,
    load_classifier,
    save_classifier,
)
from raygen.classifier.framing import Frame, preprocess
from raygen.errors import ConfigError, ModelError
from raygen.maskers.cam import cam_heatmaps

CAM = MapUse("synthesis.mask=cam", may_be_empty=False)


def pictures(num: int, size_px: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return preprocess(
        [rng.integers(256, size=(size_px, size_px, 3), dtype=np.uint8) for _ in range(num)], Frame(size_px)
    )


# Networks with other heads at the end, more of them, or a format of their own.
@pytest.mark.parametrize(
    ("architecture", "size_px", "map_size"),
    [
        ("googlenet", 64, 2),
        ("inception_v3", 80, 1),
        ("mnasnet0_5", 64, 2),
        pytest.param("swin_t", 64, 2, marks=pytest.mark.slow),
        pytest.param("vit_b_32", 32, None, marks=pytest.mark.slow),
    ],
)
def test_a_network_is_fitted_saved_and_read_again(
    architecture: str, size_px: int, map_size: int | None, tmp_path: Path
) -> None:
    config = ClassifierConfig(architecture=architecture, image_size_px=size_px)
    check_classifier(config, 3, map_for=None)
    classifier = build_classifier(config, 3, seed=2**64 - 1)
    images_NCHW = pictures(2, size_px)
    logits_NC = classifier.train()(images_NCHW)
    assert logits_NC.shape == (2, 3)
    torch.nn.functional.cross_entropy(logits_NC, torch.tensor([0, 2])).backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
    save_classifier(classifier, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved")
    torch.testing.assert_close(again(images_NCHW), classifier.eval()(images_NCHW))
    assert again.features(images_NCHW).ndim == 2
    if map_size is not None:
        shapes = []
        handle = again.target_layer.register_forward_hook(lambda *args: shapes.append(args[-1].shape))
        assert cam_heatmaps(again, images_NCHW, [0, 1], method="gradcam").shape == (2, size_px, size_px)
        handle.remove()
        assert tuple(shapes[0][2:]) == (map_size, map_size)


@pytest.mark.parametrize(
    ("architecture", "last"), [("resnet50", "layer4.2"), ("resnet18", "layer4.1"), ("small_resnet", "layer3")]
)
def test_a_resnets_map_is_that_of_its_last_block(architecture: str, last: str) -> None:
    """SCGS and DaC say "the last convolutional layer"; `layer4[-1]` of a ResNet, whose channels are the features."""
    classifier = build_classifier(ClassifierConfig(architecture=architecture, image_size_px=64), 2, seed=0)
    names = {module: name for name, module in classifier.backbone.named_modules()}
    assert names[classifier.target_layer].startswith(last)


def test_inception_and_googlenet_read_pixels_as_their_published_weights_do(tmp_path: Path) -> None:
    """Weights of torchvision's own form, auxiliary heads included: the features are those of torchvision's model."""
    published = get_model("googlenet", weights=None, transform_input=True, init_weights=True).eval()
    torch.save(published.state_dict(), tmp_path / "googlenet.pth")
    config = ClassifierConfig(architecture="googlenet", weights=str(tmp_path / "googlenet.pth"))
    check_classifier(config, 2, map_for=CAM)
    classifier = build_classifier(config, 2, seed=0).eval()
    images_NCHW = pictures(2, 64)
    published.fc = torch.nn.Identity()
    expected_ND = published((images_NCHW - classifier.mean_C11) / classifier.std_C11)
    scale = expected_ND.abs().max()  # random weights give small numbers
    torch.testing.assert_close(classifier.features(images_NCHW) / scale, expected_ND / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "squeezenet1_0"}, "squeezenet1_0 does not end in a linear layer"),
        ({"architecture": "inception_v3"}, r"pictures of 64 x 64 \(.*\); set classifier.image_size_px=299"),
        ({"architecture": "maxvit_t"}, "maxvit_t cannot be fitted on pictures of 64 x 64 .*image_size_px=224"),
        ({"architecture": "vit_h_14"}, "vit_h_14 cannot be fitted .*image_size_px=518"),
        ({"architecture": "resnet81"}, "torchvision has no 'resnet81'; did you mean resnet18"),
        ({"architecture": "alexnet"}, "last map of alexnet is a single pixel .*0 everywhere; .*image_size_px=224"),
        (
            {"architecture": "vit_h_14", "weights": "imagenet"},
            "no IMAGENET1K_V1 weights of vit_h_14, only IMAGE",
        ),
        ({"architecture": "vit_b_16", "weights": "imagenet"}, "weights of vit_b_16 are for 224; .*image_size_px=224"),
        ({"weights": "imagenet"}, "small_resnet has no ImageNet weights"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_classifier(ClassifierConfig.model_validate(fields), 2, map_for=CAM)


def test_a_map_of_one_pixel_will_do_where_empty_ones_are_of_use() -> None:
    check_classifier(
        ClassifierConfig(architecture="alexnet"), 2, map_for=MapUse("synthesis.cam=gradcam", may_be_empty=True)
    )


def test_weights_are_looked_at_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClassifierConfig(architecture="resnet18", weights=str(tmp_path / "resnet18.pth"))
    with pytest.raises(ModelError, match="no such file"):
        check_classifier(config, 2, map_for=None)
    torch.save(get_model("resnet18", weights=None).state_dict(), tmp_path / "resnet18.pth")
    check_classifier(config, 2, map_for=None)
    with pytest.raises(ModelError, match="does not fit resnet34 with 2 classes"):
        check_classifier(config.model_copy(update={"architecture": "resnet34"}), 2, map_for=None)
    imagenet = config.model_copy(update={"weights": "imagenet"})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ModelError, match=r"not in torch's cache .*resnet18-f37072fd\.pth.* cannot be fetched"):
        check_classifier(imagenet, 2, map_for=None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    check_classifier(imagenet, 2, map_for=None)
