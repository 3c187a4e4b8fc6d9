"""Trials on Ray Tune, with trials that fit nothing: what is tried, stopped, retried, resumed, and how many at once."""

from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from small_sweeps import ONLY_K, fails_at_some, notes, small_sweep, toy_task, toy_trial

from raygen.cluster import capacity
from raygen.errors import ResourceError
from tune.domains import Domain
from tune.records import read_records
from tune.spaces import expand
from tune.sweep_config import SweepConfig
from tune.trials import concurrency, distribution, run_trials


def run(sweep: SweepConfig, data: Path, out: Path, objective: Any = toy_trial) -> list[str]:
    """Runs a sweep's trials in a folder; gives back what was said."""
    said: list[str] = []
    domains = expand(sweep.space, num_classes=2)
    run_trials(toy_task(sweep, data, out / "trials"), domains=domains, first=None, say=said.append, objective=objective)
    return said


@pytest.mark.usefixtures("ray_session")
def test_a_trial_below_its_rung_is_stopped_and_one_above_goes_on(scenes_folder: Path, tmp_path: Path) -> None:
    overrides = [*ONLY_K, "tune.space.synthesis.k=[0.5, 0.1, 0.9]", "algorithm.epochs=4"]
    asha = {"grace_epochs": 2, "reduction_factor": 2}
    said = run(small_sweep("tiny", *overrides, sampler="grid", asha=asha), scenes_folder, tmp_path)
    found = {
        r.progress.params["synthesis.k"]: (r.status, len(r.progress.epochs)) for r in read_records(tmp_path / "trials")
    }
    # After two epochs: 0.25, then 0.05 below the median of what came before, then 0.45 above it.
    assert found == {0.5: ("complete", 4), 0.1: ("stopped", 2), 0.9: ("complete", 4)}
    assert any("k=0.1" in line and "stopped after epoch 2" in line for line in said)
    # Each asks for all CPUs of the cluster: one after the other, in the order of the list, and none waits for ever.
    assert said[0] == "trials: 3, 1 at once, 0 done before"
    assert [row["params"]["synthesis.k"] for row in notes(tmp_path)] == [0.5] * 4 + [0.1] * 2 + [0.9] * 4


@pytest.mark.usefixtures("ray_session")
def test_a_trial_that_crashes_is_tried_once_more_and_reported(scenes_folder: Path, tmp_path: Path) -> None:
    overrides = [*ONLY_K, "tune.space.synthesis.k=[0.2, 0.4, 0.6]"]
    said = run(small_sweep("tiny", *overrides, sampler="grid"), scenes_folder, tmp_path, fails_at_some)
    records = {record.progress.params["synthesis.k"]: record for record in read_records(tmp_path / "trials")}
    outcomes = {k: record.outcome for k, record in records.items() if record.outcome is not None}
    assert {k: (o.status, o.crashes) for k, o in outcomes.items()} == {
        0.2: ("complete", 1),
        0.4: ("failed", 2),
        0.6: ("complete", 0),
    }
    assert outcomes[0.4].error == "RuntimeError: told to fail"
    assert sum(row["epoch"] == -2 for row in notes(tmp_path)) == 2
    assert sum("crashed and is tried once more" in line for line in said) == 2
    assert sum("crashed again, left out: RuntimeError: told to fail" in line for line in said) == 1


@pytest.mark.usefixtures("ray_session")
def test_more_trials_of_a_sweep_do_not_repeat_those_that_are_done(scenes_folder: Path, tmp_path: Path) -> None:
    overrides = ["tune.space.synthesis.k={low: 0.1, high: 1.0}"]
    said = run(small_sweep("tiny", *overrides, sampler="optuna", trials=3), scenes_folder, tmp_path)
    before = notes(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "trials").glob("*/*.json")}
    assert len(before) == 3 * 3
    said = run(small_sweep("tiny", *overrides, sampler="optuna", trials=5), scenes_folder, tmp_path)
    new = notes(tmp_path)[len(before) :]
    assert len(new) == 2 * 3
    points = [tuple(row["params"].items()) for row in before + new]
    assert len(set(points)) == 5
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert sum("done before" in line for line in said[1:]) == 3
    assert said[0].startswith("trials: 5,")
    assert said[0].endswith("3 done before")
    # Every trial of both sessions is in the events for TensorBoard, once.
    assert len(list((tmp_path / "tensorboard").glob("*/events.out.tfevents*"))) == 5


@pytest.mark.usefixtures("ray_session")
def test_as_many_trials_at_once_as_the_cluster_holds() -> None:
    """The test session has four CPUs and no GPU."""
    for num_cpus, expected in ((4, 1), (3, 1), (2, 2), (0.5, 8)):
        assert concurrency(small_sweep("tiny", f"fit.num_cpus={num_cpus}").run, at_most=None) == expected
    assert concurrency(small_sweep("tiny", "fit.num_cpus=1").run, at_most=3) == 3
    assert concurrency(small_sweep("tiny", "fit.num_cpus=1").run, at_most=9) == 4


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("override", ["fit.num_cpus=5", "fit.num_gpus=0.5"])
def test_resources_that_no_node_has_are_refused(override: str) -> None:
    with pytest.raises(ResourceError, match=r"a trial takes .* no node of the cluster has them"):
        concurrency(small_sweep("tiny", override).run, at_most=None)


@pytest.mark.usefixtures("ray_session")
def test_what_other_work_holds_is_not_waited_for_without_end() -> None:
    """As when the sweep's own entrypoint took a CPU of the cluster that its trials ask for whole."""

    class Holder:
        def ready(self) -> None:
            return None

    needed = {"CPU": 4.0, "GPU": 0.0}
    capacity.require_free(needed, what="a trial takes")
    holder: Any = ray.remote(num_cpus=1)(Holder).remote()
    ray.get(holder.ready.remote())
    with pytest.raises(ResourceError, match=r"a trial takes 4 CPUs, and of the cluster's 4 only 3 are free"):
        capacity.require_free(needed, what="a trial takes", patience_s=1)
    capacity.require_free({"CPU": 3.0}, what="a trial takes", patience_s=1)
    cycle: dict[str, Any] = {"holder": holder}
    cycle["cycle"] = cycle
    del holder, cycle  # as the traceback of a failed pass holds its actors, which only a collection frees
    capacity.require_free(needed, what="a trial takes")


@pytest.mark.parametrize(
    "domain",
    [
        Domain(low=0.1, high=1.0, step=0.1),
        Domain(low=1, high=10),
        Domain(low=2, high=8, step=3),
        Domain(values=("selected", "off", 3, 0.5)),
        Domain(low=1e-4, high=1.0, log=True),
        Domain(low=1, high=1000, log=True),
    ],
)
def test_optuna_draws_what_the_domain_holds(domain: Domain) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [study.ask({"x": distribution(domain)}).params["x"] for _ in range(200)]
    assert all(domain.holds(domain.nearest(value)) for value in drawn)
    points = domain.points()
    if points is not None:
        assert {domain.nearest(value) for value in drawn} == set(points)
    elif domain.log:
        # Half of the draws lie below the middle of the logarithms: 200 coin tosses, five standard deviations.
        assert domain.low is not None
        assert domain.high is not None
        below = sum(value < (float(domain.low) * float(domain.high)) ** 0.5 for value in drawn)
        assert abs(below - 100) < 36
