"""Addresses of endpoints and the environment's proxies: who is asked through one, and what is said when it fails."""

import asyncio
import base64
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from raygen.config import validate
from raygen.endpoint.http import connect_http
from raygen.endpoint.retry import ask_blocking
from raygen.endpoint.urls import proxy_for
from raygen.errors import ConfigError, EndpointError
from raygen.images import encode_image
from raygen.inpainters import InpainterConfig
from serve.client import Client

VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
DEAD = "http://anna:se%2Fcret@127.0.0.1:9"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "REQUEST_METHOD", "RAYGEN_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Page(http.server.BaseHTTPRequestHandler):
    """A proxy's own error page, and a count of who came."""

    asked: ClassVar[list[str]] = []
    keys: ClassVar[list[str | None]] = []
    status = 403
    more_headers: ClassVar[dict[str, str]] = {}
    page = b"<html>blocked</html>"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.asked.append(self.path)
        self.keys.append(self.headers.get("authorization"))
        self.send_response(self.status)
        for name, value in self.more_headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.page)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def page() -> Iterator[str]:
    Page.asked.clear()
    Page.keys.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.3.2.1",
        "localhost",
        "raygen.localhost",
        "[::1]",
        "0.0.0.0",
        "localhost.",
        "127.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
    ],
)
def test_loopback_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch, variable: str, host: str) -> None:
    monkeypatch.setenv(variable, DEAD)
    assert proxy_for(f"http://{host}:8000") is None
    assert proxy_for("http://10.1.2.3:8000") is not None


@pytest.mark.parametrize(
    ("no_proxy", "is_asked_through_it"),
    [
        ("", True),
        ("other.org", True),
        ("10.1.2.3", False),
        ("10.1.2.3:8000", False),
        ("10.1.2.3:9", True),
        ("10.0.0.0/8", False),
        ("11.0.0.0/8, nonsense/x", True),
        ("a, 10.1.2.3 ,b", False),
        ("*", False),
    ],
)
def test_no_proxy(monkeypatch: pytest.MonkeyPatch, no_proxy: str, is_asked_through_it: bool) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for("http://10.1.2.3:8000") is not None) == is_asked_through_it


def test_the_scheme_has_its_own_variable_and_small_letters_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "all:1")
    monkeypatch.setenv("HTTPS_PROXY", "big:1")
    names = [getattr(proxy_for(f"{scheme}://a.org"), "variable", None) for scheme in ("http", "https")]
    assert names == ["ALL_PROXY", "HTTPS_PROXY"]
    monkeypatch.setenv("https_proxy", "small:1")
    assert str(proxy_for("https://a.org")) == "the proxy of the environment variable https_proxy (small:1)"


def ask(kind: str, url: str, **more: Any) -> None:
    """One request by the pool's client or the Python client."""
    if kind == "pool":
        ask_blocking(connect_http(url).facts, "tiny")
    else:
        image_HWC, mask_HW = np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool)
        request = {"image": image_HWC, "mask": mask_HW, "prompt": "a", "seed": 1, **more}
        client = Client(url, patience_s=0)
        list(client.map([request])) if kind == "map" else asyncio.run(client.edit(**request))


def failure(kind: str, url: str, **more: Any) -> EndpointError:
    """The error of such a request."""
    with pytest.raises(EndpointError) as caught:
        ask(kind, url, **more)
    return caught.value


@pytest.mark.parametrize("kind", ["pool", "client"])
def test_an_error_through_a_proxy_names_it_without_its_password(
    monkeypatch: pytest.MonkeyPatch, page: str, kind: str
) -> None:
    monkeypatch.setenv("http_proxy", DEAD)
    text = str(failure(kind, "http://10.1.2.3:8000"))
    assert "http://10.1.2.3:8000 does not answer (ConnectError) through the proxy of the environment" in text
    assert "variable http_proxy (http://127.0.0.1:9); if 10.1.2.3 is reached directly, add it to NO_PROXY" in text
    assert "anna" not in text
    assert "cret" not in text

    monkeypatch.setenv("http_proxy", page)
    text = str(failure(kind, "http://10.1.2.3:8000"))
    assert "status 403" in text
    assert f"http_proxy ({page}), which may be who answered" in text
    assert Page.asked


@pytest.mark.parametrize("kind", ["pool", "client"])
def test_a_loopback_endpoint_is_asked_itself(monkeypatch: pytest.MonkeyPatch, page: str, kind: str) -> None:
    for name in VARIABLES[:3]:
        monkeypatch.setenv(name, DEAD)
    error = failure(kind, f"http://{page}")
    assert (error.code, "proxy" in str(error)) == ("http_403", False)
    assert Page.asked == [{"pool": "/v1/models/tiny", "client": "/v1/images/edits"}[kind]]


@pytest.mark.parametrize("kind", ["pool", "client", "map"])
@pytest.mark.parametrize("is_proxied", [True, False])
def test_a_page_instead_of_an_answer(monkeypatch: pytest.MonkeyPatch, page: str, kind: str, is_proxied: bool) -> None:
    monkeypatch.setattr(Page, "status", 200)
    monkeypatch.setenv("http_proxy", page)
    error = failure(kind, "http://10.1.2.3:8000" if is_proxied else f"http://{page}")
    assert (error.code, f"http_proxy ({page}), which may be who answered" in str(error)) == (
        "invalid_response",
        is_proxied,
    )


PICTURE = base64.b64encode(encode_image(np.zeros((8, 8, 3), np.uint8))).decode()
WHOLE = {"usage": {"input_tokens": 1}, "provenance": {}, "warnings": []}
ANSWERS = {
    "another server's model": ({"object": "model", "id": "tiny"}, {}),
    "a digest that is none": ({"id": "tiny", "digest": 5}, {}),
    "a list of names": ({"data": ["tiny"]}, {}),
    "no picture": ({"data": [], **WHOLE}, {}),
    "a picture of another size": ({"data": [{"b64_json": PICTURE, "seed": 1, "flagged": False}], **WHOLE}, {}),
    "lists without an end": (b"[" * 100_000, {}),
    "bytes that are not what the header says": (b"no gzip", {"content-encoding": "gzip"}),
}


@pytest.mark.parametrize("kind", ["pool", "client", "map"])
@pytest.mark.parametrize("answer", ANSWERS)
def test_another_server_is_no_endpoint(monkeypatch: pytest.MonkeyPatch, page: str, kind: str, answer: str) -> None:
    body, headers = ANSWERS[answer]
    monkeypatch.setattr(Page, "status", 200)
    monkeypatch.setattr(Page, "page", body if isinstance(body, bytes) else json.dumps(body).encode())
    monkeypatch.setattr(Page, "more_headers", headers)
    error = failure(kind, f"http://{page}")
    assert (error.code, error.retryable) == ("invalid_response", False)
    assert "raygen endpoint" in str(error)


@pytest.mark.parametrize("kind", ["pool", "client"])
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("\u201csk-abc\u201d", r"character 1 is U\+201C \(LEFT DOUBLE QUOTATION MARK\)"),
        ("sk-abc\u2019", r"character 7 is U\+2019"),
        ("sk\nabc", r"character 3 is U\+000A \(a control character\)"),
        ("sk abc", r"character 3 is U\+0020 \(SPACE\)"),
        ("\ufeffsk-abc", r"character 1 is U\+FEFF"),
    ],
)
def test_a_key_that_no_header_carries_is_named_and_not_told(
    monkeypatch: pytest.MonkeyPatch, page: str, kind: str, key: str, reason: str
) -> None:
    monkeypatch.setenv("RAYGEN_API_KEY", key)
    with pytest.raises(ConfigError, match=f"the environment variable RAYGEN_API_KEY is no key: its {reason}") as caught:
        ask(kind, f"http://{page}")
    assert "abc" not in str(caught.value)
    with pytest.raises(ConfigError, match=f"key is no key: its {reason}"):
        Client(f"http://{page}", key=key)
    assert not Page.asked


@pytest.mark.parametrize("kind", ["pool", "client"])
@pytest.mark.parametrize(
    ("key", "sent"), [("sk-abc\n", "Bearer sk-abc"), (" sk\t\r\n", "Bearer sk"), ("", None), ("\n", None)]
)
def test_white_space_around_a_key_is_left_away(
    monkeypatch: pytest.MonkeyPatch, page: str, kind: str, key: str, sent: str | None
) -> None:
    monkeypatch.setenv("RAYGEN_API_KEY", key)
    failure(kind, f"http://{page}")
    assert Page.keys == [sent]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ({"request_id": "a b"}, "invalid_value"),
        ({"request_id": "a\n"}, "invalid_value"),
        ({"request_id": "\u00e9"}, "invalid_value"),
        ({"request_id": 5}, "invalid_type"),
        ({"priority": "\u201chigh\u201d"}, "invalid_value"),
        ({"timeout_s": None}, "invalid_type"),
        ({"timeout_s": "5"}, "invalid_type"),
        ({"seed": 1.5}, "invalid_type"),
        ({"n": "2"}, "invalid_type"),
        ({"seeds": [1.5]}, "invalid_type"),
    ],
)
def test_what_no_request_can_hold_is_not_sent(page: str, field: dict[str, Any], code: str) -> None:
    error = failure("client", f"http://{page}", **field)
    assert (error.code, error.param, error.retryable) == (code, next(iter(field)), False)
    assert not Page.asked


@pytest.mark.parametrize("kind", ["pool", "client"])
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "ftp://u:p@proxy:1")
    text = str(failure(kind, "http://10.1.2.3:8000"))
    assert "variable ALL_PROXY (ftp://proxy:1), which cannot be used (its scheme is none of http" in text


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://::1:8000", "an IPv6 address stands in brackets"),
        ("http://fe80::1", "an IPv6 address stands in brackets"),
        ("http://[::1:8000", "no address"),
        ("http://127.0.0.1:80000", "no address"),
        ("http://127.0.0.1:port", "no address"),
        ("http://", "no address"),
        ("http://:8000", "no address"),
        ("127.0.0.1:8000", "http"),
        ("ftp://127.0.0.1", "http"),
        (" http://127.0.0.1:8000", "white space"),
        ("http://127.0.0.1:8000\n", "white space"),
        ("http://a..b:8000", "empty or too long"),
        ("http://" + "a" * 64 + ".org", "empty or too long"),
        ("http://a.org/?model=tiny", "nothing follows the path"),
        ("http://a.org#tiny", "nothing follows the path"),
    ],
)
def test_an_address_that_is_none_is_refused_before_any_request(url: str, reason: str) -> None:
    for kind in ("pool", "client"):
        assert reason in str(failure(kind, url))
    with pytest.raises(ConfigError, match="url"):
        validate(InpainterConfig, {"kind": "served", "url": url}, where="test")


@pytest.mark.parametrize("url", ["http://[::1]:8000", "https://a.org", "http://user:pw@a.org/raygen", "serve://a/b"])
def test_good_addresses(url: str) -> None:
    assert validate(InpainterConfig, {"kind": "served", "url": url}, where="test").url == url


@pytest.mark.parametrize("field", [{"num_inference_steps": 151}, {"guidance_scale": 30.5}])
def test_what_an_endpoint_would_refuse_is_refused_with_the_config(field: dict[str, float]) -> None:
    (name,) = field
    with pytest.raises(ConfigError, match=f"{name} is .*; an endpoint at an http address takes at most"):
        validate(InpainterConfig, {"kind": "served", "url": "http://a.org", **field}, where="test")
    for rest in ({"kind": "served", "url": "serve://raygen/engine"}, {}):
        validate(InpainterConfig, {**rest, **field}, where="test")


@pytest.mark.parametrize("field", [{"guidance_start": 0.25}, {"guidance_stop": 0.75}, {"compile": True}])
def test_what_a_request_cannot_ask_for_is_refused_with_the_config(field: dict[str, float]) -> None:
    (name,) = field
    with pytest.raises(ConfigError, match=f"{name} is set, but an endpoint decides"):
        validate(InpainterConfig, {"kind": "served", "url": "http://a.org", **field}, where="test")
