"""One file and one line: a toy synthesis, algorithm, masker and dataset go through all that the real ones do."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import toy_hardest
import toy_left_half
import toy_squares
import toy_weighted
from tiny_pipelines import save_pipeline

from raygen import recipes
from raygen.algorithms import ALGORITHMS
from raygen.config import dump_yaml, load_yaml
from raygen.datasets import DATASETS
from raygen.errors import ConfigError
from raygen.images import decode_mask
from raygen.maskers import MASKERS
from raygen.report.collect import write_summary
from raygen.report.html import write_report
from raygen.run.names import find_recipe, known_recipes
from raygen.storage.parts import read_parts
from raygen.synthesis import SYNTHESES

SMALL = {
    "dataset": {"name": "scenes", "train_counts": [40, 4, 4, 20], "val_counts": [8] * 4, "test_counts": [8] * 4},
    "classifier": {"width": 8},
    "erm": {"epochs": 1, "learning_rate": 0.02},
    "pools": {name: {"batch_size": 8} for name in ("scorer", "masker", "inpainter", "pruner")},
    "fit": {"num_threads": 1},
    "unit_rows": 8,
    "controls": [],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("model") / "inpaint", scheduler="dpm")


@pytest.fixture
def _toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setitem(SYNTHESES, "hardest", toy_hardest)
        patched.setitem(ALGORITHMS, "weighted", toy_weighted)
        patched.setitem(MASKERS, "left_half", toy_left_half)
        patched.setitem(DATASETS, "squares", toy_squares)
        yield


@pytest.mark.usefixtures("_toys")
def test_toys_go_through_a_whole_run(model: Path, tmp_path: Path) -> None:
    inpainter = {"model": str(model), "num_inference_steps": 1}
    toy = {"share": 0.25, "masker": "left_half"}
    data = {**SMALL, "recipe": "hardest", "engine": "local", "inpainter": inpainter, "synthesis": toy}
    config = recipes.make_config({**data, "dataset": {"name": "squares", "each": 17}}, [], where="test")
    said: list[str] = []
    recipes.run(config, tmp_path / "run", fresh=False, command="test", say=said.append)
    assert "squares: red and blue" in said
    # By hand: of each class the quarter of highest loss, each repainted as what it is.
    losses = defaultdict(list)
    for row in read_parts(tmp_path / "run" / "scores").to_pylist():
        losses[row["label"]].append((row["loss"], row["image_id"]))
    expected = {name for found in losses.values() for _, name in sorted(found)[-round(0.25 * len(found)) :]}
    plan = pq.read_table(tmp_path / "run" / "plan" / "plan.parquet")
    assert set(plan["image_id"].to_pylist()) == expected
    assert plan["source_label"].equals(plan["target_label"])
    for png in read_parts(tmp_path / "run" / "candidates", columns=["repaint_png"])["repaint_png"].to_pylist():
        repaint_HW = decode_mask(png)
        assert repaint_HW[:, :32].all()
        assert not repaint_HW[:, 32:].any()
    summary = write_summary(tmp_path / "run")
    assert summary["synthesis"]["kept"] == len(expected) == 16
    assert set(summary["results"]) == {"erm", "hardest"}
    assert json.loads((tmp_path / "run" / "fit" / "hardest" / "manifest.json").read_text())["counts"]["extra"] == 16
    assert "hardest" in write_report(tmp_path / "run").read_text(encoding="utf-8")
    assert recipes.make_config(load_yaml(tmp_path / "run" / "config.yaml"), [], where="again") == config


@pytest.mark.usefixtures("_toys")
def test_toys_have_names_and_defaults_and_are_checked_like_the_others(tmp_path: Path) -> None:
    recipe = find_recipe("hardest+weighted")
    assert recipe == ("hardest", known_recipes()["hardest"])
    assert find_recipe("jtt + hardest")[0] == "hardest+jtt"
    assert find_recipe("dbb+weighted")[1].paper == f"{known_recipes()['dbb'].paper} with nobody's either"
    config = recipes.make_config({"recipe": "hardest+jtt"}, [], where="test")
    (tmp_path / "config.yaml").write_text(dump_yaml(config.model_dump(mode="json")))
    assert recipes.make_config(load_yaml(tmp_path / "config.yaml"), [], where="test") == config
    for override, message in (
        ("synthesis.shares=0.5", "synthesis.shares: unknown field; did you mean 'share'"),
        ("synthesis.share=2", r"synthesis.share: .*less than or equal to 1 \(found 2\)"),
        ("algorithm.wieght=2", "algorithm.wieght: unknown field; did you mean 'weight'"),
        ("synthesis.name=hard", "'scgs', 'dbb', .*'hardest'"),
        ("dataset.name=square", "'scenes', 'folder', .*'squares'"),
        ("algorithm.name=jtt", "recipe hardest has algorithm weighted, but algorithm.name is jtt"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipes.make_config({"recipe": "hardest"}, [override], where="test")


def test_without_their_lines_they_are_unknown() -> None:
    with pytest.raises(ConfigError, match=r"recipe is 'hardest'; known: .*dbb,"):
        recipes.make_config({"recipe": "hardest"}, [], where="test")


@pytest.mark.slow
def test_toys_that_register_themselves_reach_the_workers_of_a_sweep_and_a_run(model: Path, tmp_path: Path) -> None:
    """As a plug-in of somebody else's has it: Ray's workers import a module when they unpickle its config."""
    for name, line in (
        ("toy_hardest.py", "from raygen.synthesis import SYNTHESES\nSYNTHESES['hardest'] = sys.modules[__name__]"),
        ("toy_weighted.py", "from raygen.algorithms import ALGORITHMS\nALGORITHMS['weighted'] = sys.modules[__name__]"),
    ):
        source = Path(__file__).with_name(name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(f"{source}\nimport sys\n{line}\n", encoding="utf-8")
    (tmp_path / "toys.py").write_text("import toy_hardest, toy_weighted\nfrom raygen.cli import main\nmain()\n")
    inpainter = {"model": str(model), "num_inference_steps": 1}
    tune = {"trials": 4, "sampler": "grid", "asha": None, "num_refits": 1}
    sweep = {**SMALL, "recipe": "hardest", "engine": "local", "inpainter": inpainter, "tune": tune}
    (tmp_path / "sweep.yaml").write_text(dump_yaml(sweep))
    (tmp_path / "run.yaml").write_text(dump_yaml({**SMALL, "recipe": "weighted"}))
    for command in ("tune --config sweep.yaml --out sweep", "run run.yaml --out run"):
        argv = [sys.executable, "toys.py", *command.split()]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(tmp_path / "sweep" / "sweep.parquet").to_pylist()
    assert {row["status"] for row in rows} == {"complete"}
    points = {(row["synthesis.share"], row["algorithm.weight"]) for row in rows}
    assert points == {(0.1, 1.0), (0.1, 4.0), (0.2, 1.0), (0.2, 4.0)}
    assert set(write_summary(tmp_path / "run")["results"]) == {"erm", "weighted"}
