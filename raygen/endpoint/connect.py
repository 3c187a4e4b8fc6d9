"""From the URL in a config to the endpoint."""

from raygen.endpoint.http import Transport, connect_http


def connect_endpoint(url: str) -> Transport:
    """The endpoint at "http(s)://…" or "serve://application/deployment", for `raygen.endpoint.retry.ask_blocking`.

    Raises:
        ConfigError: There is no such deployment on this cluster, or the environment's key is none.
        EndpointError: See `raygen.endpoint.http.HttpTransport`.
    """
    if not url.startswith("serve://"):
        return connect_http(url)
    # Here, not at the top: Ray Serve takes seconds to import, and a pool with a model of its own needs none of it.
    from raygen.endpoint.handle import connect_handle

    return connect_handle(url)
