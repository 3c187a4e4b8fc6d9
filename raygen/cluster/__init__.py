"""Joining the Ray cluster.

Ray is imported where it is asked: `raygen.cluster.ray_address` loads without it, for `raygen doctor`.
"""

import contextlib
import logging
import os
import platform
import signal
import threading
from typing import Any

from raygen.cluster import ray_address
from raygen.errors import ConfigError, RaygenError, ResourceError, StageError, UserError
from raygen.program import interrupts

# Of `ray.exceptions.OutOfMemoryError`, which arrives as text inside others.
_OUT_OF_MEMORY = ("address the out of memory issue", "OutOfMemoryError", "running low on memory")
# Letters of what Ray says; its advice can fill a page.
MAX_REASON = 400
# Where a node has more processes than CPUs, Ray ends those that had nothing to do for a second. The next unit to be
# read or written would start another, which imports for 1.5 s of a core.
IDLE_WORKER_MS = 600_000


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS, or starts Ray on this machine; does nothing when that is done.

    Raises:
        ConfigError: RAY_ADDRESS names no cluster that answers.
        ResourceError: Ray cannot start here, or the cluster does not take this program.
    """
    import ray

    if ray.is_initialized():
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = _find_cluster()
    if address is None:
        ray_address.check_start(os.environ)
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(IDLE_WORKER_MS))
        # "local": otherwise Ray joins whatever cluster was last started on this machine, somebody else's test perhaps.
        _init(**options, address="local", include_dashboard=False)
    else:
        # Ray would try twenty times, forty seconds each; the head has answered just now.
        os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
        _init(**options, address=address)
        ray_address.watch(address)
    token = ray_address.token_path(os.environ)
    with contextlib.suppress(OSError):  # somebody else's; `raygen doctor` tells
        if token is not None and token.is_file():  # Ray writes it readable for everybody.
            token.chmod(0o600)


def is_joined() -> bool:
    """Whether this program has joined a cluster, or started one."""
    import ray

    return bool(ray.is_initialized())


def reason(error: object) -> str:
    """What a user is to know of a failure that Ray tells of: the last line, or that memory was used up.

    Of a process that Ray killed for memory, the last line is a reference to Ray's documentation.
    """
    text = str(error)
    if any(words in text for words in _OUT_OF_MEMORY):
        return (
            "Ray killed a process, since nearly all memory of its node was in use (by whatever runs there). Run fewer "
            "actors, workers or other programs at once, or on more memory, and run the same command again: it goes on"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)


def raised(error: BaseException) -> RaygenError | None:
    """The error of raygen that Ray's carries; None where it carries none.

    Args:
        error: As Ray raised it for an actor or a task, or as Ray Data did.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RaygenError):
            # Ray's copy of the class carries the whole traceback as text; only the message is for the user.
            cause = getattr(seen, "cause", None)
            return cause if isinstance(cause, RaygenError) else seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    # An actor that dies while it starts leaves only the text of its traceback.
    for kind in UserError.__subclasses__():
        _, found, message = str(error).rpartition(f"raygen.errors.{kind.__name__}: ")
        if found:
            return kind(message.strip())
    return None


def own_error(error: BaseException, *, what: str) -> RaygenError:
    """The error of raygen inside Ray's, or Ray's as a StageError.

    Args:
        error: As Ray raised it for an actor or a task, or as Ray Data did.
        what: What failed, for the StageError: "a fit".
    """
    return raised(error) or StageError(f"{what} failed: {reason(error)}")


def describe() -> str:
    """The joined cluster's nodes and resources, as a line."""
    import ray

    resources = ray.cluster_resources()
    num_nodes = sum(node["Alive"] for node in ray.nodes())
    return f"{num_nodes} nodes, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"


def _find_cluster() -> str | None:
    """The head's "host:port", which answers; None where Ray is to be started on this machine."""
    from ray._private import services

    address = ray_address.named_address(os.environ)
    if address is None:
        return None
    try:
        # There is no public call for it. Ray goes to a loopback address by the machine's own, and knows what "auto" is.
        address = str(services.canonicalize_bootstrap_address_or_die(address))
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: {str(error).splitlines()[0]} {ray_address.WAYS_TO_JOIN}. Unset "
            "it to work on this machine."
        ) from error
    ray_address.check_answers(address, os.environ)
    return address


def _init(**options: Any) -> None:
    """`ray.init` with the caller's signal handlers, and errors of raygen.

    Ray takes SIGTERM for itself and answers it by waiting half a minute for other work to leave the node.
    """
    import ray

    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    try:
        ray.init(**options)
    except SystemExit:  # Ray's answer to a SIGTERM in its start
        raise interrupts.interrupted(signal.SIGTERM) from None
    except Exception as error:
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_REASON] or 'no reason given'}"
        if options["address"] == "local":
            raise ResourceError(f"Ray cannot start on this machine: {what}. See `raygen doctor`.") from error
        raise ResourceError(
            f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: the cluster does not take this program: {what}. Is this machine "
            "one of its nodes, is the token the cluster's (RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, "
            f"~/.ray/auth_token), and has the cluster Ray {ray.__version__} and Python {platform.python_version()} too?"
        ) from error
    finally:
        for number, handler in handlers.items():
            if in_main_thread and handler not in {None, signal.SIG_DFL}:
                signal.signal(number, handler)
