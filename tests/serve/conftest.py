"""Running endpoints with the painting back end; one server serves all tests of a session."""

from collections.abc import Iterator

import pytest
from paint_backend import Running, running

from serve.config import KeyConfig
from serve.http.keys import hash_of

EDIT_KEY, ADMIN_KEY, OTHER_KEY, SLOW_KEY = "rg_edit", "rg_admin", "rg_other", "rg_slow"


@pytest.fixture(scope="session")
def _open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("tokens")) as server:
        yield server


@pytest.fixture(scope="session")
def _keyed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    keys = [
        KeyConfig(name="editor", sha256=hash_of(EDIT_KEY)),
        KeyConfig(name="admin", sha256=hash_of(ADMIN_KEY), scopes=("admin",)),
        KeyConfig(name="other", sha256=hash_of(OTHER_KEY)),
        KeyConfig(name="slow", sha256=hash_of(SLOW_KEY), requests_per_minute=2),
    ]
    with running(tmp_path_factory.mktemp("tokens"), keys) as server:
        yield server


@pytest.fixture
def endpoint(_open_server: Running) -> Running:
    """An endpoint without keys."""
    _open_server.backend.reset()
    return _open_server


@pytest.fixture
def keyed(_keyed_server: Running) -> Running:
    """An endpoint with the keys above."""
    _keyed_server.backend.reset()
    return _keyed_server


@pytest.fixture
def edit_key() -> dict[str, str]:
    """Headers of a key that may edit."""
    return {"authorization": f"Bearer {EDIT_KEY}"}


@pytest.fixture
def other_key() -> dict[str, str]:
    """Headers of somebody else who may edit."""
    return {"authorization": f"Bearer {OTHER_KEY}"}


@pytest.fixture
def admin_key() -> dict[str, str]:
    """Headers of a key that may store tokens."""
    return {"authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
def slow_key() -> dict[str, str]:
    """Headers of a key with two requests a minute."""
    return {"authorization": f"Bearer {SLOW_KEY}"}
