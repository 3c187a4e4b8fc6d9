"""Endpoints that follow a script, over HTTP and by a handle: for tests of who asks them."""

# H height and W width of the picture, C colour channels

import asyncio
import base64
import http.server
import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from raygen.endpoint.edits import EditedImage, EditRequest, EditResult
from raygen.errors import EndpointError
from raygen.images import encode_image

IMAGE, MASK = np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool)
PAINTED = np.full((64, 64, 3), 7, np.uint8)
PROVENANCE = {"bucket": 1}
REQUEST = EditRequest(image_HWC=IMAGE, repaint_HW=MASK, prompt="a", seeds=(1,), timeout_s=60)
RESULT = EditResult(
    images=(EditedImage(index=0, seed=1, image_HWC=PAINTED),),
    num_inference_steps=1,
    num_prompt_tokens=1,
    provenance=PROVENANCE,
)
DATA = [{"b64_json": base64.b64encode(encode_image(PAINTED)).decode(), "seed": 1, "flagged": False}]
BODY = {"data": DATA, "usage": {"input_tokens": 1}, "provenance": PROVENANCE, "warnings": []}
FACTS = {"id": "m", "digest": "sha256:0", "resolution_px": 64, "stride_px": 8}


def refusal(*, retryable: bool = True, retry_after_s: float | None = 0.1) -> EndpointError:
    return EndpointError("no", code="service_unavailable", retryable=retryable, retry_after_s=retry_after_s)


class Script:
    """What an endpoint answers to one edit after the other, errors first; the last answer is given again and again.

    Attributes:
        asked_at: When it was asked, on the clock time.monotonic.
        peers: Ports from which it was asked over HTTP.
    """

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked_at: list[float] = []
        self.peers: list[int] = []

    def next(self) -> Any:
        self.asked_at.append(time.monotonic())
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]

    @property
    def pauses_s(self) -> list[float]:
        return [later - sooner for sooner, later in zip(self.asked_at, self.asked_at[1:], strict=False)]


@contextmanager
def over_http(script: Script) -> Iterator[str]:
    """A server that follows a script."""

    class Answering(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which keeps connections

        def do_GET(self) -> None:
            self._send(200, FACTS if self.path.endswith("/m") else {"data": [FACTS]})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            script.peers.append(self.client_address[1])
            answer = script.next()
            if not isinstance(answer, EndpointError):
                self._send(200, BODY)
                return
            headers = {} if answer.retry_after_s is None else {"retry-after": str(answer.retry_after_s)}
            headers |= {} if answer.retryable else {"x-should-retry": "false"}
            error = {"message": str(answer), "type": "", "param": None, "code": answer.code}
            self._send(503, {"error": error}, headers)

        def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**(headers or {}), "content-length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Response:
    """What a handle's call gives: an answer to be awaited, which may be cancelled."""

    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        self._answer, self.is_cancelled = answer, False

    def __await__(self) -> Any:
        return self._answer().__await__()

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """A Ray Serve handle of an engine that follows a script; errors of Ray are raised, those of raygen given."""

    deployment_name = "engine"

    def __init__(self, script: Script) -> None:
        self._script = script
        self._call: Callable[..., Awaitable[Any]] = self._edit
        self.requests: list[Any] = []
        self.responses: list[Response] = []

    def __getattr__(self, name: str) -> "Handle":
        self._call = {"edit": self._edit, "facts": self._facts, "put_token": self._edit}[name]
        return self

    def remote(self, *arguments: Any) -> Response:
        call = self._call
        self.responses.append(Response(lambda: call(*arguments)))
        return self.responses[-1]

    async def _edit(self, *arguments: Any) -> Any:
        self.requests.append(arguments[0])
        answer = self._script.next()
        if isinstance(answer, Exception) and not isinstance(answer, EndpointError):
            raise answer
        return await answer if asyncio.isfuture(answer) else answer

    async def _facts(self) -> dict[str, Any]:
        return FACTS


@contextmanager
def reached(way: str, script: Script) -> Iterator[Any]:
    """What leads to an endpoint that follows a script: a URL or a handle."""
    if way == "http":
        with over_http(script) as url:
            yield url
    else:
        yield Handle(script)
