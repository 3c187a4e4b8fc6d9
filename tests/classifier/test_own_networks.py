"""Networks of timm, of transformers and of functions: they say what they said before, have maps, or are refused."""

import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import own_networks
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image
from torch import nn

from raygen.attention import DeepLift, check_deep_lift
from raygen.classifier import (
    ClassifierConfig,
    MapUse,
    build_classifier,
    check_classifier,
    load_classifier,
    save_classifier,
)
from raygen.classifier.framing import preprocess
from raygen.classifier.preprocessing import with_own_framing
from raygen.classifier.start import open_start, with_start
from raygen.errors import ConfigError, DataError, ModelError
from raygen.maskers.cam import cam_heatmaps

NAMES = ("landbird", "waterbird")
CAM = MapUse("synthesis.mask=cam", may_be_empty=False)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def rand(num: int = 3) -> torch.Tensor:
    return torch.rand(num, 3, own_networks.SIDE, own_networks.SIDE, generator=torch.Generator().manual_seed(1))


def network(function: str, **fields: Any) -> ClassifierConfig:
    return ClassifierConfig(architecture=f"own_networks:{function}", image_size_px=own_networks.SIDE, **fields)


def normal(images_NCHW: torch.Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> torch.Tensor:
    return (images_NCHW - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("vit", "vit.layers.1.layernorm_before"),
        ("convnext", "convnext.encoder.stages.1"),
        ("resnet", "resnet.encoder.stages.1"),
        ("swin", "swin.layernorm"),
    ],
)
def test_a_model_of_transformers_says_what_it_said_and_is_saved_without_its_folder(
    kind: str, layer: str, tmp_path: Path
) -> None:
    folder = own_networks.transformers_folder(tmp_path / kind, kind)
    fields = with_own_framing({"architecture": f"hf:{folder}"})
    config = ClassifierConfig.model_validate(fields)
    assert (config.image_size_px, config.mean, config.std, config.framing) == (32, MEAN, STD, "squash")
    check_classifier(config, 2, map_for=CAM)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    ours, images_NCHW = open_start(config, f"hf:{folder}", NAMES), rand()
    expected_NC = theirs(pixel_values=normal(images_NCHW)).logits
    torch.testing.assert_close(ours(images_NCHW), expected_NC, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.head(ours.features(images_NCHW)), expected_NC, rtol=0, atol=1e-5)
    save_classifier(ours, tmp_path / "saved")
    for file in folder.iterdir():
        file.unlink()
    again = load_classifier(tmp_path / "saved")
    assert torch.equal(again(images_NCHW), ours(images_NCHW))
    assert again.spatial_map().name == layer
    heat_NHW = cam_heatmaps(again, images_NCHW, [0, 1, 1], method="gradcam")
    assert heat_NHW.shape == (3, 32, 32)
    assert heat_NHW.max() > 0.5


def test_a_class_tokens_map_is_of_the_norm_before_the_last_attention_and_follows_the_picture(tmp_path: Path) -> None:
    """As pytorch-grad-cam documents for ViTs; where a patch is put elsewhere its heat goes along, without positions."""
    folder = own_networks.transformers_folder(tmp_path / "vit", "vit")
    config = ClassifierConfig.model_validate(with_own_framing({"architecture": f"hf:{folder}"}))
    classifier = open_start(config, f"hf:{folder}", NAMES)
    embeddings: Any = classifier.get_submodule("backbone.model.vit.embeddings")
    with torch.no_grad():
        embeddings.position_embeddings.zero_()
    images_NCHW = rand(1)
    turned_NCHW = images_NCHW.view(1, 3, 4, 8, 4, 8).flip(2, 4).reshape(1, 3, 32, 32)  # 8 px patches, in reverse order
    found = [cam_heatmaps(classifier, images, [1], method="gradcam")[0] for images in (images_NCHW, turned_NCHW)]
    middles = [heat_HW[4::8, 4::8] for heat_HW in found]
    assert middles[0].std() > 0.05
    np.testing.assert_allclose(middles[1], middles[0][::-1, ::-1], atol=0.1)


def test_in_place_and_shared_layers_are_looked_at_like_others() -> None:
    classifier = build_classifier(network("cnn", cam_layer="second"), 2, seed=0).eval()
    seen: list[torch.Tensor] = []
    handle = classifier.target_layer.register_forward_hook(lambda *args: seen.append(args[-1]))
    classifier(rand())
    handle.remove()
    assert (seen[0] < 0).any()  # what the convolution gave, not what the ReLU after it made of that
    assert cam_heatmaps(classifier, rand(), [0, 1, 0], method="gradcam").shape == (3, 32, 32)


def test_timm_names_a_network_and_says_how_it_sees() -> None:
    pytest.importorskip("timm")
    smaller = with_own_framing({"architecture": "timm:test_vit", "image_size_px": 80})
    assert (smaller["image_size_px"], smaller["resize_px"], smaller["framing"]) == (80, 84, "center_crop")
    config = ClassifierConfig.model_validate(with_own_framing({"architecture": "timm:test_vit"}))
    assert (config.image_size_px, config.resize_px, config.framing, config.interpolation) == (
        160,
        168,
        "center_crop",
        "bicubic",
    )
    assert config.mean == (0.5, 0.5, 0.5)
    check_classifier(config, 3, map_for=CAM)
    classifier = build_classifier(config, 3, seed=0).eval()
    assert (classifier.head.out_features, classifier.spatial_map().name) == (3, "blocks.5.norm1")


def test_a_picture_comes_in_as_torchvision_and_the_models_processor_bring_it() -> None:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    config = ClassifierConfig(image_size_px=32, framing="center_crop", resize_px=40, interpolation="bicubic")
    image_HWC = np.random.default_rng(0).integers(256, size=(60, 90, 3), dtype=np.uint8)
    theirs = Compose([Resize(40, InterpolationMode.BICUBIC), CenterCrop(32)])(Image.fromarray(image_HWC))
    ours = config.frame.picture(image_HWC)
    assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 1
    whole = ClassifierConfig(image_size_px=32, framing="square_crop").frame
    square = np.asarray(Image.fromarray(image_HWC[:, 15:75]).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(whole.picture(image_HWC), square)
    assert preprocess([image_HWC], whole).shape == (1, 3, 32, 32)


def test_what_the_classifier_does_not_see_of_a_picture_is_not_attended() -> None:
    frame = ClassifierConfig(image_size_px=32, framing="center_crop", resize_px=40).frame
    mask_HW = frame.on_picture(np.ones((32, 32), bool), height=60, width=90)
    assert mask_HW.shape == (60, 90)
    # Of the square in the middle 32 of 40 are seen: 48 of 60 pixels, from 6 on; the square begins at column 15.
    assert mask_HW.sum() == 48 * 48
    assert mask_HW[6:54, 21:69].all()
    assert frame.mask(mask_HW).all()
    heat_HW = frame.on_picture(np.ones((32, 32), np.float32), height=60, width=90)
    assert heat_HW[20:40, 30:60].min() == 1
    assert heat_HW[:, :14].max() == 0


def wrapped(prefix: str) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("suffix", "wrap"),
    [
        (".safetensors", wrapped("")),
        (".pt", wrapped("")),
        (".pth", wrapped("module.")),
        (".pt", wrapped("_orig_mod.")),
        (".pt", wrapped("_orig_mod.module.")),
        (".pt", lambda state: {name.replace("second.", "second._orig_mod."): value for name, value in state.items()}),
        (".ckpt", lambda state: {"epoch": 3, "state_dict": {**wrapped("model.")(state), "loss.weight": torch.ones(2)}}),
        (".ckpt", lambda state: {"state_dict": wrapped("net._orig_mod.")(state), "hyper_parameters": {"lr": 0.1}}),
        (".pth", lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": []}}),
    ],
)
def test_weights_are_taken_whatever_wrapped_their_names(suffix: str, wrap: Callable[..., Any], tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = own_networks.TinyCnn(2).eval()
    path = tmp_path / f"mine{suffix}"
    state = wrap({name: tensor.clone() for name, tensor in theirs.state_dict().items()})
    if suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    config = network("cnn", mean=MEAN, std=STD)
    ours, images_NCHW = open_start(config, str(path), NAMES), rand()
    torch.testing.assert_close(ours(images_NCHW), theirs(normal(images_NCHW)), rtol=0, atol=1e-5)
    started = build_classifier(config.model_copy(update={"weights": str(path)}), 3, seed=0)
    assert torch.equal(started.state_dict()["backbone.second.weight"], theirs.second.weight)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            own_networks.TinyCnn(2),
            r"holds more than tensors \(.*own_networks\.TinyCnn.*\), never loaded; save the model",
        ),
        ({"state_dict": {}, "args": Namespace(lr=1)}, r"holds more than tensors \(.*argparse\.Namespace"),
        ([torch.ones(2)], r"not a state dict \(.*\): it holds list"),
        ({"weights": 3, "lr": 0.1}, r"not a state dict .*: it holds a mapping with weights \(int\), lr \(float\)"),
        ({}, "is an empty state dict"),
        ({"conv.weight": torch.ones(2, 2)}, "does not fit own_networks:cnn with 2 classes"),
    ],
)
def test_a_file_that_is_no_state_dict_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "mine.pt")
    with pytest.raises(ModelError, match=re.escape(str(tmp_path / "mine.pt")) + f".* {message}"):
        open_start(network("cnn"), str(tmp_path / "mine.pt"), NAMES)


def test_a_classifier_of_another_number_of_classes_is_refused_with_both(tmp_path: Path) -> None:
    torch.save(own_networks.TinyCnn(5).state_dict(), tmp_path / "mine.pt")
    with pytest.raises(
        DataError, match=r"mine.pt tells 5 classes apart, and the dataset has 2 \(landbird, waterbird\)"
    ):
        open_start(network("cnn"), str(tmp_path / "mine.pt"), NAMES)
    folder = own_networks.transformers_folder(tmp_path / "hf", "resnet", names=("cat", "dog", "fox"))
    config = ClassifierConfig.model_validate(with_own_framing({"architecture": f"hf:{folder}"}))
    with pytest.raises(DataError, match=r"tells 3 classes \(cat, dog, fox\) apart, and the dataset has 2 \(landbird"):
        open_start(config, str(folder), NAMES)


def test_classes_that_a_model_names_in_another_order_are_put_into_the_datasets(tmp_path: Path) -> None:
    folder = own_networks.transformers_folder(tmp_path / "hf", "resnet", names=("Waterbird", "landbird"))
    config = ClassifierConfig.model_validate(with_own_framing({"architecture": f"hf:{folder}"}))
    as_named = open_start(config, str(folder), NAMES)(rand())
    as_numbered = open_start(config, str(folder), ("class 0", "class 1"))(rand())
    assert torch.equal(as_named, as_numbered.flip(1))
    assert not torch.equal(as_named, as_numbered)


def test_a_model_without_a_fitted_last_layer_is_no_classifier(tmp_path: Path) -> None:
    folder = own_networks.transformers_folder(tmp_path / "hf", "vit")
    state = safetensors.torch.load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        del state[name]
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = ClassifierConfig.model_validate(with_own_framing({"architecture": f"hf:{folder}"}))
    with pytest.raises(
        ModelError, match=r"no fitted classifier: its weights lack classifier\.bias, classifier\.weight"
    ):
        open_start(config, str(folder), NAMES)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"architecture": "own_networks:probabilities"},
            "is not what its last linear layer gives .*a softmax after it",
        ),
        (
            {"architecture": "own_networks:pair"},
            r"makes tuple of two pictures; expected logits, a tensor of shape \(2,",
        ),
        ({"architecture": "own_networks:no_network"}, "gave a str; expected a torch.nn.Module"),
        ({"architecture": "own_networks:cnm"}, "module own_networks has no cnm"),
        ({"architecture": "no_such_module:cnn"}, "the module cannot be imported .*PYTHONPATH"),
        (
            {"architecture": "own_networks:pixels_only"},
            "mask=cam needs class activation maps: .*no layer of .*cam_layer",
        ),
        ({"architecture": "own_networks:pixels_only", "image_size_px": 64}, "does not take pictures of 64 x 64"),
        ({"architecture": "own_networks:cnn", "cam_layer": "third"}, "has no such layer; it has .*first, second"),
        ({"architecture": "own_networks:cnn", "cam_layer": "out"}, r"gives no tensor .*expected a map, \(2, channels"),
        ({"architecture": "own_networks:cnn", "head": "second"}, "head is second, which is Conv2d in .*end with out"),
        ({"architecture": "own_networks:cnn", "weights": "imagenet"}, "weights is imagenet, which are torchvision's"),
        ({"architecture": "timm:no_such_net"}, "timm has no 'no_such_net'"),
    ],
)
def test_a_network_that_cannot_be_used_is_refused_before_any_work(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_classifier(ClassifierConfig.model_validate({"image_size_px": 32, **fields}), 2, map_for=CAM)


def test_a_named_layer_that_the_class_token_does_not_read_is_refused(tmp_path: Path) -> None:
    folder = own_networks.transformers_folder(tmp_path / "vit", "vit")
    fields = with_own_framing({"architecture": f"hf:{folder}", "cam_layer": "vit.layernorm"})
    with pytest.raises(ConfigError, match=r"cam_layer=vit\.layernorm .*do not depend on its map.*norm before"):
        check_classifier(ClassifierConfig.model_validate(fields), 2, map_for=CAM)


def test_how_a_model_sees_has_to_be_known(tmp_path: Path) -> None:
    folder = own_networks.transformers_folder(tmp_path / "vit", "vit")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no preprocessor_config\.json.*set classifier\.image_size_px, mean and"):
        with_own_framing({"architecture": f"hf:{folder}"})
    given = {"architecture": f"hf:{folder}", "image_size_px": 32, "mean": list(MEAN), "std": list(STD)}
    assert with_own_framing(given) == given


def test_a_processor_that_crops_says_so(tmp_path: Path) -> None:
    folder = own_networks.transformers_folder(tmp_path / "convnext", "convnext")
    own = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}, crop_pct=0.875, do_rescale=False)
    own.save_pretrained(folder)
    fields = with_own_framing({"architecture": f"hf:{folder}"})
    assert (fields["image_size_px"], fields["resize_px"], fields["framing"]) == (224, 256, "center_crop")
    assert fields["interpolation"] == "bicubic"
    # (x * 255 - m) / s, of x in [0, 1].
    np.testing.assert_allclose(fields["mean"], np.array(own.image_mean) / 255)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("nothing.pt", r"nothing\.pt does not exist"),
        ("notes.txt", "no file of weights; expected one that ends with .safetensors"),
        ("empty", r"empty is not a classifier folder: it has neither classifier\.json.* nor config\.json"),
        ("begun", r"classifier\.json is missing. Was the fit interrupted\?"),
    ],
)
def test_what_is_no_classifier_is_refused(start: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for name in ("empty", "begun"):
        (tmp_path / name).mkdir()
    (tmp_path / "begun" / "model.safetensors").touch()
    with pytest.raises(ModelError, match=message):
        with_start({}, str(tmp_path / start))


def test_a_fit_says_itself_what_it_is(tmp_path: Path) -> None:
    classifier = build_classifier(ClassifierConfig(width=8, framing="resize_crop"), 2, seed=0)
    save_classifier(classifier, tmp_path / "fit")
    for start in (tmp_path / "fit", tmp_path / "fit" / "model.safetensors"):
        fields, path = with_start({}, str(start))
        assert (fields["width"], fields["framing"], path) == (8, "resize_crop", str(tmp_path / "fit"))
    with pytest.raises(ConfigError, match=r"classifier\.architecture is resnet18, and .*fit holds .*small_resnet"):
        with_start({"architecture": "resnet18"}, str(tmp_path / "fit"))
    torch.save(classifier.state_dict(), tmp_path / "mine.pt")
    with pytest.raises(ConfigError, match="a file of weights, which does not say of what network; name it"):
        with_start({}, str(tmp_path / "mine.pt"))


def test_a_last_layer_in_a_sequence_is_replaced_and_published_weights_of_other_classes_give_a_new_one(
    tmp_path: Path,
) -> None:
    """transformers' ResNet has its last layer behind a Flatten; three classes are not the two of its folder."""
    folder = own_networks.transformers_folder(tmp_path / "hf", "resnet")
    config = ClassifierConfig.model_validate(with_own_framing({"architecture": f"hf:{folder}"}))
    two, three = build_classifier(config, 2, seed=0), build_classifier(config, 3, seed=0)
    assert isinstance(two.get_submodule("backbone.model.classifier.1"), nn.Identity)
    assert three(rand().repeat(1, 1, 1, 1)).shape == (3, 3)
    name = "backbone.model.resnet.embedder.embedder.convolution.weight"
    assert torch.equal(two.state_dict()[name], three.state_dict()[name])


def test_deep_lift_follows_shared_and_in_place_layers_and_names_what_it_cannot(tmp_path: Path) -> None:
    """One ReLU, in place and called twice: its attributions still sum to what they explain."""
    classifier = build_classifier(network("cnn"), 2, seed=0).eval()
    check_deep_lift(classifier.config, 2)
    _, gap_N = DeepLift(classifier)(rand(), rand(5).flip(0), torch.tensor([0, 1, 1]))
    assert gap_N.max() < 1e-9
    folder = own_networks.transformers_folder(tmp_path / "vit", "vit")
    config = ClassifierConfig.model_validate(with_own_framing({"architecture": f"hf:{folder}"}))
    with pytest.raises(
        ConfigError, match=r"measures\.deep_lift: classifier\.architecture hf:.*leave measures\.deep_lift"
    ):
        check_deep_lift(config, 2)


def test_a_hub_id_that_cannot_be_had_is_said_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    from raygen.model_files import hub

    monkeypatch.setattr(hub, "TIMEOUT_S", 1.0)
    for variable in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ModelError, match=r"hf:nobody/no-such-model: there is no folder .* not in the hub's cache"):
        with_own_framing({"architecture": "hf:nobody/no-such-model"})
    with pytest.raises(ModelError, match=r"there is no folder .*/models/vit"):
        with_own_framing({"architecture": "hf:./models/vit"})
