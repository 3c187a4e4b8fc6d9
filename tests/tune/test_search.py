"""The whole sweep on real parts at small size: one generation, real fits, a choice, one look at test."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from filelock import FileLock
from small_sweeps import ONLY_K, dies_once, notes, small_sweep, timed_trial
from typer.testing import CliRunner

from raygen import recipes
from raygen.cli import app
from raygen.config import load_yaml
from raygen.errors import ConfigError, ResourceError, RunFolderError
from raygen.report.sweep import write_sweep_page
from raygen.report.tables import print_trials
from raygen.run.config import make_config
from raygen.run.opened import Opened
from raygen.storage.progress import quiet
from tune.candidate_sets import candidate_set_configs, generate, plan_candidate_sets
from tune.records import Outcome, Record, read_records
from tune.search import saved_sweep, sweep
from tune.sharing import share
from tune.spaces import expand, point_of
from tune.sweep_config import make_sweep
from tune.trials import run_trials


def files(folder: Path, pattern: str) -> dict[str, tuple[int, bytes]]:
    """Time and bytes of the files of a folder that match."""
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.glob(pattern))}


def again(out: Path, model: Path, *overrides: str, **search: Any) -> list[str]:
    said: list[str] = []
    sweep(small_sweep(model, *overrides, **search), out, fresh=False, command="again", say=said.append)
    return said


def history(run: Path, name: str) -> list[dict[str, float]]:
    return list(json.loads((run / "fit" / name / "history.json").read_text())["epochs"])


def plain_run(config: recipes.RunConfig, out: Path) -> list[dict[str, float]]:
    """The history of the recipe's fit in a run of its own, with a generation of its own."""
    recipes.run(config, out, fresh=False, command="", say=lambda line: None)
    return history(out, "dbb")


def record_of(out: Path, params: dict[str, Any]) -> Record:
    (record,) = [record for record in read_records(out / "trials") if record.progress.params == params]
    return record


def test_the_folder_holds_what_it_should(finished_sweep: Path) -> None:
    table = pq.read_table(finished_sweep / "sweep.parquet")
    assert table.num_rows == 3
    params = ["synthesis.k", "algorithm.gamma.0", "synthesis.attribution_threshold.1"]
    assert {"trial", "status", "worst_group", "standard_error", "average", "kept", *params} <= set(table.column_names)
    rows = table.to_pylist()
    assert [row["status"] for row in rows] == ["complete"] * 3
    keys = [(row["split_worst_group"], row["split_average"]) for row in rows]
    assert keys == sorted(keys, reverse=True)
    assert all(row["standard_error"] > 0 and row["split_deviation"] is not None for row in rows)
    assert len(list((finished_sweep / "tensorboard").glob("*/events.out.tfevents*"))) == 3
    page = (finished_sweep / "sweep.html").read_text()
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert page.count("<title>trial 1:") == 1 + len(
        json.loads((finished_sweep / "summary.json").read_text())["best"]["params"]
    )
    assert "standard error of" in page
    (finished_sweep / "sweep.html").unlink()
    assert CliRunner().invoke(app, ["report", str(finished_sweep)]).exit_code == 0
    assert (finished_sweep / "sweep.html").read_text() == page


def test_without_attributes_the_sweeps_page_and_table_say_class(
    finished_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = shutil.copytree(finished_sweep, tmp_path / "sweep")
    summary = json.loads((out / "summary.json").read_text())
    for splits in summary["test"].values():
        for group in splits["test"]["groups"]:
            group["attribute"] = None
    (out / "summary.json").write_text(json.dumps(summary))
    page = re.sub(r"(?s)<style>.*?</style>|<pre.*?</pre>", "", write_sweep_page(out).read_text())
    print_trials(out / "sweep.parquet", summary)
    for text in (page, capsys.readouterr().out):
        assert re.search(r"worst.class", text, re.IGNORECASE)
        assert not re.search(r"worst.group|smallest group", text, re.IGNORECASE)


def test_a_trial_of_the_runs_own_config_is_the_plain_runs_fit(
    finished_sweep: Path, model: Path, tmp_path: Path
) -> None:
    """To the last bit, although its pictures come from a candidate set of twice as many."""
    config = small_sweep(model)
    own = point_of(config.run, space=config.space, num_classes=2)
    assert own is not None
    expected = plain_run(config.run, tmp_path / "run")
    progress = record_of(finished_sweep, own).progress
    assert progress.epochs == expected
    counts = json.loads((tmp_path / "run" / "fit" / "dbb" / "manifest.json").read_text())["counts"]
    assert progress.kept == counts["extra"] > 0


def test_the_best_config_runs_and_repeats_the_trial_and_its_refit(finished_sweep: Path, tmp_path: Path) -> None:
    config = make_config(load_yaml(finished_sweep / "best.yaml"), [], where="best.yaml")
    best = json.loads((finished_sweep / "summary.json").read_text())["best"]
    expected = plain_run(config, tmp_path / "run")
    assert record_of(finished_sweep, best["params"]).progress.epochs == expected
    assert history(finished_sweep / "refit" / best["name"], "seed_0") == expected
    assert history(finished_sweep / "refit" / best["name"], "seed_1") != expected


def test_test_is_read_once_for_the_chosen_trial(finished_sweep: Path) -> None:
    summary = json.loads((finished_sweep / "summary.json").read_text())
    read = sorted(path.relative_to(finished_sweep) for path in finished_sweep.rglob("predictions.parquet"))
    assert read == [Path("refit") / summary["best"]["name"] / "evaluation" / "predictions.parquet"]
    assert set(summary["test"]) == {"seed_0", "seed_1"}
    assert summary["num_test_readings"] == 1
    assert [group["n"] for group in summary["test"]["seed_0"]["test"]["groups"]] == [12] * 4


@pytest.mark.usefixtures("ray_session")
def test_a_second_sweep_generates_nothing_and_repeats_no_trial(
    finished_sweep: Path, model: Path, tmp_path: Path
) -> None:
    """As after a kill: of three trials that were done, one lost its record, and one its outcome.

    When it is fitted again its process dies after an epoch; it goes on from there, and ends as it did before.
    """
    out = tmp_path / "sweep"
    shutil.copytree(finished_sweep, out)
    made = files(out, "pools/*/candidates/*") | files(out, "base/**/*.parquet")
    kept, lost, open_ended = (out / "trials" / record.name for record in read_records(out / "trials"))
    before = files(kept, "*") | files(open_ended, "epochs.json")
    epochs = json.loads((lost / "epochs.json").read_text())["epochs"]
    (open_ended / "outcome.json").unlink()
    shutil.rmtree(lost)
    said: list[str] = []
    config = small_sweep(model, trials=4)
    # As if another process still had the first one: what is done is not waited for.
    with FileLock(kept / ".lock"):
        sweep(config, out, fresh=False, command="again", say=said.append, objective=dies_once)
    assert files(out, "pools/*/candidates/*") | files(out, "base/**/*.parquet") == made
    assert files(kept, "*") | files(open_ended, "epochs.json") == before
    assert json.loads((lost / "epochs.json").read_text())["epochs"] == epochs
    records = {record.name: record for record in read_records(out / "trials")}
    assert {record.status for record in records.values()} == {"complete"}
    assert records[lost.name].outcome == Outcome("complete", crashes=1, error=None)
    assert not list(out.glob("trials/*/checkpoint.pt"))
    assert pq.read_metadata(out / "sweep.parquet").num_rows == 4
    assert any(line.endswith("candidates: done before") for line in said)
    assert any("validation has 40 images, 10 in its smallest group" in line for line in said)


@pytest.mark.usefixtures("ray_session")
def test_of_two_trials_of_one_point_one_waits_and_fits_nothing(
    finished_sweep: Path, model: Path, tmp_path: Path
) -> None:
    whole = small_sweep(model)
    candidate_sets = candidate_set_configs(whole.run, whole.space, num_classes=2, max_pools=1)
    shutil.copytree(finished_sweep, tmp_path / "sweep")
    opened = {name: Opened(candidate_set) for name, candidate_set in candidate_sets.items()}
    base, planned = plan_candidate_sets(opened, tmp_path / "sweep", lambda line: None)
    task = share(whole, base, generate(planned), tmp_path / "sweep", say=quiet, warn=quiet)
    config = small_sweep(model, "fit.num_cpus=2", "tune.space.synthesis.k=[0.4]", *ONLY_K, trials=2)
    task = replace(task, sweep=config, trials=tmp_path / "trials")
    task.trials.mkdir()
    said: list[str] = []
    domains = expand(config.space, num_classes=2)
    run_trials(task, domains=domains, first=None, say=said.append, objective=timed_trial)
    assert said[0] == "trials: 2, 2 at once, 0 done before"
    (record,) = read_records(task.trials)
    assert record.status == "complete"
    quick, slow = sorted(row["seconds"] for row in notes(tmp_path))
    # CPU seconds: three epochs against reading what the other one wrote.
    assert quick < slow / 3


def test_a_folder_of_another_space_is_refused_before_any_work(finished_sweep: Path, model: Path) -> None:
    before = files(finished_sweep, "**/*.json")
    for override, field in (
        ("tune.space.synthesis.k={low: 0.1, high: 0.8, step: 0.1}", "tune.space.synthesis.k.high: 1.0 -> 0.8"),
        ("tune.space.algorithm.gamma=null", "tune.space.algorithm.gamma"),
        ("seed=1", "seed: 0 -> 1"),
        ("tune.metric=average", "tune.metric: 'worst_group' -> 'average'"),
    ):
        with pytest.raises(RunFolderError) as caught:
            again(finished_sweep, model, override)
        assert field in str(caught.value)
    assert files(finished_sweep, "**/*.json") == before


@pytest.mark.usefixtures("ray_session")
def test_what_cannot_be_is_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    for override, error in (
        ("tune.space.synthesis.k=[10, 67]", ConfigError),
        ("tune.space.synthesis.kk=[10]", ConfigError),
        ("fit.num_cpus=64", ResourceError),
    ):
        with pytest.raises(error):
            sweep(small_sweep(model, override), tmp_path / "sweep", fresh=False, command="", say=print)
    assert not (tmp_path / "sweep").exists()


def test_a_folder_without_a_sweep_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no sweep"):
        saved_sweep(tmp_path)


def test_the_saved_config_is_the_sweeps(finished_sweep: Path, model: Path) -> None:
    assert make_sweep(saved_sweep(finished_sweep), [], where="saved") == small_sweep(model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a recipe"),
        (["erm"], "has no search"),
        (["dbb", "--resume"], "holds no sweep"),
        (["--resume", "--fresh"], "give one of them"),
        (["dbb", "--set", "tune.space.synthesis.kk=[1]"], "did you mean 'k'"),
        (["dbb", "--trials", "0"], "tune.trials"),
        (["dbb", "--set", "tune.metric=f1"], "tune.metric"),
        (["dbb", "--dataset", "nowhere"], "does not exist"),
    ],
)
def test_the_users_mistakes_are_named(arguments: list[str], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["tune", *arguments])
    assert getattr(result.exception, "exit_code", None) == 2
    assert message in str(result.exception)
    assert not (tmp_path / "runs").exists()


def test_the_module_takes_the_same_arguments(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tune.search", "dbb", "--set", "tune.metric=f1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "tune.metric: Input should be 'worst_group' or 'average'" in done.stderr


@pytest.mark.slow
def test_a_killed_sweep_goes_on_without_repeating_what_is_done(model: Path, tmp_path: Path) -> None:
    """The driver and its Ray are killed once a trial is done; `--resume` ends with what an undisturbed sweep has."""
    out, config = tmp_path / "sweep", tmp_path / "sweep.yaml"
    data = small_sweep(model, "algorithm.epochs=6", "fit.num_cpus=1", trials=4, max_concurrent=1, num_refits=1).dump()
    config.write_text(yaml.safe_dump(data))
    raygen = [str(Path(sys.executable).with_name("raygen")), "tune"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    killed = subprocess.Popen(
        [*raygen, "--config", str(config), "--out", str(out)], start_new_session=True, env=environment
    )
    while not list(out.glob("trials/*/outcome.json")):
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = files(out, "trials/*/outcome.json")
    resumed = subprocess.run(
        [*raygen, "--resume", "--out", str(out)], capture_output=True, text=True, check=True, env=environment
    )
    assert {name: files(out, "trials/*/outcome.json")[name] for name in done} == done
    assert f"trials: 4, 1 at once, {len(done)} done before" in resumed.stdout
    whole = [*raygen, "--config", str(config), "--out", str(tmp_path / "whole")]
    subprocess.run(whole, capture_output=True, check=True, env=environment)
    ranked, expected = (
        [{**row, "trial": None, "seconds": None} for row in pq.read_table(folder / "sweep.parquet").to_pylist()]
        for folder in (out, tmp_path / "whole")
    )
    assert ranked == expected
