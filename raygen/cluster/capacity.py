"""Whether what is asked for fits the cluster's nodes, and waiting for it in words.

A process runs on one node, so that a sum over the cluster says little: two nodes of one CPU hold no worker of two. What
fits where is worked out in `raygen.cluster.placement`; this asks Ray for the nodes.
"""

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.util import placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from raygen.cluster.placement import KINDS, Amounts, Need, describe, describe_nodes, fits, listed, num_on
from raygen.errors import ConfigError, ResourceError
from raygen.storage.progress import Say, quiet

# How long resources that just ended work had may still be counted as held.
PATIENCE_S = 30.0
# A wait is told of after so long, and then again.
TOLD_AFTER_S = 30.0
TOLD_AGAIN_S = 600.0
# How long nodes that are not there are waited for: a cloud's take ten minutes at times, with a large image.
LIMIT_VARIABLE = "RAYGEN_NODE_TIMEOUT_S"
LIMIT_S = 1800.0
# Nodes, or CPUs of a node, where there is no limit.
_ENDLESS = 1000


def require(needs: Sequence[Need], *, what: str, advice: str) -> None:
    """Checks that the cluster can ever hold what runs at once; without it, the job would wait for ever.

    A cluster that grows may get the nodes that its config allows.

    Args:
        needs: What runs at once.
        what: Who needs it, for the message: "the pools need".
        advice: Where the need comes from and what to do.

    Raises:
        ResourceError: It does not fit.
    """
    limit = _limit()
    for kind in KINDS:
        amount = sum(need.total.get(kind, 0) for need in needs)
        if amount > limit.get(kind, 0) + 1e-6:
            raise ResourceError(
                f"{what} {amount:g} {kind}s and the cluster has {limit.get(kind, 0):g}: {listed(needs)}. {advice}"
            )
    nodes = [*_nodes_now(), *_nodes_to_come(sum(need.count for need in needs))]
    for need in needs:
        if not fits([need], nodes):
            raise ResourceError(
                f"{what} {listed([need])}, each on one node, and the cluster has {describe_nodes(nodes)}. {advice}"
            )
    if not fits(needs, nodes):
        raise ResourceError(
            f"{what} {listed(needs)} at once, each on one node, and these do not fit side by side on the cluster's "
            f"{describe_nodes(nodes)}. {advice}"
        )


def num_side_by_side(need: Mapping[str, float]) -> int:
    """How many processes that each take `need` from one node the cluster can hold at once, other work aside.

    On a cluster that grows, as many as its config allows.
    """
    return max(num_on(need, _nodes_now()), num_on(need, _nodes_to_come(None)))


def require_free(needed: Mapping[str, float], *, what: str, patience_s: float = PATIENCE_S) -> None:
    """Checks that other work leaves what is needed; without it, the job would wait for that work's end.

    A cluster that grows makes room, so nothing is checked there.

    Args:
        needed: Amount by resource.
        what: Who needs it, for the message.
        patience_s: How long to look: what just ended gives back its resources a little later.

    Raises:
        ResourceError: They are held all that time.
    """
    deadline = time.monotonic() + patience_s
    while not _grows():
        free = ray.available_resources()
        short = {name: amount for name, amount in needed.items() if amount > free.get(name, 0) + 1e-6}
        if not short:
            return
        # Actors of a pass that failed in this process live as long as its error's traceback does; waiting alone never
        # makes Python collect that.
        gc.collect()
        if time.monotonic() > deadline:
            name, amount = next(iter(short.items()))
            raise ResourceError(
                f"{what} {amount:g} {name}s, and of the cluster's {ray.cluster_resources().get(name, 0):g} only "
                f"{free.get(name, 0):g} are free: other work holds the rest, perhaps this job's own entrypoint "
                "(--entrypoint-num-cpus). End it, or ask for less."
            )
        time.sleep(0.5)


def wait_until_free(needs: Sequence[Need], *, what: str, say: Say = quiet, told_after_s: float = TOLD_AFTER_S) -> None:
    """Waits until there is room for what runs at once, and says so where that takes long.

    Work that holds the room is waited for without end. Nodes that are not there, whether the cluster grows or has lost
    one, are waited for until a limit: `RAYGEN_NODE_TIMEOUT_S`, by default half an hour.

    Args:
        needs: What is about to start.
        what: Who needs it, for the message: "a fit needs".
        say: Called with what is waited for and what is there, and then now and then.
        told_after_s: How long a wait is before it is told of.

    Raises:
        ResourceError: The nodes did not come.
    """
    group = reserve(needs)
    if group is None:
        return
    try:
        wait_until_reserved(group, needs, what=what, say=say, told_after_s=told_after_s)
    finally:
        remove_placement_group(group)


def reserve(needs: Sequence[Need]) -> PlacementGroup | None:
    """Asks for room for what runs at once, without waiting for it; None where it needs none.

    To Ray this is as real as the work: it finds a place for all of it together, and a cluster that grows starts nodes.
    Whoever asks gives it back, with `ray.util.remove_placement_group`.
    """
    bundles = [each for need in needs if (each := _positive(need.each)) for _ in range(need.count)]
    return placement_group(bundles, strategy="PACK") if bundles else None


def wait_until_reserved(
    group: PlacementGroup, needs: Sequence[Need], *, what: str, say: Say = quiet, told_after_s: float = TOLD_AFTER_S
) -> None:
    """As `wait_until_free`, for room that was asked for by `reserve`; it stays reserved.

    Raises:
        ResourceError: The nodes did not come.
    """
    limit_s, start, next_line_s = node_timeout_s(), time.monotonic(), told_after_s
    while not group.wait(timeout_seconds=1):
        # Actors of a pass that failed in this process live as long as its error's traceback does; waiting alone never
        # makes Python collect that.
        gc.collect()
        waited_s = time.monotonic() - start
        if waited_s > limit_s and not fits(needs, _nodes_now()):
            raise ResourceError(
                f"{_lacking(needs, what)}. No other node came in {waited_s / 60:.1f} minutes ({LIMIT_VARIABLE}): add "
                "nodes, or ask for less. What is complete stays: the same command goes on."
            )
        if waited_s > next_line_s:
            next_line_s = waited_s + TOLD_AGAIN_S
            say(f"waiting: {_lacking(needs, what)}")


def lasting_wait() -> Callable[[], str | None]:
    """What tells, each time it is called, whether workers of this job have waited for room since the call before.

    A fit that is under way waits again when a node is lost; Ray does so without a word.
    """
    before: set[str] = set()

    def read() -> str | None:
        nonlocal before
        groups = placement_group_table() if ray.is_initialized() else {}
        own = {name: group for name, group in groups.items() if name.endswith(ray.get_runtime_context().get_job_id())}
        now = {name for name, group in own.items() if group["state"] in ("PENDING", "RESCHEDULING")}
        lasting, before = now & before, now
        if not lasting:
            return None
        bundles = Counter(describe(each) for name in lasting for each in own[name]["bundles"].values())
        rooms = ", ".join(f"{count} x ({each})" for each, count in bundles.items())
        free = ray.available_resources()
        there = describe({kind: round(free.get(kind, 0), 2) for kind in KINDS})
        return f"waiting for room for {rooms}; the cluster has {describe_nodes(_nodes_now())}, free are {there}"

    return read


def node_timeout_s() -> float:
    """How long nodes that are not there are waited for, seconds.

    Raises:
        ConfigError: The environment variable holds no such number.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return LIMIT_S
    try:
        limit_s = float(text)
    except ValueError:
        limit_s = -1
    if not 0 <= limit_s < float("inf"):
        raise ConfigError(f"{LIMIT_VARIABLE} is '{text}'; expected seconds, 0 or more, such as {LIMIT_S:g}")
    return limit_s


def _lacking(needs: Sequence[Need], what: str) -> str:
    """What is waited for, what is there, and whether other work or a missing node is the reason."""
    nodes, free = _nodes_now(), ray.available_resources()
    names = listed(needs)
    if fits(needs, nodes):
        there = describe({kind: round(free.get(kind, 0), 2) for kind in KINDS})
        return f"{what} {names} at once, and other work holds the cluster's {describe_nodes(nodes)}: free are {there}"
    return f"{what} {names} at once, and the cluster has only {describe_nodes(nodes)}"


def _positive(amounts: Mapping[str, float]) -> dict[str, float]:
    return {kind: amount for kind, amount in amounts.items() if amount > 0}


def _nodes_now() -> list[Amounts]:
    """What each living node has in all."""
    return [tuple(float(node["Resources"].get(kind, 0)) for kind in KINDS) for node in ray.nodes() if node["Alive"]]


def _nodes_to_come(at_most: int | None) -> list[Amounts]:
    """What each node has that an autoscaling cluster's config allows, those that run included.

    Args:
        at_most: Nodes of a kind to list; None for as many as the config has.
    """
    config = _cluster_config()
    nodes: list[Amounts] = []
    for group in [] if config is None else config.node_group_configs:
        endless = _ENDLESS if at_most is None else at_most
        count = endless if group.max_count < 0 else min(group.max_count, endless)
        found = [group.resources.get(kind, 0) for kind in KINDS]
        # Negative: found out on the node itself.
        nodes += [tuple(float(_ENDLESS if amount < 0 else amount) for amount in found)] * count
    return nodes


def _limit() -> dict[str, float]:
    """Most of each resource that there may be: on a cluster that grows, its limit, not what runs now."""
    from ray._private.state import state

    limit = dict(state.get_max_resources_from_cluster_config() or {})
    now = ray.cluster_resources()
    return {name: max(float(now.get(name, 0)), float(limit.get(name, 0))) for name in {*now, *limit}}


def _grows() -> bool:
    config = _cluster_config()
    return config is not None and any(group.max_count for group in config.node_group_configs)


def _cluster_config() -> Any:
    """An autoscaling cluster's kinds of nodes, and how many of each there may be; None for any other cluster."""
    from ray._private.state import state

    # There is no public call for this; Ray Data's own autoscaler asks here too.
    return state.get_cluster_config()
