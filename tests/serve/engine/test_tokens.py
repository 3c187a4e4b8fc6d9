"""Learned tokens as files: what is stored, what is refused, what a reader sees."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from safetensors.torch import save as save_torch

from raygen.errors import EndpointError
from raygen.inpainters.token_files import MAX_VECTORS
from serve.engine.tokens import TokenStore

WIDTH = 8


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "tokens", "m")


def token_file(*shape: int, value: float = 1.0, dtype: type = np.float32) -> bytes:
    return save({"<t>": np.full(shape, value, dtype)})


def refusal(store: TokenStore, data: bytes, *, name: str = "<t>", width: int | None = WIDTH) -> str:
    with pytest.raises(EndpointError) as error:
        store.put(name, data, width=width)
    assert error.value.code == "invalid_token"
    return str(error.value)


def test_what_was_stored_is_there_for_another_reader(store: TokenStore, tmp_path: Path) -> None:
    data = token_file(2, WIDTH, value=3)
    put = store.put("<bird-1>", data, width=WIDTH)
    other = TokenStore(tmp_path / "tokens", "m").get("<bird-1>")
    assert other is not None
    assert other.digest == put.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert np.array_equal(other.vectors, np.full((2, WIDTH), 3))
    assert [token.name for token in store.all()] == ["<bird-1>"]
    assert TokenStore(tmp_path / "tokens", "another model").all() == []


def test_a_new_file_under_a_name_is_seen_and_a_deleted_one_is_gone(store: TokenStore, tmp_path: Path) -> None:
    reader = TokenStore(tmp_path / "tokens", "m")
    store.put("<t>", token_file(1, WIDTH, value=1), width=WIDTH)
    first = reader.get("<t>")
    store.put("<t>", token_file(1, WIDTH, value=2), width=WIDTH)
    second = reader.get("<t>")
    assert first is not None
    assert second is not None
    assert (first.vectors[0, 0], second.vectors[0, 0]) == (1, 2)
    assert store.delete("<t>")
    assert reader.get("<t>") is None
    assert not store.delete("<t>")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_all_kinds_of_floats_are_read(store: TokenStore, dtype: torch.dtype) -> None:
    values = torch.tensor([[1.5, -2.0] * (WIDTH // 2)], dtype=dtype)
    token = store.put("<t>", save_torch({"anything": values}), width=WIDTH)
    assert token.vectors.dtype == np.float32
    assert np.array_equal(token.vectors, values.float().numpy())


def test_one_flat_vector_is_one_vector(store: TokenStore) -> None:
    assert store.put("<t>", token_file(WIDTH), width=WIDTH).vectors.shape == (1, WIDTH)


def test_what_is_not_a_token_is_refused(store: TokenStore) -> None:
    assert "not a safetensors file" in refusal(store, b"\x80\x04pickle")
    assert "not a safetensors file" in refusal(store, b"")
    assert "2 tensors" in refusal(store, save({"a": np.ones(WIDTH, np.float32), "b": np.ones(WIDTH, np.float32)}))
    assert f"are {WIDTH + 1} wide" in refusal(store, token_file(1, WIDTH + 1))
    assert f"{MAX_VECTORS + 1} vectors" in refusal(store, token_file(MAX_VECTORS + 1, WIDTH))
    assert "NaN" in refusal(store, token_file(1, WIDTH, value=np.nan))
    assert "NaN" in refusal(store, token_file(1, WIDTH, value=np.inf))
    assert "shape" in refusal(store, token_file(1, 1, WIDTH))
    assert "I64" in refusal(store, token_file(1, WIDTH, dtype=np.int64))
    assert store.all() == []


@pytest.mark.parametrize(
    "name", ["bird", "<>", "<Bird>", "<../x>", "<a/b>", "<.hidden>", "<-x>", "<a\n>", "<" + "a" * 64 + ">"]
)
def test_a_name_cannot_leave_the_folder(store: TokenStore, tmp_path: Path, name: str) -> None:
    assert "name" in refusal(store, token_file(1, WIDTH), name=name)
    assert not list(tmp_path.rglob("*.safetensors"))
