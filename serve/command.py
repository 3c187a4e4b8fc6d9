"""`raygen serve`: the endpoint on this machine or on the cluster of RAY_ADDRESS, until it is interrupted."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from raygen import cluster
from raygen.cluster import capacity, ray_address
from raygen.cluster.placement import Need
from raygen.config import validate
from raygen.program import interrupts
from serve.address import check_address, check_host, url_of
from serve.app import APP_NAME, SHARE_CPUS, build_app, deployment_name
from serve.config import ServeConfig
from serve.instance import (
    check_ha_proxy,
    check_instance,
    end_application,
    end_instance_if_empty,
    failure_of,
    running_instance,
)
from serve.ray_proxy import CALLBACK, CALLBACK_VARIABLE

WILDCARDS = {"0.0.0.0", "::"}
# Signals within so many seconds are one request to end: `timeout` and wrappers signal the process and its group.
ONE_REQUEST_S = 1.0


def run_endpoint(data: dict[str, Any], *, host: str, port: int, say: Callable[[str], Any]) -> None:
    """Serves until SIGINT or SIGTERM; requests under way are finished first, unless a second signal comes.

    Args:
        data: Fields of `ServeConfig`.
        host: Address to listen on.
        port: Port to listen on.
        say: Called with lines for the user.

    Raises:
        ConfigError: A wrong field, an address that needs keys or cannot be listened on, or a Ray Serve on the cluster
            that is in the way.
        ModelError: A model cannot be loaded.
        ResourceError: The replicas do not fit the cluster.
        StageError: The endpoint did not start.
        SystemExit: 128 and the number of the signal, if one came before the endpoint served, or a second one.
    """
    config = validate(ServeConfig, data, where="serve config")
    host = host.removeprefix("[").removesuffix("]")  # as a URL has it
    if not config.keys:
        check_host(host)
    check_ha_proxy(host)
    signals = _Signals()
    try:
        _serve(data, config, signals, host=host, port=port, say=say)
    except KeyboardInterrupt:
        raise SystemExit(128 + signals.last) from None


def application_args(data: dict[str, Any]) -> dict[str, Any]:
    """The endpoint's own fields of a config, which may be a whole file for `serve deploy`."""
    applications = data.get("applications")
    if isinstance(applications, list) and applications and isinstance(applications[0], dict):
        return dict(applications[0].get("args") or {})
    return data


class _Signals:
    """SIGINT and SIGTERM: before the endpoint serves they end the process; then one asks it to finish.

    Everything that the start waits for is interrupted by the exception that a handler raises: KeyboardInterrupt for
    both, since Ray turns a SystemExit that reaches it while it waits into one of its own, with code 1.

    Attributes:
        last: Number of the last signal.
    """

    def __init__(self) -> None:
        self.last = int(signal.SIGINT)
        self._is_serving, self._stop = False, threading.Event()
        self._stopped_s, self._is_ending = 0.0, False
        self.listen()

    def listen(self) -> None:
        """Takes the signals over from whoever has them."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def wait(self) -> None:
        """Serves until the first signal."""
        self._is_serving = True
        self._stop.wait()

    def _take(self, number: int, _frame: Any) -> None:
        if self._is_serving and not self._stop.is_set():
            self.last, self._stopped_s = number, time.monotonic()
            self._stop.set()
        elif self._is_ending or time.monotonic() - self._stopped_s < ONE_REQUEST_S:
            return
        else:
            self.last, self._is_ending = number, True
            raise interrupts.interrupted(number)


def _serve(
    data: dict[str, Any], config: ServeConfig, signals: _Signals, *, host: str, port: int, say: Callable[[str], Any]
) -> None:
    joins = ray.is_initialized() or ray_address.named_address(os.environ) is not None
    if not joins:
        check_address(host, port)  # before seconds are spent on anything
        os.environ.setdefault(CALLBACK_VARIABLE, CALLBACK)  # Ray's processes inherit it
    app = build_app(data)
    try:
        cluster.connect()
    except SystemExit as error:  # from the handler of Ray's own that it sets in the middle of its start
        raise SystemExit(128 + signal.SIGTERM) from error
    signals.listen()
    _check_resources(config)
    was_there = joins and _is_served_already(host, port)
    # Ray Serve tells of every start that its options "will not be applied", and where it listens, as we do.
    logging.getLogger("ray.serve").setLevel(logging.getLogger("raygen").getEffectiveLevel())
    names = ", ".join(model.id for model in config.models)
    say(f"starting {names} …")
    try:
        _start(app, config, host, port)
        say(f"POST {url_of(host, port)}/v1/images/edits (models: {names}); Ctrl-C ends it")
        if host in WILDCARDS:
            say(f"from other machines: {url_of(ray.util.get_node_ip_address(), port)}/v1/images/edits")
        signals.wait()
        say("finishing what is under way …")
        end_application(APP_NAME)
    finally:
        # A cluster of our own ends with this process.
        if joins:
            end_application(APP_NAME)
            if not was_there:
                end_instance_if_empty()


def _start(app: Any, config: ServeConfig, host: str, port: int) -> None:
    engines = {deployment_name(config, model.id): f"the model '{model.id}'" for model in config.models}
    try:
        ray_serve.start(http_options={"host": host, "port": port})
        ray_serve.run(app, name=APP_NAME, route_prefix="/")
    except (RuntimeError, TimeoutError, RayError, RayServeException) as error:
        raise failure_of(APP_NAME, error, name_of=lambda name: engines.get(name, "the endpoint")) from error


def _is_served_already(host: str, port: int) -> bool:
    """Whether Ray Serve runs on the cluster; where it does not, the address must be free.

    Raises:
        ConfigError: It runs in a way that the endpoint cannot share, or the address is not to be had.
    """
    instance = running_instance()
    if instance is None:
        check_address(host, port)
        return False
    check_instance(instance, APP_NAME, host, port)
    return True


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
    for need in needs:
        if not need.count:  # one that starts with the first request, which would wait for it in vain
            capacity.require(
                [replace(need, count=1)],
                what="the endpoint needs",
                advice="Lower its num_cpus or num_gpus, or add nodes.",
            )
