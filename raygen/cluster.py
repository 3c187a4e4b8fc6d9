"""Joining the Ray cluster, and reaching an endpoint on it."""

import logging
import os
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from raygen.errors import ConfigError, EndpointError
from raygen.inpainters.edits import EditRequest, EditResult
from raygen.inpainters.served import Endpoint, connect_http

# A model that was scaled to zero is loaded first.
FACTS_TIMEOUT_S = 300.0


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS, or starts Ray on this machine; does nothing when that is done."""
    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if "RAY_ADDRESS" not in os.environ:
        # "local": otherwise Ray joins whatever cluster was last started on this machine, somebody else's test perhaps.
        options |= {"address": "local", "include_dashboard": False}
    ray.init(**options)
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file():  # Ray writes it readable for everybody.
        token.chmod(0o600)


class HandleEndpoint:
    """The endpoint through a Ray Serve handle: arrays instead of PNG. See `raygen.inpainters.served.Endpoint`.

    Args:
        url: "serve://application/deployment".

    Raises:
        ConfigError: There is no such deployment on this cluster.
    """

    def __init__(self, url: str) -> None:
        # Here, not at the top: Ray Serve takes seconds to import, and a pool with a model of its own needs none of it.
        from ray import serve
        from ray.serve.exceptions import RayServeException

        self._serve_error = RayServeException
        application, _, deployment = url.removeprefix("serve://").partition("/")
        try:
            self._handle = serve.get_deployment_handle(deployment or "engine", application)
            self._facts = dict(self._handle.facts.remote().result(timeout_s=FACTS_TIMEOUT_S))
        except (RayError, RayServeException, KeyError, TimeoutError) as error:
            raise ConfigError(
                f"{url}: no such deployment answers on this cluster ({type(error).__name__}); "
                "see `serve status` for the applications that run"
            ) from error

    def edit(self, request: EditRequest, model: str) -> EditResult:
        """Paints. The seeds are in the request, so sending it again after a replica's death paints the same."""
        try:
            result = self._handle.edit.remote(request).result(timeout_s=request.timeout_s + 30)
        except TimeoutError as error:
            raise EndpointError("no replica answered in time", code="deadline_exceeded") from error
        except RayTaskError as error:
            raise EndpointError("the model failed", code="internal_error", retryable=True) from error
        except (RayError, self._serve_error) as error:
            raise EndpointError("a replica died", code="service_unavailable", retryable=True) from error
        if isinstance(result, EndpointError):
            raise result
        return result

    def facts(self, model: str) -> dict[str, Any]:
        """The model's facts; a handle leads to one model."""
        if model != self._facts["id"]:
            raise EndpointError(
                f"this deployment serves '{self._facts['id']}', not '{model}'", code="model_not_found", param="model"
            )
        return self._facts

    def put_token(self, name: str, data: bytes, model: str) -> None:
        """Stores a learned token in the folder that the model's replicas share; who is on the cluster needs no key."""
        try:
            error = self._handle.put_token.remote(name, data).result(timeout_s=FACTS_TIMEOUT_S)
        except (RayError, self._serve_error, TimeoutError) as failure:
            raise EndpointError("a replica died", code="service_unavailable", retryable=True) from failure
        if error is not None:
            raise error


def connect_endpoint(url: str) -> Endpoint:
    """The endpoint at "http(s)://…" or "serve://application/deployment"."""
    return HandleEndpoint(url) if url.startswith("serve://") else connect_http(url)
