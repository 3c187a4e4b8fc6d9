"""cluster.yaml, offline: Ray's own schema code, and what that code does not see.

Ray accepts `gpu` for `GPU`, any instance type, and a file without start commands, so those are checked here;
the mutants show that each check can fail.
"""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]
Config = dict[str, Any]

# vCPUs, GPUs and GiB of memory, as Amazon lists them: aws.amazon.com/ec2/instance-types
INSTANCES = {"m6i.2xlarge": (8, 0, 32), "g5.12xlarge": (48, 4, 192)}
RESOURCE_NAMES = {"CPU", "GPU", "memory", "object_store_memory"}
# Ray's default share of the memory for its object store, which lives in /dev/shm.
OBJECT_STORE_FRACTION = 0.3


def load() -> Config:
    config: Config = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return config


def pinned_ray() -> str:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = [line.removeprefix("ray==") for line in lines if line.startswith("ray==")]
    return version


def problems(config: Config) -> list[str]:
    """Everything wrong with a cluster file that Ray's schema lets through."""
    found = []
    for kind in ("head", "worker"):
        found += _start_problems(kind, " ; ".join(config.get(f"{kind}_start_ray_commands", [])))
        found += _docker_problems(kind, config)
    for name, node in config["available_node_types"].items():
        found += _node_problems(name, node, is_head=name == config["head_node_type"])
    return found


def _start_problems(kind: str, commands: str) -> list[str]:
    wanted = {"auth": "RAY_AUTH_MODE=token", "token": "RAY_AUTH_TOKEN_PATH=/home/ray/.ray/auth_token"}
    wanted |= {"autoscaler": "--autoscaling-config="} if kind == "head" else {"address": "--address=$RAY_HEAD_IP"}
    found = [f"{kind} start: no {text} ({what})" for what, text in wanted.items() if text not in commands]
    hosts = re.findall(r"--dashboard-host[= ](\S+)", commands)
    return found + [f"{kind} start: dashboard on {host}" for host in hosts if host != "127.0.0.1"]


def _docker_problems(kind: str, config: Config) -> list[str]:
    docker = config["docker"]
    found = []
    image = docker.get(f"{kind}_image", docker.get("image", ""))
    if not image.startswith(f"rayproject/ray:{pinned_ray()}-py311-"):
        found.append(f"{kind} image {image} is not of Ray {pinned_ray()} and Python 3.11")
    shm = re.search(r"--shm-size=(\d+)g", " ".join(docker.get(f"{kind}_run_options", [])))
    for name, node in config["available_node_types"].items():
        if (name == config["head_node_type"]) == (kind == "head"):
            memory_gib = INSTANCES.get(node["node_config"].get("InstanceType"), (0, 0, 0))[2]
            if shm is None or int(shm[1]) < OBJECT_STORE_FRACTION * memory_gib:
                found.append(f"{kind}: shared memory is less than the object store's {OBJECT_STORE_FRACTION:.0%}")
    return found


def _node_problems(name: str, node: Config, *, is_head: bool) -> list[str]:
    resources, instance = node["resources"], node["node_config"].get("InstanceType")
    found = [f"{name}: unknown resource {key}" for key in resources if key not in RESOURCE_NAMES]
    if instance not in INSTANCES:
        return [*found, f"{name}: unknown instance type {instance}"]
    num_cpus, num_gpus, _ = INSTANCES[instance]
    if resources.get("GPU", 0) != num_gpus:
        found.append(f"{name}: GPU {resources.get('GPU', 0)}, but a {instance} has {num_gpus}")
    if resources.get("CPU") != (0 if is_head else num_cpus):
        found.append(f"{name}: CPU {resources.get('CPU')}, expected {0 if is_head else num_cpus}")
    if not is_head and not node.get("max_workers", 0) > 0:
        found.append(f"{name}: max_workers is 0, so no such node ever starts")
    return found


def set_at(*path: str, value: Any) -> Callable[[Config], None]:
    """A mutation that sets one field."""

    def mutate(config: Config) -> None:
        for key in path[:-1]:
            config = config[key]
        config[path[-1]] = value

    return mutate


def drop(*path: str) -> Callable[[Config], None]:
    """A mutation that removes one field."""

    def mutate(config: Config) -> None:
        for key in path[:-1]:
            config = config[key]
        del config[path[-1]]

    return mutate


def replace(field: str, old: str, new: str) -> Callable[[Config], None]:
    """A mutation of text in a list of commands or options, or in a field of `docker`."""

    def mutate(config: Config) -> None:
        place = config if field in config else config["docker"]
        before = copy.deepcopy(place[field])
        texts = before if isinstance(before, list) else [before]
        after = [text.replace(old, new) for text in texts]
        place[field] = after if isinstance(before, list) else after[0]
        assert place[field] != before, f"{field} holds no {old!r}: the mutant is not one"

    return mutate


WORKER = ("available_node_types", "gpu_worker")

REJECTED_BY_RAY = {
    "unknown field at the top": set_at("max_worker", value=2),
    "unknown field of a node type": set_at(*WORKER, "min_worker", value=0),
    "resource as text": set_at(*WORKER, "resources", value={"CPU": 48, "GPU": "4"}),
    "no head node type": drop("head_node_type"),
    "more workers at least than at most": set_at(*WORKER, "min_workers", value=3),
    "no container name": drop("docker", "container_name"),
}

REJECTED_HERE = {
    "gpu in small letters": set_at(*WORKER, "resources", value={"CPU": 48, "gpu": 4}),
    "more GPUs than the instance has": set_at(*WORKER, "resources", value={"CPU": 48, "GPU": 8}),
    "no GPU": set_at(*WORKER, "resources", value={"CPU": 48}),
    "more CPUs than the instance has": set_at(*WORKER, "resources", value={"CPU": 96, "GPU": 4}),
    "no such instance type": set_at(*WORKER, "node_config", "InstanceType", value="g5.13xlarge"),
    "misspelt InstanceType": set_at(*WORKER, "node_config", value={"InstanceTyp": "g5.12xlarge"}),
    "no worker may start": set_at(*WORKER, "max_workers", value=0),
    "head takes work": set_at("available_node_types", "head", "resources", value={"CPU": 8}),
    "head without resources": set_at("available_node_types", "head", "resources", value={}),
    "no head start commands": drop("head_start_ray_commands"),
    "no worker start commands": drop("worker_start_ray_commands"),
    "no autoscaler": replace("head_start_ray_commands", "--autoscaling-config=", "--config="),
    "head without auth": replace("head_start_ray_commands", "RAY_AUTH_MODE=token", ""),
    "worker without auth": replace("worker_start_ray_commands", "RAY_AUTH_MODE=token", ""),
    "worker without the token": replace("worker_start_ray_commands", "/home/ray/.ray/auth_token", "/tmp/token"),
    "dashboard for everyone": replace("head_start_ray_commands", "host=127.0.0.1", "host=0.0.0.0"),
    "dashboard for everyone, spaced": replace("head_start_ray_commands", "host=127.0.0.1", "host ::"),
    "worker finds no head": replace("worker_start_ray_commands", "--address=", "--adress="),
    "head of another Ray": replace("head_image", pinned_ray(), "2.59.0"),
    "worker of another Ray": replace("worker_image", pinned_ray(), "2.59.0"),
    "worker of another Python": replace("worker_image", "py311", "py312"),
    "little shared memory": replace("worker_run_options", "--shm-size=60g", "--shm-size=6g"),
}


def test_ray_accepts_the_file() -> None:
    validate_config(prepare_config(load()))


def test_the_file_has_no_problem() -> None:
    assert problems(load()) == []


def test_the_defaults_that_ray_fills_in_bring_no_problem() -> None:
    """Ray merges its own AWS defaults into the file, among them a dashboard on 0.0.0.0."""
    assert problems(prepare_config(load())) == []


@pytest.mark.parametrize("mutate", REJECTED_BY_RAY.values(), ids=REJECTED_BY_RAY.keys())
def test_ray_rejects(mutate: Callable[[Config], None]) -> None:
    config = load()
    mutate(config)
    with pytest.raises((jsonschema.ValidationError, ValueError, AssertionError, KeyError)):
        validate_config(prepare_config(config))


@pytest.mark.parametrize("mutate", REJECTED_HERE.values(), ids=REJECTED_HERE.keys())
def test_our_checks_reject_what_ray_lets_through(mutate: Callable[[Config], None]) -> None:
    config = load()
    mutate(config)
    validate_config(prepare_config(copy.deepcopy(config)))
    assert len(problems(config)) >= 1


def test_the_pinned_ray_is_the_tested_one_and_is_allowed() -> None:
    assert pinned_ray() == ray.__version__
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (need,) = [Requirement(text) for text in re.findall(r'"(ray\[[^"]*)"', pyproject)]
    assert need.specifier.contains(pinned_ray())


def test_token_reaches_the_path_that_ray_reads() -> None:
    config = load()
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
    for kind in ("head", "worker"):
        options = config["docker"][f"{kind}_run_options"]
        assert "--env=RAY_AUTH_MODE=token" in options
        assert "--env=RAY_AUTH_TOKEN_PATH=/home/ray/.ray/auth_token" in options


def test_no_token_stands_in_the_file() -> None:
    """A token in the file would be committed with it; and a node must not fall back to one."""
    assert "RAY_AUTH_TOKEN=" not in (ROOT / "cluster.yaml").read_text(encoding="utf-8")


def test_every_number_of_the_file_stands_under_a_comment() -> None:
    """Numbers without a reason are what nobody dares to change."""
    lines = (ROOT / "cluster.yaml").read_text(encoding="utf-8").splitlines()
    unexplained = []
    for i, line in enumerate(lines):
        has_number = re.match(r"\s*\w+: (\{.*\b\d+.*\}|[\d.]+)( #.*)?$", line)
        explained = "#" in line or lines[i - 1].lstrip().startswith("#")
        if has_number and not explained:
            unexplained.append(line)
    assert unexplained == []
