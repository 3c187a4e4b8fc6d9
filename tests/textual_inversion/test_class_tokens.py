"""Names, words and files of learned tokens: what is refused, and that diffusers reads what is written."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from safetensors.numpy import save_file
from tiny_pipelines import save_pipeline

from raygen.config import validate
from raygen.errors import ConfigError, ModelError, RowError
from raygen.inpainters import InpainterConfig
from raygen.inpainters.batch import inpaint
from raygen.inpainters.stable_diffusion import StableDiffusionInpainter
from raygen.inpainters.token_files import read_tokens, token_bytes
from raygen.textual_inversion.class_tokens import (
    check_num_images,
    check_same_text_encoder,
    check_tokens,
    class_tokens,
    load_tokenizer,
    trained_model,
)
from raygen.textual_inversion.config import IMAGENET_TEMPLATES, TextualInversionConfig

CLASSES = ("landbird", "waterbird")
WIDTH = 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("models") / "nine")


def settings(**fields: object) -> TextualInversionConfig:
    return validate(TextualInversionConfig, fields, where="test")


def token_file(folder: Path, name: str = "<landbird>", *, width: int = WIDTH, seed: int = 0) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "learned_embeds.safetensors"
    path.write_bytes(token_bytes(name, np.random.default_rng(seed).normal(size=width)))
    return str(path)


def load(model: Path, paths: dict[str, str]) -> StableDiffusionInpainter:
    config = InpainterConfig(model=str(model), num_inference_steps=2, composite=False)
    return StableDiffusionInpainter(config, 1, "cpu", read_tokens(paths))


def test_names_and_words_follow_from_the_classes() -> None:
    tokens = class_tokens(settings(), ("Landbird", "class 1 (other)"))
    assert [token.name for token in tokens] == ["<landbird>", "<class-1-other>"]
    assert tokens[1].fill("a photo of a {token} {word}") == "a photo of a <class-1-other> class 1 (other)"
    one_word = class_tokens(settings(words="bird", initializers=["land", "water"]), CLASSES)
    assert [token.fill("A {token} {word}") for token in one_word] == ["A <landbird> bird", "A <waterbird> bird"]
    assert [token.initializer for token in one_word] == ["land", "water"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": ["<a>"]}, "1 names for the 2 classes"),
        ({"tokens": ["<a>", "<a>"]}, "same token"),
        ({"words": ["bird"]}, "words has 1 words for the 2 classes"),
        ({"initializers": ["a", "b", "c"]}, "initializers has 3 words"),
        ({"tokens": ["landbird", "<b>"]}, "'landbird' is no token's name"),
        ({"tokens": ["<Land>", "<b>"]}, "'<Land>' is no token's name"),
        ({"tokens": ["<a b>", "<b>"]}, "'<a b>' is no token's name"),
        ({"prompt": "a photo of a bird"}, "0 times {token}"),
        ({"templates": ["a {token}", "{token} {token}"]}, "2 times {token}"),
        ({"templates": []}, "at least one text"),
        ({"num_images": 0}, "num_images"),
        ({"num_step": 3}, "did you mean 'num_steps'"),
    ],
)
def test_wrong_settings_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("{", r"\{")):
        class_tokens(settings(**fields), CLASSES)


def test_a_class_without_a_name_for_its_token_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"class '鳥' gives no name for its token; set textual_inversion\.tokens"):
        class_tokens(settings(), ("鳥", "魚"))


def test_more_images_than_the_class_has_is_refused() -> None:
    check_num_images(settings(num_images=56), {"landbird": 60, "waterbird": 56}, split="train")
    with pytest.raises(ConfigError, match=r"num_images is 57, but class 'waterbird' has 56 train images"):
        check_num_images(settings(num_images=57), {"landbird": 60, "waterbird": 56}, split="train")


def test_the_27_templates_are_those_of_the_paper() -> None:
    assert len({*IMAGENET_TEMPLATES}) == 27
    assert settings(templates="imagenet").all_templates[0] == "a photo of a {token} {word}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"initializers": "bird"}, r"initializers: 'bird' is 4 tokens .* give a word for <landbird>"),
        ({"initializers": ""}, "is 8 tokens"),  # falls back to the word, "landbird"
        ({"initializers": "b", "prompt": "a beautiful photo of just one {token}"}, "prompt: .* reads 24; shorten"),
        ({"initializers": "b", "prompt": "a {token} <other>"}, "prompt: 'a <landbird> <other>' names <other>, which"),
        ({"initializers": "b", "templates": ("{token} <waterbird>",)}, "templates: .* names <waterbird>, which"),
        ({"initializers": "b", "templates": "imagenet"}, "templates: 'a cropped photo of the <landbird> landbird'"),
    ],
)
def test_what_does_not_fit_the_tokenizer_is_refused(model: Path, fields: dict[str, object], message: str) -> None:
    wanted = settings(**fields)
    tokenizer = load_tokenizer(InpainterConfig(model=str(model)))
    with pytest.raises(ConfigError, match=message):
        check_tokens(class_tokens(wanted, CLASSES), wanted, tokenizer)


def test_a_name_that_the_tokenizer_has_is_refused(model: Path) -> None:
    wanted = settings(initializers="b", prompt="{token}, not <waterbird>")  # the inpainter knows both
    tokenizer = load_tokenizer(InpainterConfig(model=str(model)))
    check_tokens(class_tokens(wanted, CLASSES), wanted, tokenizer)
    tokenizer.add_tokens("<waterbird>")
    with pytest.raises(ConfigError, match="has '<waterbird>' already"):
        check_tokens(class_tokens(wanted, CLASSES), wanted, tokenizer)


def test_the_model_to_learn_with_has_its_own_variant_and_needs_no_safety_checker() -> None:
    inpainter = InpainterConfig(model="/painter", variant="bf16", revision="abc")
    own = trained_model(settings(), inpainter)
    assert (own.model, own.variant, own.revision, own.safety_checker) == ("/painter", "bf16", "abc", False)
    other = trained_model(settings(model="/sibling", variant="fp16"), inpainter)
    assert (other.model, other.variant, other.revision, other.safety_checker) == ("/sibling", "fp16", None, False)


def test_a_sibling_must_have_the_same_text_encoder(model: Path, tmp_path: Path) -> None:
    inpainter = InpainterConfig(model=str(model))
    sibling = save_pipeline(tmp_path / "four", in_channels=4, seed=3)
    trained = trained_model(settings(model=str(sibling)), inpainter)
    assert trained.model == str(sibling)
    check_same_text_encoder(trained, inpainter)
    tokenizer = load_tokenizer(trained)
    tokenizer.add_tokens("new")
    tokenizer.save_pretrained(sibling / "tokenizer")
    with pytest.raises(ModelError, match="another vocabulary"):
        check_same_text_encoder(trained, inpainter)
    config = sibling / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 64}))
    with pytest.raises(ModelError, match=r"text encoder of width 64, .* one of 32"):
        check_same_text_encoder(trained, inpainter)


def test_diffusers_reads_the_file_and_encodes_the_same(model: Path, tmp_path: Path) -> None:
    path = token_file(tmp_path)
    pipe = StableDiffusionInpaintPipeline.from_pretrained(model, safety_checker=None)
    pipe.load_textual_inversion(tmp_path)
    assert "<landbird>" in pipe.tokenizer.get_vocab()
    prompt = "a photo of a <landbird> bird"
    expected, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
    ours = load(model, {"<landbird>": path}).prompts
    assert torch.equal(ours.encode(ours.tokenize(prompt)), expected)
    plain = ours.encode_plain(prompt)
    assert plain is not None
    assert torch.equal(plain, expected)


def test_pictures_follow_the_vector_and_nothing_else_does(model: Path, tmp_path: Path) -> None:
    image_HWC = np.full((32, 32, 3), 99, np.uint8)
    repaint_HW = np.ones((32, 32), dtype=bool)

    def paint(paths: dict[str, str], prompt: str) -> bytes:
        (picture,) = inpaint(load(model, paths), [image_HWC], [repaint_HW], prompts=[prompt], seeds=[1])
        assert isinstance(picture, np.ndarray), picture
        return picture.tobytes()

    one = {"<landbird>": token_file(tmp_path / "one", seed=1)}
    two = {"<landbird>": token_file(tmp_path / "two", seed=2)}
    assert paint(one, "a <landbird>") != paint(two, "a <landbird>")
    assert paint(one, "a bird") == paint(two, "a bird") == paint({}, "a bird")


@pytest.mark.parametrize(("num_learned", "name"), [(0, "<cat>"), (1, "<cat>"), (1, "<LandBird>"), (1, "<land bird>")])
def test_a_prompt_with_another_token_than_the_learned_ones_fails(
    model: Path, tmp_path: Path, num_learned: int, name: str
) -> None:
    inpainter = load(model, {"<landbird>": token_file(tmp_path)} if num_learned else {})
    repaint_HW = np.ones((32, 32), dtype=bool)
    (error,) = inpaint(inpainter, [np.zeros((32, 32, 3), np.uint8)], [repaint_HW], prompts=[f"a {name}"], seeds=[1])
    assert isinstance(error, RowError)
    assert f"names {name}, which the model's tokenizer does not have" in str(error)
    assert str(error).endswith(f"learned tokens {['<landbird>'][:num_learned]}")


def test_files_that_cannot_be_used_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"<landbird> is 33 wide, but the text encoder of .* takes 32"):
        load(model, {"<landbird>": token_file(tmp_path, width=33)})
    path = token_file(tmp_path, "<waterbird>")
    with pytest.raises(ModelError, match=r"<landbird>: .* holds '<waterbird>' instead"):
        read_tokens({"<landbird>": path})
    with pytest.raises(ModelError, match="is not there"):
        read_tokens({"<landbird>": str(tmp_path / "no.safetensors")})
    save_file({"<a>": np.ones(3, np.float32), "<b>": np.ones(3, np.float32)}, path)
    with pytest.raises(ModelError, match="it holds 2 tensors; expected one"):
        read_tokens({"<a>": path})
    Path(path).write_bytes(token_bytes("<a>", np.full(3, np.nan)))
    with pytest.raises(ModelError, match="NaN"):
        read_tokens({"<a>": path})
