"""Prompts to embeddings: what diffusers' pipelines do, without its silences.

diffusers cuts a prompt that is too long and reads an unknown learned token as plain letters. Here both are visible
before anything is encoded. Learned tokens (textual inversion, Gal et al. 2022, arXiv 2208.01618) are put in place of
single calls: neither the tokenizer nor the embedding table is ever changed, so one request cannot disturb another.
"""

# T tokens of a prompt, V vectors of a learned token, D width of the text encoder

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

# A learned token in a prompt; `@sha256:…` pins the file that it comes from.
TOKEN = re.compile(r"<([a-z0-9][a-z0-9._-]{0,62})(?:@sha256:([0-9a-f]{4,64}))?>")
MAX_CACHED = 256


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
    """

    def __init__(self, tokenizer: Any, text_encoder: Any, *, device: str, dtype: torch.dtype) -> None:
        self._tokenizer, self._text_encoder, self._device, self._dtype = tokenizer, text_encoder, device, dtype
        self._cached: OrderedDict[str, torch.Tensor] = OrderedDict()
        self.width = int(text_encoder.config.hidden_size)
        self._added = frozenset(tokenizer.get_added_vocab())

    def token_names(self, prompt: str) -> list[tuple[str, str | None]]:
        """Learned tokens that a prompt names and the model does not bring along: name and pinned digest of each."""
        found = [(f"<{match[1]}>", match[2]) for match in TOKEN.finditer(prompt)]
        return [(name, pin) for name, pin in dict.fromkeys(found) if pin or name not in self._added]

    def tokenize(self, prompt: str, learned: Mapping[str, np.ndarray] | None = None) -> TokenizedPrompt:
        """The ids of a prompt.

        Args:
            prompt: The text.
            learned: Vectors by token name, (V, D) each; names that are not in it are plain text.
        """
        tokenizer = self._tokenizer
        ids: list[int] = [tokenizer.bos_token_id]
        vectors: dict[int, torch.Tensor] = {}
        end = 0
        for match in TOKEN.finditer(prompt):
            table_VD = (learned or {}).get(f"<{match[1]}>")
            if table_VD is None:
                continue
            ids += self._plain(prompt[end : match.start()])
            for vector_D in torch.from_numpy(np.array(table_VD)):
                vectors[len(ids)] = vector_D
                ids.append(0)
            end = match.end()
        ids += self._plain(prompt[end:])
        max_length = int(tokenizer.model_max_length)
        dropped = ids[max_length - 1 :]
        word = (tokenizer.decode(dropped).split() or ["<…>"])[0] if dropped else None
        return TokenizedPrompt((*ids, tokenizer.eos_token_id), vectors, max_length, word)

    @torch.inference_mode()
    def encode(self, prompt: TokenizedPrompt) -> torch.Tensor:
        """Embedding, (1, T, D); what does not fit is left out."""
        tokenizer = self._tokenizer
        ids = [*prompt.ids[:-1][: prompt.max_length - 1], prompt.ids[-1]]
        num_padding = prompt.max_length - len(ids)
        attention = [1] * len(ids) + [0] * num_padding
        ids += [tokenizer.pad_token_id] * num_padding
        uses_mask = getattr(self._text_encoder.config, "use_attention_mask", False)
        mask_1T = torch.tensor([attention], device=self._device) if uses_mask else None

        def put_learned(module: torch.nn.Module, inputs: Any, output_1TD: torch.Tensor) -> torch.Tensor:
            output_1TD = output_1TD.clone()
            for position, vector_D in prompt.vectors.items():
                if position < prompt.max_length - 1:
                    output_1TD[0, position] = vector_D.to(output_1TD)
            return output_1TD

        handle = self._text_encoder.get_input_embeddings().register_forward_hook(put_learned)
        try:
            embedding = self._text_encoder(torch.tensor([ids], device=self._device), attention_mask=mask_1T)[0]
        finally:
            handle.remove()
        result: torch.Tensor = embedding.to(self._dtype)
        return result

    def encode_plain(self, prompt: str) -> torch.Tensor | None:
        """Embedding of a prompt without learned tokens, (1, T, D), remembered; None if it is too long."""
        if prompt not in self._cached:
            tokenized = self.tokenize(prompt)
            if tokenized.first_dropped is not None:
                return None
            self._cached[prompt] = self.encode(tokenized)
            if len(self._cached) > MAX_CACHED:
                self._cached.popitem(last=False)
        self._cached.move_to_end(prompt)
        return self._cached[prompt]

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, truncation=False).input_ids
        return ids
