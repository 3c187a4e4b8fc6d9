"""`raygen serve`: the endpoint on this machine or on the cluster of RAY_ADDRESS, until it is interrupted."""

import signal
import threading
from collections.abc import Callable
from typing import Any

from ray import serve as ray_serve
from ray.serve.exceptions import RayServeException

from raygen import capacity, cluster
from raygen.config import validate
from raygen.errors import StageError
from raygen.placement import Need
from serve.app import APP_NAME, SHARE_CPUS, build_app, check_host
from serve.config import ServeConfig


def run_endpoint(data: dict[str, Any], *, host: str, port: int, say: Callable[[str], Any]) -> None:
    """Serves until SIGINT or SIGTERM; requests under way are finished first.

    Args:
        data: Fields of `ServeConfig`.
        host: Address to listen on.
        port: Port to listen on.
        say: Called with lines for the user.

    Raises:
        ConfigError: A wrong field, or an address that needs keys.
        ModelError: A model's folder is incomplete.
        ResourceError: The replicas do not fit the cluster.
        StageError: The endpoint did not start.
    """
    config = validate(ServeConfig, data, where="serve config")
    if not config.keys:
        check_host(host)
    app = build_app(data)
    stop = threading.Event()
    cluster.connect()
    _check_resources(config)
    names = ", ".join(model.id for model in config.models)
    say(f"starting {names} …")
    ray_serve.start(http_options={"host": host, "port": port})
    try:
        ray_serve.run(app, name=APP_NAME, route_prefix="/")
    except (RuntimeError, RayServeException) as error:
        raise StageError(f"the endpoint did not start: {_last_line(error)}") from error
    say(f"POST http://{host}:{port}/v1/images/edits (models: {names}); Ctrl-C ends it")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    say("finishing what is under way …")
    ray_serve.shutdown()


def application_args(data: dict[str, Any]) -> dict[str, Any]:
    """The endpoint's own fields of a config, which may be a whole file for `serve deploy`."""
    applications = data.get("applications")
    if isinstance(applications, list) and applications and isinstance(applications[0], dict):
        return dict(applications[0].get("args") or {})
    return data


def _check_resources(config: ServeConfig) -> None:
    needs = [
        Need(f"models.{model.id}", {"CPU": model.num_cpus, "GPU": model.num_gpus}, model.min_replicas)
        for model in config.models
    ]
    capacity.require(
        [*needs, Need("ingress and ledger", {"CPU": SHARE_CPUS}, config.num_ingress + 1)],
        what="the endpoint needs",
        advice="models.*.num_cpus and num_gpus times min_replicas. Lower them, or add nodes.",
    )


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
