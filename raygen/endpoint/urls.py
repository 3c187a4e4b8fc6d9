"""Addresses of endpoints: what one must look like, and the proxy of the environment that a request would go through.

Loopback never goes through a proxy: no proxy leads back to this machine. For everything else the variables hold that
curl and every HTTP client read. The choice is made here, and not left to the client, so that errors can name it.
"""

import functools
import os
import re
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import httpx2

from raygen.errors import EndpointError

SCHEMES = {"http", "https"}
_OUR_OWN = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)
# Everything up to the last "@" is who asks, and with which password.
_CREDENTIALS = re.compile(r"^((?:[A-Za-z][A-Za-z0-9+.-]*://)?).*@", re.DOTALL)


@dataclass(frozen=True, slots=True)
class EnvironmentProxy:
    """A proxy that the environment names.

    Attributes:
        variable: Where: "http_proxy", "HTTPS_PROXY" …
        value: What it says.
        host: Of the endpoint that would be asked through it.
    """

    variable: str
    value: str
    host: str

    def __str__(self) -> str:
        """For messages; without credentials."""
        return f"the proxy of the environment variable {self.variable} ({shown(self.value)})"

    @property
    def advice(self) -> str:
        """The way around it."""
        return f"if {self.host} is reached directly, add it to NO_PROXY or unset {self.variable}"


def shown(url: str) -> str:
    """A URL for messages: without credentials."""
    return _CREDENTIALS.sub(r"\1", url)


def check_http_url(url: str) -> None:
    """Checks the address of an endpoint.

    Raises:
        ValueError: It has no host or one that no name server takes, a port that is none, another scheme, an IPv6
            address without brackets, white space, or something after the path.
    """
    try:
        if any(letter.isspace() for letter in url):
            raise ValueError("there is white space in it")
        parts = urlsplit(url)
        place = parts.netloc.rpartition("@")[2]
        if place.count(":") > 1 and "[" not in place:
            raise ValueError("an IPv6 address stands in brackets: http://[::1]:8000")
        host, port = parts.hostname, parts.port  # ValueError: no number, or above 65535
        _check_name(httpx2.URL(url).raw_host.decode())
        if parts.query or parts.fragment:
            raise ValueError("nothing follows the path, no ? and no #")
    except (ValueError, httpx2.InvalidURL) as error:
        raise ValueError(f"{shown(url)!r} is no address: {error}") from error
    if parts.scheme not in SCHEMES or not host or port == 0:
        raise ValueError(f"{shown(url)!r} is no address; expected http://HOST:PORT or https://HOST:PORT")


def _check_name(host: str) -> None:
    try:
        host.encode("idna")  # as looking it up does, whose error is none of httpx2's
    except UnicodeError:
        raise ValueError("a part of the host's name is empty or too long") from None


def proxy_for(url: str) -> EnvironmentProxy | None:
    """The proxy that the environment names for a URL; None for loopback and for what NO_PROXY names."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if _is_this_machine(host):
        return None
    proxies = getproxies_environment()
    value = proxies.get(parts.scheme) or proxies.get("all")
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    if not value or proxy_bypass(netloc, proxies) or _is_in_network(host, proxies.get("no", "")):
        return None
    kind = parts.scheme if proxies.get(parts.scheme) else "all"
    names = [name for name in (f"{kind}_proxy", f"{kind}_proxy".upper()) if os.environ.get(name)]
    return EnvironmentProxy(names[0] if names else f"{kind}_proxy", value, host)


def client_options(url: str) -> dict[str, Any]:
    """What to give an `httpx2` client for an endpoint: its address, and the proxy that `proxy_for` names.

    Raises:
        EndpointError: The address is none, or the proxy cannot be used.
    """
    try:
        check_http_url(url)
    except ValueError as error:
        raise EndpointError(str(error), code="invalid_url", param="url") from error
    options: dict[str, Any] = {"base_url": url, "trust_env": False, "verify": _certificates()}
    proxy = proxy_for(url)
    if proxy is not None:
        address = proxy.value if "://" in proxy.value else f"http://{proxy.value}"
        try:
            options["proxy"] = httpx2.Proxy(address)
            httpx2.Client(**options).close()
        except (ValueError, ImportError, httpx2.InvalidURL) as error:
            raise EndpointError(
                f"{shown(url)} would be asked through {proxy}, which cannot be used ({_reason(error)}); {proxy.advice}",
                code="connection_error",
            ) from error
    return options


def no_answer(url: str, error: httpx2.RequestError) -> EndpointError:
    """The error of a request that got no answer, or none that can be read.

    What is wrong with the request itself, or with what answers, is as wrong the next time: not retryable.
    """
    proxy, kind = proxy_for(url), type(error).__name__
    way = "" if proxy is None else f" through {proxy}; {proxy.advice}"
    if isinstance(error, _OUR_OWN):  # without the error's text, which may quote a key
        return EndpointError(f"the request to {shown(url)} cannot be sent ({kind})", code="invalid_request")
    if isinstance(error, httpx2.DecodingError):
        return with_proxy_named(no_endpoint(url), url, None)
    return EndpointError(f"{shown(url)} does not answer ({kind}){way}", code="connection_error", retryable=True)


def no_endpoint(url: str) -> EndpointError:
    """The error of an answer that is no raygen endpoint's: a proxy's page, or another server's."""
    return EndpointError(f"what answers at {shown(url)} is no raygen endpoint", code="invalid_response")


def with_proxy_named(error: EndpointError, url: str, body: Any) -> EndpointError:
    """An error that an answer told of; where its body is not an endpoint's, the proxy may be who answered."""
    proxy = proxy_for(url)
    if proxy is None or (isinstance(body, dict) and isinstance(body.get("error"), dict)):
        return error
    return EndpointError(
        f"{error}, asked through {proxy}, which may be who answered; {proxy.advice}",
        code=error.code,
        param=error.param,
        retryable=error.retryable,
        retry_after_s=error.retry_after_s,
    )


@functools.cache
def _certificates() -> ssl.SSLContext:
    # SSL_CERT_FILE holds, proxy or not. A client of its own for each request would read the file each time, 20 ms.
    return httpx2.create_ssl_context()


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "a SOCKS proxy takes the package socksio"
    return "its scheme is none of http, https, socks5 and socks5h"


def _is_this_machine(host: str) -> bool:
    name = host.removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):  # RFC 6761
        return True
    try:
        address = ip_address(host)
    except ValueError:
        try:  # as every connection reads it: 127.1, 2130706433
            address = ip_address(socket.inet_aton(name))
        except (OSError, ValueError):
            return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _is_in_network(host: str, no_proxy: str) -> bool:
    """Whether NO_PROXY has a network of the host, such as 10.0.0.0/8, which the standard library does not read."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        try:
            if "/" in entry and address in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False
