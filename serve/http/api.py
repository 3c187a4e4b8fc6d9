"""The HTTP interface as one ASGI application over a `serve.http.backend.Backend`.

Not for Ray: `serve.app` runs it in its ingress, tests run it under uvicorn.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Container, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from raygen.errors import EndpointError
from serve.config import ServeConfig
from serve.http.backend import Backend
from serve.http.envelope import Envelope, http_exception
from serve.http.handlers import Handlers
from serve.http.keys import ANYBODY, authenticate, require
from serve.http.openapi import Operation, document
from serve.http.routes import OPERATIONS
from serve.metrics import Metrics


def make_api(config: ServeConfig, backend: Backend, metrics: Metrics, *, names_requests: bool = True) -> Starlette:
    """The application.

    Args:
        config: Models, keys, limits.
        backend: Who paints.
        metrics: Where requests are counted.
        names_requests: See `Envelope`.
    """
    handlers = Handlers(config, backend, metrics, document(OPERATIONS, has_keys=bool(config.keys)))
    # One route a path, whatever its methods: so the 405 of a path names them all.
    by_path: defaultdict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in OPERATIONS:
        by_path[operation.path][operation.method] = operation
    app = Starlette(
        routes=[
            Route(path, _endpoint(methods, handlers, config), methods=[*methods]) for path, methods in by_path.items()
        ],
        middleware=[Middleware(Envelope, metrics=metrics, names_requests=names_requests)],
        exception_handlers={HTTPException: http_exception},
    )
    app.router.redirect_slashes = False  # a redirect would lose the body
    return app


def _endpoint(
    methods: Mapping[str, Operation], handlers: Handlers, config: ServeConfig
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        request.scope["state"]["route"] = operation.path
        caller = ANYBODY
        if operation.scope is not None:
            # Before a byte of the body is read.
            caller = authenticate(config.keys, request.headers.getlist("authorization"))
            require(caller, operation.scope)
        _check_query(request, operation.query)
        return await operation.handler(handlers, request, caller)

    return answer


def _check_query(request: Request, known: Container[str]) -> None:
    names = [name for name, _ in request.query_params.multi_items()]
    for name in names:
        if name not in known:
            raise EndpointError("there is no such query parameter", code="unknown_parameter", param=name[:64])
    if len({*names}) < len(names):
        raise EndpointError("a query parameter is sent twice", code="duplicate_parameter", param=names[-1])
