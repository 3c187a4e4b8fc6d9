"""Prompts to embeddings, against diffusers' own encoding and its textual inversion."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from safetensors.torch import save_file
from tiny_pipelines import save_pipeline

from raygen.inpainters.prompts import PromptEncoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> PromptEncoder:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    return PromptEncoder(pipe.tokenizer, pipe.text_encoder, device="cpu", dtype=torch.float32)


@pytest.mark.parametrize("prompt", ["", "a bird", "A Bird, flying!", "   spaces  "])
def test_same_embedding_as_diffusers(folder: Path, encoder: PromptEncoder, prompt: str) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    expected, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
    assert torch.equal(encoder.encode(encoder.tokenize(prompt)), expected)


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_a_learned_token_is_what_diffusers_textual_inversion_makes_of_it(
    folder: Path, encoder: PromptEncoder, tmp_path: Path, num_vectors: int
) -> None:
    vectors_VD = torch.randn(num_vectors, 32, generator=torch.Generator().manual_seed(1))
    save_file({"<bird-1>": vectors_VD}, tmp_path / "learned_embeds.safetensors")
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    pipe.load_textual_inversion(tmp_path, weight_name="learned_embeds.safetensors")
    expected, _ = pipe.encode_prompt("a <bird-1> on", "cpu", 1, False)

    ours = encoder.tokenize("a <bird-1> on", {"<bird-1>": vectors_VD.numpy()})
    assert torch.equal(encoder.encode(ours), expected)
    assert len(ours.vectors) == num_vectors


def test_a_learned_token_leaves_nothing_behind(encoder: PromptEncoder) -> None:
    before = encoder.encode(encoder.tokenize("a bird"))
    encoder.encode(encoder.tokenize("<t>", {"<t>": np.full((2, 32), np.nan, dtype=np.float32)}))
    assert torch.equal(encoder.encode(encoder.tokenize("a bird")), before)


def test_names_that_start_alike_are_kept_apart(encoder: PromptEncoder) -> None:
    one, ten = np.ones((1, 32), np.float32), np.full((1, 32), 10, np.float32)
    tokenized = encoder.tokenize("<b-10> <b-1>", {"<b-1>": one, "<b-10>": ten})
    assert [float(vector[0]) for vector in tokenized.vectors.values()] == [10, 1]


def test_names_and_pins_are_found(encoder: PromptEncoder) -> None:
    prompt = "a <bird-1> and <cat@sha256:ab12> and <bird-1>"
    assert encoder.token_names(prompt) == [("<bird-1>", None), ("<cat>", "ab12")]


@pytest.mark.parametrize(
    "name",
    [
        "<Big>",
        "<BIRD>",
        "<lora:bird:1>",
        "<cat toy>",
        "<_x>",
        "<-x>",
        "<*>",
        "</b>",
        "<vögel>",
        "<a@b>",
        f"<{'a' * 99}>",
        # Pins that are none: too short, not hexadecimal, of another hash, in capitals.
        "<t@sha256:ab>",
        "<t@sha256:wxyz>",
        "<t@md5:ab12>",
        "<t@sha256:AB12>",
    ],
)
def test_what_stands_in_angle_brackets_names_a_token_whatever_its_letters(encoder: PromptEncoder, name: str) -> None:
    assert encoder.token_names(f"2 < 3 {name}<t>") == [(name, None), ("<t>", None)]


@pytest.mark.parametrize(
    "prompt",
    ["3 < 4 > 2", "I <3 birds", "a <bird", "bird>", "<>", "< bird>", "<bird >", "< bird >", "<a\nb>", "a -> b"],
)
def test_comparisons_arrows_and_hearts_name_no_token(encoder: PromptEncoder, prompt: str) -> None:
    assert encoder.token_names(prompt) == []


def test_a_name_that_the_tokenizer_knows_is_its_own(folder: Path) -> None:
    pipe = StableDiffusionInpaintPipeline.from_pretrained(folder, safety_checker=None)
    pipe.tokenizer.add_tokens(["<Cat Toy>"])
    encoder = PromptEncoder(pipe.tokenizer, pipe.text_encoder, device="cpu", dtype=torch.float32)
    assert encoder.token_names("a <Cat Toy> and a <cat toy>") == [("<cat toy>", None)]


def test_what_does_not_fit_is_named(encoder: PromptEncoder) -> None:
    fitting = encoder.tokenize("x" * 22)  # one token a letter; start and end make 24
    assert (fitting.first_dropped, fitting.num_tokens) == (None, 22)
    assert encoder.tokenize("x" * 22 + " yes").first_dropped == "yes"
    cut = encoder.encode(encoder.tokenize("x" * 22 + " yes"))
    assert torch.equal(cut, encoder.encode(fitting))


def test_a_plain_prompt_that_is_too_long_has_no_embedding(encoder: PromptEncoder) -> None:
    assert encoder.encode_plain("y" * 23) is None
    assert encoder.encode_plain("a bird") is encoder.encode_plain("a bird")
