"""Prompts to embeddings: what diffusers' pipelines do, without its silences.

diffusers cuts a prompt that is too long and reads an unknown learned token as plain letters. Here both are visible
before anything is encoded. Learned tokens (textual inversion, Gal et al. 2022, arXiv 2208.01618) are put in place of
single calls: neither the tokenizer nor the embedding table is ever changed, so one request cannot disturb another.
"""

# B prompts, T tokens of a prompt, V vectors of a learned token, D width of the text encoder

import re
from collections import OrderedDict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# What names a learned token, rightly or not: everything between < and > on one line, without a space beside either.
# Wider than the names that can be stored (`token_files.NAME`): <Bird-1>, <lora:bird:1> and <cat toy> are meant as
# tokens too, and would be read as letters. The spaces leave comparisons alone: "3 < 4 > 2", "I <3 birds".
_MENTION = re.compile(r"<([^<>\s](?:[^<>\r\n]*[^<>\s])?)>")
# `@sha256:…` pins the file that a token comes from.
_PINNED = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})@sha256:([0-9a-f]{4,64})")
MAX_CACHED = 256


@dataclass(frozen=True, slots=True)
class TokenMention:
    """A place in a prompt that names a learned token.

    Attributes:
        name: With its brackets: "<bird-1>"; a name that no token can have, where that is what was written.
        pin: First hex digits of the SHA-256 of its file, or None.
        start: Where it begins in the prompt.
        end: Where it ends.
    """

    name: str
    pin: str | None
    start: int
    end: int


def token_mentions(prompt: str) -> Iterator[TokenMention]:
    """Every place of a prompt that names a learned token, in order, whether or not there is such a token."""
    for match in _MENTION.finditer(prompt):
        pinned = _PINNED.fullmatch(match[1])
        name, pin = (pinned[1], pinned[2]) if pinned else (match[1], None)
        yield TokenMention(f"<{name}>", pin, match.start(), match.end())


def unknown_tokens(prompt: str, known: Container[str]) -> list[str]:
    """Names of the learned tokens that a prompt names and that are not known, in order; they would be read as letters.

    Args:
        prompt: The text.
        known: Names with their brackets.
    """
    return [mention.name for mention in token_mentions(prompt) if mention.name not in known]


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt as the text encoder will read it.

    Attributes:
        ids: Token ids with start and end, not cut and not padded; 0 where a learned vector stands.
        vectors: Learned vectors, (D,) each, by position in `ids`.
        max_length: Most ids that the text encoder reads, start and end included.
        first_dropped: First word that does not fit, or None.
    """

    ids: tuple[int, ...]
    vectors: dict[int, torch.Tensor]
    max_length: int
    first_dropped: str | None

    @property
    def num_tokens(self) -> int:
        """Tokens without start and end."""
        return len(self.ids) - 2


class PromptEncoder:
    """Tokenizer and text encoder of a pipeline.

    Args:
        tokenizer: A CLIP tokenizer.
        text_encoder: A CLIP text model.
        device: Where it runs.
        dtype: Of the embeddings.
        learned: Its own learned tokens, vectors by name, (V, D) each.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        *,
        device: str,
        dtype: torch.dtype,
        learned: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._tokenizer, self._text_encoder, self._device, self._dtype = tokenizer, text_encoder, device, dtype
        self._learned = dict(learned or {})
        self._cached: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.width = int(text_encoder.config.hidden_size)
        self._added = frozenset(tokenizer.get_added_vocab())

    def token_names(self, prompt: str) -> list[tuple[str, str | None]]:
        """Learned tokens that a prompt names and the model does not bring along: name and pinned digest of each."""
        found = [(mention.name, mention.pin) for mention in token_mentions(prompt)]
        return [(name, pin) for name, pin in dict.fromkeys(found) if pin or name not in self._added]

    def tokenize(self, prompt: str, learned: Mapping[str, np.ndarray | torch.Tensor] | None = None) -> TokenizedPrompt:
        """The ids of a prompt; see `tokenize`. Without `learned`, the encoder's own learned tokens."""
        return tokenize(self._tokenizer, prompt, self._learned if learned is None else learned)

    @torch.inference_mode()
    def encode(self, prompt: TokenizedPrompt) -> torch.Tensor:
        """Embedding, (1, T, D); what does not fit is left out."""
        return self.embed([prompt])

    def embed(self, prompts: Sequence[TokenizedPrompt]) -> torch.Tensor:
        """Embeddings, (B, T, D); gradients reach learned vectors that ask for them. What does not fit is left out."""
        rows = [self._padded(prompt) for prompt in prompts]
        ids_BT, attention_BT = (torch.tensor(column, device=self._device) for column in zip(*rows, strict=True))
        uses_mask = getattr(self._text_encoder.config, "use_attention_mask", False)

        def put_learned(module: torch.nn.Module, inputs: Any, output_BTD: torch.Tensor) -> torch.Tensor:
            output_BTD = output_BTD.clone()
            for row, prompt in enumerate(prompts):
                for position, vector_D in prompt.vectors.items():
                    if position < prompt.max_length - 1:
                        output_BTD[row, position] = vector_D.to(output_BTD)
            return output_BTD

        handle = self._text_encoder.get_input_embeddings().register_forward_hook(put_learned)
        try:
            embedding = self._text_encoder(ids_BT, attention_mask=attention_BT if uses_mask else None)[0]
        finally:
            handle.remove()
        result: torch.Tensor = embedding.to(self._dtype)
        return result

    def encode_plain(self, prompt: str) -> torch.Tensor | None:
        """Embedding of a prompt with no learned tokens but the encoder's own, (1, T, D); None if it is too long.

        It is remembered.
        """
        if prompt not in self._cached:
            tokenized = self.tokenize(prompt)
            if tokenized.first_dropped is not None:
                return None
            self._cached[prompt] = self.encode(tokenized)
            if len(self._cached) > MAX_CACHED:
                self._cached.popitem(last=False)
        self._cached.move_to_end(prompt)
        return self._cached[prompt]

    def _padded(self, prompt: TokenizedPrompt) -> tuple[list[int], list[int]]:
        """Ids and attention of a prompt, (T,) each."""
        ids = [*prompt.ids[:-1][: prompt.max_length - 1], prompt.ids[-1]]
        num_padding = prompt.max_length - len(ids)
        return ids + [self._tokenizer.pad_token_id] * num_padding, [1] * len(ids) + [0] * num_padding


def tokenize(tokenizer: Any, prompt: str, learned: Mapping[str, np.ndarray | torch.Tensor]) -> TokenizedPrompt:
    """The ids of a prompt.

    Args:
        tokenizer: A CLIP tokenizer.
        prompt: The text.
        learned: Vectors by token name, (V, D) each; names that are not in it are plain text.
    """
    ids: list[int] = [tokenizer.bos_token_id]
    vectors: dict[int, torch.Tensor] = {}

    def add_plain(text: str) -> None:
        ids.extend(tokenizer(text, add_special_tokens=False, truncation=False).input_ids)

    end = 0
    for mention in token_mentions(prompt):
        table_VD = learned.get(mention.name)
        if table_VD is None:
            continue
        add_plain(prompt[end : mention.start])
        for vector_D in table_VD if isinstance(table_VD, torch.Tensor) else torch.from_numpy(np.array(table_VD)):
            vectors[len(ids)] = vector_D
            ids.append(0)
        end = mention.end
    add_plain(prompt[end:])
    max_length = int(tokenizer.model_max_length)
    dropped = ids[max_length - 1 :]
    word = (tokenizer.decode(dropped).split() or ["<…>"])[0] if dropped else None
    return TokenizedPrompt((*ids, tokenizer.eos_token_id), vectors, max_length, word)
