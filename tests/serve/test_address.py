"""Where the endpoint can listen, and as which URL it is told."""

import errno
import socket
from collections.abc import Iterator

import pytest

from raygen.errors import ConfigError
from serve.address import check_address, is_loopback, url_of, why_not


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that another program listens on, at every address."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        yield listener.getsockname()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_a_port_in_use_is_named_with_the_way_out(taken: int, host: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_address(host, taken)
    text = str(caught.value)
    assert text.startswith(f"{host}:{taken} is in use by another program; give another --port")
    assert "\n" not in text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.7", "192.0.2.7 is not an address of this machine"),  # TEST-NET-1: nobody's
        ("2001:db8::7", r"\[2001:db8::7\]:\d+: 2001:db8::7 is not an address of this machine"),
        ("no-such-host.invalid", "no IPv4 address is known for that name"),
        ("", "--host is empty"),
    ],
)
def test_an_address_that_is_not_to_be_had(host: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_address(host, free_port())


def test_a_privileged_port_and_whatever_else_the_system_says() -> None:
    """As another user than root would see it."""
    denied = why_not("127.0.0.1", 80, OSError(errno.EACCES, "Permission denied"))
    assert denied == "127.0.0.1:80: this user may not listen on port 80; give a --port from 1024 on"
    assert "[::1]:80: this machine cannot listen there: No buffer" in why_not("::1", 80, OSError(1055, "No buffer"))


def test_a_port_is_free_after_the_check_and_after_its_last_connection(taken: int) -> None:
    port = free_port()
    for _ in range(2):
        check_address("127.0.0.1", port)
    with socket.create_server(("127.0.0.1", port)) as listener, socket.create_connection(("127.0.0.1", port)):
        listener.accept()[0].close()  # leaves the port in TIME_WAIT
    check_address("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("raygen.local", "http://raygen.local:8000"),
        ("::1", "http://[::1]:8000"),
        ("fe80::1%eth0", "http://[fe80::1%25eth0]:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
    ],
)
def test_the_url_can_be_used(host: str, url: str) -> None:
    assert url_of(host, 8000) == url


@pytest.mark.parametrize(("host", "is_so"), [("::1", True), ("127.9.9.9", True), ("0.0.0.0", False), ("127.1", False)])
def test_loopback(host: str, is_so: bool) -> None:
    assert is_loopback(host) == is_so
