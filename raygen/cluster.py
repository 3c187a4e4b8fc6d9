"""Joining the Ray cluster, and checking that what is asked for fits it."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from raygen.errors import ResourceError


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


def require(needed: Mapping[str, float], *, what: str, advice: str) -> None:
    """Checks that the cluster can ever give what is needed; without it, the job would wait for ever.

    Args:
        needed: Amount by resource, such as {"CPU": 4, "GPU": 1}.
        what: Who needs it, for the message: "the pools need".
        advice: Where the need comes from and what to do.

    Raises:
        ResourceError: It does not fit.
    """
    available = _limit()
    for name, amount in needed.items():
        if amount > available.get(name, 0) + 1e-6:
            raise ResourceError(f"{what} {amount:g} {name}s and the cluster has {available.get(name, 0):g}: {advice}")


def _limit() -> dict[str, float]:
    """Most of each resource that there may be: on a cluster that grows, its limit, not what runs now."""
    from ray._private.state import state

    # There is no public call for an autoscaling cluster's limits; Ray Data's own autoscaler asks here too.
    limit = state.get_max_resources_from_cluster_config() or {}
    now = ray.cluster_resources()
    return {name: max(float(now.get(name, 0)), float(limit.get(name, 0))) for name in {*now, *limit}}
