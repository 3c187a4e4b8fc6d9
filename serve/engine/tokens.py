"""Learned tokens (textual inversion) as files: `<folder>/<model>/<name>.safetensors`, in diffusers' layout.

Every replica reads a token when a request first names it, so a new replica needs no history, and a file that changes
under its name is seen at the next request, while requests under way keep the old vectors.
"""

# V vectors of a token, D width of the text encoder

from collections import OrderedDict
from pathlib import Path

from raygen.endpoint.edits import LearnedToken
from raygen.errors import EndpointError, ModelError
from raygen.inpainters.token_files import NAME, parse_token
from raygen.storage.writing import atomic

MAX_CACHED = 256
_SUFFIX = ".safetensors"


class TokenStore:
    """The tokens of one model.

    Args:
        folder: Folder of all tokens, shared by all nodes.
        model_id: The model.
    """

    def __init__(self, folder: Path, model_id: str) -> None:
        self._folder = folder.expanduser() / model_id
        self._cached: OrderedDict[tuple[str, int, int], LearnedToken] = OrderedDict()

    @property
    def num_cached(self) -> int:
        """Tokens that are in memory."""
        return len(self._cached)

    def all(self) -> list[LearnedToken]:
        """Every stored token, by name."""
        names = sorted(path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))
        return [token for name in names if (token := self.get(f"<{name}>")) is not None]

    def get(self, name: str) -> LearnedToken | None:
        """The token as it is stored now, or None."""
        path = self._path(name)
        try:
            stat = path.stat()
            key = (name, stat.st_mtime_ns, stat.st_size)
            if key not in self._cached:
                self._cached[key] = _read(name, path.read_bytes(), int(stat.st_mtime))
        except FileNotFoundError:
            return None
        self._cached.move_to_end(key)
        while len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)
        return self._cached[key]

    def put(self, name: str, data: bytes, *, width: int | None) -> LearnedToken:
        """Stores a token.

        Args:
            name: "<bird-1>".
            data: A safetensors file that holds one tensor, (D,) or (V, D).
            width: D of the model's text encoder, if it is known.

        Raises:
            EndpointError: invalid_token.
        """
        token = _read(name, data, 0)
        if width is not None and token.vectors.shape[1] != width:
            raise _invalid(f"its vectors are {token.vectors.shape[1]} wide; this model's text encoder takes {width}")
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic(self._path(name)) as temporary:
            temporary.write_bytes(data)
        stored = self.get(name)
        assert stored is not None
        return stored

    def delete(self, name: str) -> bool:
        """Whether there was one."""
        try:
            self._path(name).unlink()
        except FileNotFoundError:
            return False
        return True

    def _path(self, name: str) -> Path:
        # The pattern has no slash and no leading dot: a name cannot leave the folder.
        if not NAME.fullmatch(name):
            raise EndpointError(
                "a token's name is <…>: 1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit",
                code="invalid_token",
                param="name",
            )
        return self._folder / f"{name[1:-1]}{_SUFFIX}"


def _read(name: str, data: bytes, stored_at: int) -> LearnedToken:
    try:
        return parse_token(name, data, stored_at=stored_at)
    except ModelError as error:
        raise _invalid(str(error)) from error


def _invalid(what: str) -> EndpointError:
    return EndpointError(f"the learned token cannot be used: {what}", code="invalid_token")
