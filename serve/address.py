"""Where the endpoint listens: is the address to be had, and as which URL people reach it. No Ray here."""

import errno
import socket
from ipaddress import ip_address

from raygen.errors import ConfigError


def check_host(host: str) -> None:
    """Checks that an endpoint without keys is reached from this machine only.

    Raises:
        ConfigError: The address is not a loopback address.
    """
    if not is_loopback(host):
        raise ConfigError(
            f"the endpoint has no keys, so it may only listen on a loopback address, not on {host}. Make a key with "
            "`raygen key NAME`, put its line under `keys` in the config, and start again."
        )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine's own loopback, by name or address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_address(host: str, port: int) -> None:
    """Checks that this machine can listen there, by doing so for a moment.

    Ray's proxies would find out only once the cluster has started, in another process.

    Raises:
        ConfigError: The port is taken or not allowed, or the host is not this machine's or unknown.
    """
    if not host:
        raise ConfigError("--host is empty; 127.0.0.1 is this machine alone, 0.0.0.0 every address of it")
    try:
        # As Ray's proxies do it: IPv6 for an IPv6 address, IPv4 for everything else.
        with socket.socket(socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET, socket.SOCK_STREAM) as listener:
            # A port whose last connections have just been closed is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(1)
    except socket.gaierror as error:
        raise ConfigError(
            f"--host {host}: no IPv4 address is known for that name ({error.strerror}); give an address of this "
            "machine, such as 127.0.0.1"
        ) from error
    except OSError as error:
        raise ConfigError(why_not(host, port, error)) from error


def why_not(host: str, port: int, error: OSError) -> str:
    """Why this machine cannot listen there, and the way out."""
    place = netloc(host, port)
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place} is in use by another program; give another --port, or end that program "
            f"(`ss -ltnp 'sport = :{port}'` names it)"
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{place}: this user may not listen on port {port}; give a --port from 1024 on"
    if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
        return (
            f"{place}: {host} is not an address of this machine; give one that is (`ip address` lists them), or "
            "127.0.0.1 for this machine alone"
        )
    return f"{place}: this machine cannot listen there: {error.strerror}"


def url_of(host: str, port: int) -> str:
    """The URL of a host and port; a wildcard address is reached at the loopback address of its kind."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{netloc(host, port)}"


def netloc(host: str, port: int) -> str:
    """Host and port as one word, an IPv6 address in brackets, its zone escaped (RFC 3986, RFC 6874)."""
    return f"[{host.replace('%', '%25')}]:{port}" if _is_ipv6(host) else f"{host}:{port}"


def _is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False
