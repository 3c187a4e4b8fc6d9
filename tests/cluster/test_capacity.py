"""What runs at once fits the cluster's nodes, and what is waited for is said."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raygen.cluster import capacity
from raygen.cluster.placement import Need
from raygen.errors import ConfigError, ResourceError

# (CPUs, GPUs) of each node
Nodes = list[tuple[float, float]]


def pretend(monkeypatch: pytest.MonkeyPatch, nodes: Nodes, *, grows_to: dict[tuple[float, float], int]) -> None:
    """A cluster of these nodes, which may get as many of each kind as `grows_to` says."""
    alive: list[dict[str, Any]] = [{"Alive": True, "Resources": {"CPU": cpu, "GPU": gpu}} for cpu, gpu in nodes]
    dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
    groups = [
        SimpleNamespace(resources={"CPU": cpu, "GPU": gpu}, max_count=num) for (cpu, gpu), num in grows_to.items()
    ]
    totals = {kind: sum(node["Resources"][kind] for node in alive) for kind in ("CPU", "GPU")}
    limits = {
        kind: sum(num * size[place] for size, num in grows_to.items()) for place, kind in enumerate(("CPU", "GPU"))
    }
    monkeypatch.setattr(ray, "nodes", lambda: [*alive, dead])
    monkeypatch.setattr(ray, "cluster_resources", lambda: totals)
    state = SimpleNamespace(
        get_cluster_config=lambda: SimpleNamespace(node_group_configs=groups) if groups else None,
        get_max_resources_from_cluster_config=lambda: limits if groups else None,
    )
    monkeypatch.setattr("ray._private.state.state", state)


def needs(*each: tuple[float, float, int]) -> list[Need]:
    return [Need(f"part{i}", {"CPU": cpu, "GPU": gpu}, count) for i, (cpu, gpu, count) in enumerate(each)]


TWO_SMALL: Nodes = [(0, 0), (1, 0), (1, 0)]


@pytest.mark.parametrize(
    ("nodes", "grows_to", "wanted", "message"),
    [
        (
            TWO_SMALL,
            {},
            [(2, 0, 1)],
            r"part0: 1 x \(2 CPUs\), each on one node, .*2 nodes with 1 CPU, 1 node with 0 CPUs",
        ),
        (TWO_SMALL, {}, [(1, 0, 2)], None),
        (TWO_SMALL, {}, [(1, 0, 3)], "need 3 CPUs and the cluster has 2"),
        (TWO_SMALL, {}, [(0.75, 0, 2), (0.5, 0, 1)], "at once, each on one node, and these do not fit side by side"),
        (TWO_SMALL, {}, [(0.75, 0, 2), (0.25, 0, 2)], None),
        ([(2, 0)], {}, [(2, 0, 1)], None),
        ([(4, 0), (1, 1)], {}, [(2, 1, 1)], r"2 CPUs, 1 GPU\), each on one node"),
        ([(4, 0), (2, 1)], {}, [(2, 1, 1), (1, 0, 4)], None),
        ([(4, 0), (2, 1)], {}, [(2, 1, 1), (3, 0, 1), (1, 0, 1)], None),
        # First fit by size fills a node with the two of 4 and then finds no room; there is one.
        ([(10, 0), (10, 0)], {}, [(4, 0, 2), (3, 0, 4)], None),
        ([(0, 0)], {(1, 0): 8}, [(2, 0, 1)], r"2 CPUs\), each on one node"),
        ([(0, 0)], {(2, 0): 8}, [(2, 0, 3)], None),
        ([(0, 0)], {(8, 1): 2}, [(4, 1, 2), (0.25, 0, 2)], None),
        ([(4, 0)], {}, [(0, 0, 5), (1, 0, 4)], None),
    ],
)
def test_processes_are_placed_on_nodes_not_on_the_cluster(
    monkeypatch: pytest.MonkeyPatch,
    nodes: Nodes,
    grows_to: dict[tuple[float, float], int],
    wanted: list[tuple[float, float, int]],
    message: str | None,
) -> None:
    pretend(monkeypatch, nodes, grows_to=grows_to)
    if message is None:
        capacity.require(needs(*wanted), what="the parts need", advice="Ask for less.")
        return
    with pytest.raises(ResourceError, match=rf"the parts need .*{message}.*Ask for less\.|{message}"):
        capacity.require(needs(*wanted), what="the parts need", advice="Ask for less.")


@pytest.mark.parametrize("nodes", [[(1, 0), (2, 0)], [(3, 0), (2, 1)], [(2, 1), (2, 1)]])
def test_what_fits_is_what_some_order_of_placing_finds(monkeypatch: pytest.MonkeyPatch, nodes: Nodes) -> None:
    """Against every assignment of processes to nodes."""
    pretend(monkeypatch, nodes, grows_to={})
    for sizes in itertools.product([(0.5, 0), (1, 0), (1.5, 0), (1, 1)], repeat=3):
        fits = any(
            all(
                sum(size[kind] for size, place in zip(sizes, places, strict=True) if place == node) <= nodes[node][kind]
                for node in range(len(nodes))
                for kind in (0, 1)
            )
            for places in itertools.product(range(len(nodes)), repeat=3)
        )
        wanted = needs(*((cpu, gpu, 1) for cpu, gpu in sizes))
        if fits:
            capacity.require(wanted, what="", advice="")
        else:
            with pytest.raises(ResourceError):
                capacity.require(wanted, what="", advice="")


@pytest.mark.parametrize(
    ("nodes", "grows_to", "each", "expected"),
    [
        (TWO_SMALL, {}, {"CPU": 1.0, "GPU": 0.0}, 2),
        (TWO_SMALL, {}, {"CPU": 2.0}, 0),
        ([(0, 0)], {(1, 0): 8}, {"CPU": 2.0}, 0),  # eight CPUs, none of them two on a node
        ([(0, 0)], {(4, 1): 3}, {"CPU": 1.0, "GPU": 0.5}, 6),
    ],
)
def test_how_many_run_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
    nodes: Nodes,
    grows_to: dict[tuple[float, float], int],
    each: dict[str, float],
    expected: int,
) -> None:
    pretend(monkeypatch, nodes, grows_to=grows_to)
    assert capacity.num_side_by_side(each) == expected


@pytest.mark.usefixtures("ray_session")
def test_what_is_waited_for_is_said_and_the_wait_ends_with_the_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(capacity.LIMIT_VARIABLE, "0")  # the limit is for nodes that are not there, not for other work

    class Other:
        def ready(self) -> bool:
            return True

    other: Any = ray.remote(num_cpus=3)(Other).remote()
    assert ray.get(other.ready.remote())
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        ray.kill(other)

    wanted = [Need("fit", {"CPU": 2.0, "GPU": 0.0}), Need("nothing", {"CPU": 0.0})]
    capacity.wait_until_free(wanted, what="a fit needs", say=say, told_after_s=0.1)
    assert len(said) == 1
    assert said[0].startswith("waiting: a fit needs fit: 1 x (2 CPUs)")
    assert "other work holds the cluster's 1 node with 4 CPUs: free are 1 CPU" in said[0]
    capacity.require_free({"CPU": 4.0}, what="")  # what was reserved while waiting is given back


@pytest.mark.usefixtures("ray_session")
def test_nodes_that_do_not_come_are_waited_for_until_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(capacity.LIMIT_VARIABLE, "1.5")
    said: list[str] = []
    need = Need("fit", {"CPU": 64.0})
    with pytest.raises(ResourceError, match=r"fit: 1 x \(64 CPUs\) .*only 1 node with 4 CPUs. No other node came in"):
        capacity.wait_until_free([need], what="a fit needs", say=said.append, told_after_s=0.1)
    # On a busy machine the limit may have passed before the first line.
    assert all("the cluster has only 1 node with 4 CPUs" in line for line in said)


@pytest.mark.usefixtures("ray_session")
def test_workers_that_lose_their_room_are_told_of_if_that_lasts() -> None:
    read = capacity.lasting_wait()
    group = ray.util.placement_group([{"CPU": 64.0}, {"CPU": 64.0}])
    try:
        assert read() is None  # perhaps only for a moment
        assert "waiting for room for 2 x (64 CPUs); the cluster has 1 node with 4 CPUs, free are" in str(read())
    finally:
        ray.util.remove_placement_group(group)
    read()
    assert read() is None


def test_a_limit_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("soon", "nan", "-1", "inf"):
        monkeypatch.setenv(capacity.LIMIT_VARIABLE, text)
        with pytest.raises(ConfigError, match=rf"RAYGEN_NODE_TIMEOUT_S is '{text}'; expected seconds"):
            capacity.node_timeout_s()


def test_a_pretended_cluster_is_like_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fields that are read of an autoscaling cluster's config, on Ray's own message."""
    from ray.core.generated import autoscaler_pb2

    config: Any = autoscaler_pb2.ClusterConfig()
    group = config.node_group_configs.add(name="worker", max_count=3)
    group.resources["CPU"] = 2
    pretend(monkeypatch, [(0, 0)], grows_to={})
    monkeypatch.setattr("ray._private.state.state", SimpleNamespace(get_cluster_config=lambda: config))
    assert capacity.num_side_by_side({"CPU": 2.0}) == 3
    group.max_count = -1
    assert capacity.num_side_by_side({"CPU": 2.0}) > 100
