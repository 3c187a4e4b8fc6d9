"""Who is asking: Bearer keys, of which only hashes are kept."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from raygen.errors import EndpointError
from serve.config import KeyConfig, Scope
from serve.http.limits import MAX_KEY_LENGTH


@dataclass(frozen=True, slots=True)
class Caller:
    """Who may do what.

    Attributes:
        name: Owner of jobs and of the allowance; for logs.
        scopes: "edit", "admin".
        requests_per_minute: Most edits in a minute; None for no limit.
    """

    name: str
    scopes: frozenset[Scope]
    requests_per_minute: int | None = None


# The caller of an endpoint without keys, which only a loopback address allows.
ANYBODY = Caller("anybody", frozenset({"edit", "admin"}))


def make_key() -> tuple[str, str]:
    """A new key of 256 random bits, and the SHA-256 that the config holds."""
    key = f"rg_{secrets.token_urlsafe(32)}"
    return key, hash_of(key)


def hash_of(key: str) -> str:
    """SHA-256 of a key, 64 hex digits.

    No salt and no slow hash: a key has 256 random bits, which nobody can try out.
    """
    return hashlib.sha256(key.encode()).hexdigest()


def authenticate(keys: Sequence[KeyConfig], authorization: Sequence[str]) -> Caller:
    """Who sent these Authorization headers.

    Args:
        keys: Who may use the endpoint; none: everybody.
        authorization: The request's Authorization headers.

    Raises:
        EndpointError: invalid_api_key.
    """
    if not keys:
        return ANYBODY
    if len(authorization) != 1:
        raise _refusal("a key is needed: send one header 'Authorization: Bearer KEY'")
    scheme, _, key = authorization[0].partition(" ")
    if scheme.lower() != "bearer" or not key or len(key) > MAX_KEY_LENGTH:
        raise _refusal("the Authorization header is not 'Bearer KEY'")
    given = hash_of(key.strip())
    # Every key is compared in constant time: the time of a refusal tells nothing about any.
    matches = [config for config in keys if hmac.compare_digest(config.sha256, given)]
    if not matches:
        raise _refusal("the key is not one of this endpoint's")
    found = matches[0]
    return Caller(found.name, frozenset(found.scopes), found.requests_per_minute)


def require(caller: Caller, scope: Scope) -> None:
    """Checks that a caller may do what needs a scope; "admin" includes "edit".

    Raises:
        EndpointError: permission_denied.
    """
    if scope not in caller.scopes and "admin" not in caller.scopes:
        raise EndpointError(f"the key lacks the scope '{scope}'", code="permission_denied")


def _refusal(message: str) -> EndpointError:
    return EndpointError(message, code="invalid_api_key")
