"""Learned tokens (textual inversion) as files, in the layout of diffusers' `learned_embeds.safetensors`.

One token a file, `{token: vector}`: what `load_textual_inversion` reads. The pools, the endpoint's store and the fit of
the tokens all read and write them here.
"""

# V vectors of a token, D width of the text encoder

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load, save

from raygen.endpoint.edits import LearnedToken
from raygen.errors import ModelError

FILE_NAME = "learned_embeds.safetensors"
NAME = re.compile(r"<[a-z0-9][a-z0-9._-]{0,62}>")
MAX_VECTORS = 64
MAX_FILE_BYTES = 16 << 20


def parse_token(name: str, data: bytes, *, stored_at: int = 0) -> LearnedToken:
    """The token in a safetensors file that holds one tensor, (D,) or (V, D), under whatever name.

    Raises:
        ModelError: It is no such file; the message begins with "it".
    """
    return _parse(name, data, stored_at)[1]


def read_tokens(paths: Mapping[str, str | Path]) -> dict[str, LearnedToken]:
    """Learned tokens by name, each from its own file, where it must stand under its name.

    Raises:
        ModelError: A file is absent, damaged, or holds another token.
    """
    tokens = {}
    for name, path in sorted(paths.items()):
        try:
            found, tokens[name] = _parse(name, Path(path).read_bytes(), 0)
        except FileNotFoundError as error:
            raise ModelError(f"learned token {name}: {path} is not there; run again to learn it anew") from error
        except ModelError as error:
            raise ModelError(f"learned token {name}: {path} cannot be used: {error}") from error
        if found != name:
            raise ModelError(f"learned token {name}: {path} holds '{found}' instead; was it put there by hand?")
    return tokens


def check_widths(tokens: Mapping[str, LearnedToken], *, width: int, model: str) -> None:
    """Checks that tokens fit a text encoder.

    Raises:
        ModelError: A token was learned for an encoder of another width.
    """
    for name, token in tokens.items():
        if token.vectors.shape[1] != width:
            raise ModelError(
                f"learned token {name} is {token.vectors.shape[1]} wide, but the text encoder of {model} takes "
                f"{width}: it was learned with another model"
            )


def token_bytes(name: str, vector_D: np.ndarray) -> bytes:
    """The file of a token; equal vectors give equal bytes."""
    return save({name: np.ascontiguousarray(vector_D, dtype=np.float32)}, metadata={"format": "pt"})


def _parse(name: str, data: bytes, stored_at: int) -> tuple[str, LearnedToken]:
    """The name in the file, and the token under the name that it is asked for by."""
    if len(data) > MAX_FILE_BYTES:
        raise ModelError(f"it has {len(data)} bytes; at most {MAX_FILE_BYTES} are allowed")
    found, tensor = _only_tensor(data)
    vectors_VD = np.atleast_2d(tensor)
    if vectors_VD.ndim != 2 or not vectors_VD.size:
        raise ModelError(f"its tensor has the shape {vectors_VD.shape}; expected (vectors, width)")
    if len(vectors_VD) > MAX_VECTORS:
        raise ModelError(f"it has {len(vectors_VD)} vectors; at most {MAX_VECTORS} are allowed")
    if not np.isfinite(vectors_VD).all():
        raise ModelError("it holds NaN or infinite numbers")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return found, LearnedToken(name=name, digest=digest, vectors=vectors_VD, loaded_at=stored_at)


def _only_tensor(data: bytes) -> tuple[str, np.ndarray]:
    try:
        tensors = deserialize(data)
    except SafetensorError as error:
        raise ModelError("it is not a safetensors file") from error
    if len(tensors) != 1:
        raise ModelError(f"it holds {len(tensors)} tensors; expected one")
    ((name, tensor),) = tensors
    kind = tensor["dtype"]
    if kind == "BF16":  # numpy has no bfloat16: its bits are the upper half of a float32
        bits = np.frombuffer(tensor["data"], dtype=np.uint16).astype(np.uint32) << 16
        return name, bits.view(np.float32).reshape(tensor["shape"])
    if kind not in {"F16", "F32", "F64"}:
        raise ModelError(f"its numbers are {kind}; expected F16, BF16, F32 or F64")
    return name, load(data)[name].astype(np.float32)
