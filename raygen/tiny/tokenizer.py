"""A byte-level CLIP tokenizer with a vocabulary for the tiny models' texts; nothing is downloaded.

Words outside these texts are still spelled, byte by byte.
"""

import json
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from raygen.datasets.scene_rendering import CLASS_NAMES
from raygen.tiny.world import GENERIC_NOUN, PLACES, TEMPLATES

MAX_TOKENS = 16
# How CLIP splits text into words (Radford et al. 2021, the tokenizer's reference code).
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def build_tokenizer(texts: Sequence[str] = (), *, max_tokens: int = MAX_TOKENS) -> CLIPTokenizer:
    """Tokenizer that knows every word of the texts as one token; by default those of the inpainter's captions."""
    merges = _learn_merges(texts or _captions())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    # transformers 5 ignores vocab_file= and merges_file= without a word and ends up with two tokens.
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_tokens)


def _learn_merges(texts: Sequence[str]) -> list[tuple[str, str]]:
    bpe = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        special_tokens=[],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    return [(pair[0], pair[1]) if isinstance(pair, list) else tuple(pair.split()) for pair in merges]


def _captions() -> list[str]:
    nouns = (GENERIC_NOUN, *CLASS_NAMES)
    texts = [template.format(noun) for template in TEMPLATES for noun in nouns]
    return texts + [place for places in PLACES for place in places]
