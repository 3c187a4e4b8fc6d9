"""HTTP framing over bare sockets: no hang, no 5xx, and the endpoint lives on."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from edit_forms import EDITS, form, post
from paint_backend import Running, wait_for
from starlette.datastructures import Headers

from raygen.errors import EndpointError
from serve.http.body import read_form
from serve.http.connection import ClientDisconnected, body_chunks
from serve.http.fields import FIELDS
from serve.http.limits import MAX_BODY_BYTES


def request_bytes() -> tuple[bytes, bytes]:
    """Head without framing headers, and body, of a good edit."""
    import httpx2

    request = httpx2.Request("POST", f"http://host{EDITS}", **form())
    head = f"POST {EDITS} HTTP/1.1\r\nHost: host\r\nContent-Type: {request.headers['content-type']}\r\n"
    return head.encode(), request.read()


@pytest.fixture
def connect(endpoint: Running) -> Iterator[Callable[[], socket.socket]]:
    sockets = []

    def opened() -> socket.socket:
        sockets.append(socket.create_connection(("127.0.0.1", endpoint.port), timeout=20))
        return sockets[-1]

    yield opened
    for connection in sockets:
        connection.close()
    assert post(endpoint.url).status_code == 200, "the endpoint does not live on"


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and what came of the body of one response."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return 0, {}, data
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    while len(rest) < int(headers.get("content-length", 0)):
        rest += connection.recv(65536)
    return int(lines[0].split()[1]), headers, rest


def chunked(body: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        yield f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    yield b"0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
def test_chunks_of_any_size_make_the_same_request(connect: Callable[[], socket.socket], size: int) -> None:
    head, body = request_bytes()
    connection = connect()
    connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
    connection.sendall(b"".join(chunked(body, size)))
    assert answer(connection)[0] == 200


def test_the_last_line_end_may_come_alone(connect: Callable[[], socket.socket]) -> None:
    head, body = request_bytes()
    assert body.endswith(b"--\r\n")
    connection = connect()
    connection.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:-2])
    time.sleep(0.2)
    connection.sendall(body[-2:])
    assert answer(connection)[0] == 200


def test_too_large_by_its_header_is_answered_at_once(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    connection.sendall(request_bytes()[0] + f"Content-Length: {MAX_BODY_BYTES + 1}\r\n\r\n".encode())
    status, _, body = answer(connection)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


def test_too_large_in_chunks_is_answered_while_it_comes(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    head, _ = request_bytes()
    connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
    piece = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    # A part of an unknown name: its content is dropped, so only the limit of the whole body can end it.
    boundary = b"--" + head.partition(b"boundary=")[2].split(b"\r\n")[0]
    start = boundary + b'\r\nContent-Disposition: form-data; name="x"; filename="x"\r\n\r\n'
    connection.sendall(f"{len(start):x}\r\n".encode() + start + b"\r\n")
    for _ in range(60):
        connection.sendall(piece)
    status, _, body = answer(connection)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 10\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: many\r\n",
        b"Content-Length: 10\r\nContent-Length: 20\r\n",
        b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip\r\n",
    ],
)
def test_broken_framing_is_refused(connect: Callable[[], socket.socket], framing: bytes) -> None:
    head, body = request_bytes()
    connection = connect()
    connection.sendall(head + framing + b"\r\n" + body)
    connection.shutdown(socket.SHUT_WR)
    # Plain text of the HTTP parser, or a closed connection: the documented exception.
    assert answer(connection)[0] in {0, 400}


@pytest.mark.parametrize("line", [b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"])
def test_no_http_at_all(connect: Callable[[], socket.socket], line: bytes) -> None:
    connection = connect()
    connection.sendall(line)
    connection.shutdown(socket.SHUT_WR)
    assert answer(connection)[0] in {0, 400, 404, 405, 505}


def test_headers_that_are_too_long(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    more = b"".join(b"x-%d: %s\r\n" % (i, b"y" * 1000) for i in range(40))
    connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: host\r\n" + more + b"\r\n")
    status, _, body = answer(connection)
    assert (status, json.loads(body)["error"]["code"]) == (431, "headers_too_large")


def test_a_client_that_goes_while_it_sends_leaves_no_traceback(
    endpoint: Running, connect: Callable[[], socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    head, body = request_bytes()
    connection = connect()
    connection.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:100])
    time.sleep(0.2)
    connection.close()
    wait_for(lambda: " 499 " in caplog.text)
    assert "Traceback" not in caplog.text
    assert not endpoint.backend.requests


def test_expect_100_continue_spares_the_upload(connect: Callable[[], socket.socket]) -> None:
    connection = connect()
    length = f"Content-Length: {MAX_BODY_BYTES + 1}\r\n".encode()
    connection.sendall(request_bytes()[0] + length + b"Expect: 100-continue\r\n\r\n")
    assert answer(connection)[0] == 413  # and no 100 before


@pytest.mark.slow
def test_a_body_that_stops_gets_408_and_a_closed_connection(connect: Callable[[], socket.socket]) -> None:
    head, body = request_bytes()
    connection = connect()
    connection.sendall(head + f"Content-Length: {len(body) + 9}\r\n\r\n".encode() + body)
    start = time.monotonic()
    connection.settimeout(25)
    status, headers, content = answer(connection)
    assert (status, json.loads(content)["error"]["code"]) == (408, "request_body_timeout")
    assert headers["connection"] == "close"
    assert connection.recv(1) == b""
    assert 14 < time.monotonic() - start < 20


def messages(*pieces: bytes, ends: bool = True, pause_s: float = 0.0) -> Callable[[], object]:
    """An ASGI `receive`."""
    waiting = list(pieces)

    async def receive() -> dict[str, object]:
        await asyncio.sleep(pause_s)
        if waiting:
            piece = waiting.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(waiting) or not ends}
        if ends:
            return {"type": "http.disconnect"}
        await asyncio.sleep(3600)
        raise AssertionError

    return receive


def cut() -> Callable[[], object]:
    """An ASGI `receive` of a client that goes."""
    waiting: list[dict[str, object]] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, object]:
        return waiting.pop(0)

    return receive


async def collect(receive: object, **options: float) -> bytes:
    limits = {"max_bytes": 100, "silence_s": 0.2, "total_s": 0.6, **options}
    return b"".join([chunk async for chunk in body_chunks(receive, **limits)])  # type: ignore[arg-type]


def test_silence_in_a_body() -> None:
    with pytest.raises(EndpointError) as error:
        asyncio.run(collect(messages(b"x", ends=False)))
    assert error.value.code == "request_body_timeout"


def test_empty_pieces_are_silence_too() -> None:
    with pytest.raises(EndpointError) as error:
        asyncio.run(collect(messages(*[b""] * 50, ends=False, pause_s=0.05)))
    assert error.value.code == "request_body_timeout"


def test_drops_that_never_end() -> None:
    with pytest.raises(EndpointError) as error:
        asyncio.run(collect(messages(*[b"x"] * 50, ends=False, pause_s=0.05)))
    assert error.value.code == "request_body_timeout"


def test_a_slow_body_that_comes_in_time() -> None:
    assert asyncio.run(collect(messages(*[b"x"] * 8, pause_s=0.05))) == b"x" * 8


def test_a_body_without_its_end() -> None:
    with pytest.raises(ClientDisconnected):
        asyncio.run(collect(cut()))


def test_every_split_of_a_form_reads_the_same() -> None:
    """The boundary, a header or the last line end may be cut anywhere by the network."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\nb\r\n'
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="f"\r\n\r\n\r\n--x\r\n--b--\r\n'
    )
    headers = Headers({"content-type": "multipart/form-data; boundary=b"})

    async def read(*pieces: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
        read_back = await read_form(headers, messages(*pieces), known=FIELDS)  # type: ignore[arg-type]
        return read_back.texts, read_back.files

    async def all_of_them() -> None:
        whole = await read(body)
        assert whole == ({"prompt": "a\r\nb"}, {"image": b"\r\n--x"})
        # From 5 on: the parser wants the first boundary in one piece, which every network gives it.
        for at in range(5, len(body)):
            assert await read(body[:at], body[at:]) == whole, at

    asyncio.run(all_of_them())
