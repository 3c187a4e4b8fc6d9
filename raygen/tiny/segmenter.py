"""The tiny world's object finder: a CLIPSeg (Lüddecke & Ecker 2022, arXiv 2112.10003) for 64 px scenes.

What it is asked for decides what it marks: "bird", or the name of its class, marks the bird; a thing that is not in
the picture marks nothing. It was never asked for the other class: telling the kinds apart took more training than all
the rest, and no recipe needs it.
"""

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, CLIPTokenizer, ViTImageProcessor

from raygen.datasets.scene_drawing import SIZE_PX
from raygen.tiny.model import put_in_place
from raygen.tiny.tokenizer import build_tokenizer
from raygen.tiny.world import TEMPLATES

# Longer texts than the inpainter's: a word that it never saw is spelled byte by byte.
MAX_TOKENS = 24
TEXT_WIDTH = 64
# Cells of 4 px: the decoder paints each cell's pixels from that cell's vector, so that smaller cells are sharper.
PATCH_PX = 4
GENERIC_WORDS = ("bird", "animal")
CLASS_WORDS = (("landbird", "land bird"), ("waterbird", "water bird"))
# Things that no scene shows.
ABSENT_WORDS = (
    *("cat", "dog", "horse", "cow", "sheep", "pig", "elephant", "lion", "tiger", "bear", "fox", "wolf", "rabbit"),
    *("mouse", "snake", "frog", "turtle", "shark", "whale", "fish", "crab", "spider", "ant", "bee", "butterfly"),
    *("man", "woman", "child", "person", "face", "hair", "hand", "eye glasses", "hat", "shirt", "shoe", "bag"),
    *("car", "truck", "bus", "train", "bicycle", "motorcycle", "boat", "ship", "airplane", "rocket", "helicopter"),
    *("house", "door", "window", "bridge", "tower", "church", "road", "sign", "traffic light", "bench", "fence"),
    *("chair", "table", "sofa", "bed", "lamp", "clock", "phone", "computer", "keyboard", "television", "book"),
    *("cup", "bottle", "plate", "fork", "knife", "spoon", "bread", "cake", "pizza", "apple", "banana", "orange"),
    *("ball", "kite", "guitar", "piano", "umbrella", "camera", "mirror", "candle", "flag", "box", "key", "coin"),
)
FORMS = ("{}", *TEMPLATES)
IMAGE_STATISTIC = (0.5, 0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked for in a training picture, and whether it is there."""

    text: str
    is_present: bool


def draw_prompts(rng: np.random.Generator, *, label: int) -> tuple[Prompt, Prompt]:
    """Two prompts for one scene: one for its bird, one for what is not there."""
    words = GENERIC_WORDS if rng.random() < 0.5 else CLASS_WORDS[label]
    if rng.random() < 0.7:
        absent = str(rng.choice(ABSENT_WORDS))
    else:  # so that a word that was never seen is no bird
        absent = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), rng.integers(3, 10)))
    # The first word twice as often: of GENERIC_WORDS it is what the recipes ask for.
    present = words[0] if rng.random() < 2 / 3 else words[1]
    return Prompt(_phrase(rng, present), True), Prompt(_phrase(rng, absent), False)


def _phrase(rng: np.random.Generator, word: str) -> str:
    # The bare word is what a recipe asks for; it makes up half of the prompts.
    return (FORMS[0] if rng.random() < 0.5 else str(rng.choice(FORMS))).format(word)


def build_segmenter_tokenizer() -> CLIPTokenizer:
    """Tokenizer that knows the words of all prompts."""
    nouns = [*GENERIC_WORDS, *(word for words in CLASS_WORDS for word in words)]
    texts = [form.format(noun) for form in FORMS for noun in nouns]
    return build_tokenizer([*texts, *ABSENT_WORDS], max_tokens=MAX_TOKENS)


def build_segmenter(tokenizer: CLIPTokenizer) -> CLIPSegForImageSegmentation:
    """Untrained CLIPSeg of 0.8 M parameters."""
    config = CLIPSegConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": TEXT_WIDTH,
            "intermediate_size": 2 * TEXT_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": MAX_TOKENS,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": SIZE_PX,
            "patch_size": PATCH_PX,
        },
        projection_dim=TEXT_WIDTH,
        extract_layers=[0, 1, 2],
        reduce_dim=64,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=128,
    )
    segmenter = CLIPSegForImageSegmentation(config)
    for module in segmenter.clip.text_model.modules():
        if isinstance(module, torch.nn.Embedding):
            # As in the inpainter's text encoder: CLIP's deviation of 0.02 lets words differ too little.
            torch.nn.init.normal_(module.weight, std=0.5)
    return segmenter


def build_processor(tokenizer: CLIPTokenizer) -> CLIPSegProcessor:
    """Pictures to [-1, 1] at 64 px, and texts to tokens."""
    images = ViTImageProcessor(
        size={"height": SIZE_PX, "width": SIZE_PX},
        image_mean=list(IMAGE_STATISTIC),
        image_std=list(IMAGE_STATISTIC),
    )
    return CLIPSegProcessor(images, tokenizer)


def save_segmenter(folder: Path, segmenter: CLIPSegForImageSegmentation, tokenizer: CLIPTokenizer) -> None:
    """Writes the model in half precision with its processor; other files that the folder holds stay."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    copy.deepcopy(segmenter).cpu().half().save_pretrained(temporary, safe_serialization=True)
    build_processor(tokenizer).save_pretrained(temporary)
    put_in_place(temporary, folder, last="config.json")
