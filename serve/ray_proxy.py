"""What the proxies of a Ray Serve of our own do before they read a request.

Ray Serve has each proxy (and, behind HAProxy, each ingress) call the function that an environment variable of its
process names. `raygen serve` sets the variable where it starts Ray itself; on another cluster whoever starts that can.
"""

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from raygen.endpoint.wire import TIMEOUT_HEADER
from serve.http.headers import RAY_TIMEOUT_HEADER

CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = "serve.ray_proxy:middlewares"


class OwnTimeouts:
    """ASGI middleware: the header that Ray Serve obeys becomes the one that only the endpoint reads."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            for value in headers.getlist(RAY_TIMEOUT_HEADER):
                headers.append(TIMEOUT_HEADER, value)
            del headers[RAY_TIMEOUT_HEADER]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For Ray Serve."""
    return [Middleware(OwnTimeouts)]
