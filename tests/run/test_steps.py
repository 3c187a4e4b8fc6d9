"""The steps of a run: their order, and which unfinished work each goes on from."""

import contextlib
import os
import sys
from collections.abc import Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any, Literal

import pytest
from faked_runs import FakedFolder, make_home
from ray import cloudpickle

from raygen import recipes
from raygen.cluster import capacity
from raygen.errors import ResourceError
from raygen.fits import running
from raygen.run.opened import Opened
from raygen.run.steps import Run, RunStep, rows
from raygen.storage.run_folder import RunFolder, Step
from raygen.worker import Worker

# Workers of Ray do not find this file by its name.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

PICTURES = {
    "dataset": {"name": "folder", "path": "birds"},
    "inpainter": {"model": "models/inpaint"},
    "controls": ["hole"],
}
# By hand: rows first and the evaluation last; what an algorithm needs of the original images alone (JTT's error set)
# before hours of scoring and painting; tokens before the plan, whose prompts name them. A fit and tokens go on from a
# checkpoint of the very same request, a pass from any part that says itself what it was made with.
ORDERS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "tokens": (
        {
            "recipe": "dbb",
            "synthesis": {"mask": "box"},
            "textual_inversion": {"num_images": 2, "initializers": "b", "source": "val_groups"},
        },
        [
            ("data", "nothing"),
            ("erm", "own"),
            ("scores", "parts"),
            ("val_scores", "parts"),
            ("tokens", "own"),
            ("plan", "nothing"),
            ("candidates", "parts"),
            ("fit/dbb", "own"),
            ("fit/control_hole", "own"),
            ("evaluation", "nothing"),
        ],
    ),
    "folds": (
        {"recipe": "scgs+jtt", "synthesis": {"mis_source": "kfold", "num_folds": 2}},
        [
            ("data", "nothing"),
            ("erm", "own"),
            ("jtt_errors/original", "own"),
            ("folds/0", "own"),
            ("folds/1", "own"),
            ("scores_in_sample", "parts"),
            ("scores", "nothing"),
            ("plan", "nothing"),
            ("candidates", "parts"),
            ("fit/scgs+jtt", "own"),
            ("fit/control_hole", "own"),
            ("evaluation", "nothing"),
        ],
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_steps_come_in_order_and_go_on_from_what_is_theirs(name: str, tmp_path: Path) -> None:
    data, expected = ORDERS[name]
    make_home(tmp_path)
    with chdir(tmp_path):
        config = recipes.make_config({**PICTURES, **data}, [], where="test")
        run = Run(Opened(config), FakedFolder(tmp_path / "run"), lambda line: None)
        found = []
        for step in recipes.steps(run):
            run.do(step)
            found.append((step.name, step.keeps))
    assert [*dict.fromkeys(found)] == expected  # the error set is asked for again before each fit


KINDS = ("duplicate", "hole", "flat", "paste", "shuffled", "reweight")


def test_later_controls_come_after_all_else_and_change_nothing_of_it(tmp_path: Path) -> None:
    """Beside the recipe, and, since some pictures are pruned, again with as many rows as all of them."""
    make_home(tmp_path)
    said: list[str] = []
    with chdir(tmp_path):
        data = {**PICTURES, "recipe": "dbb", "synthesis": {"mask": "box"}, "unpruned": True, "controls": KINDS}
        config = recipes.make_config(data, [], where="test")
        first = recipes.make_config({**data, "controls": KINDS[:3]}, [], where="test")
        assert config.deciding() == first.deciding()
        run = Run(Opened(config), FakedFolder(tmp_path / "run"), said.append)
        for step in recipes.steps(run):
            run.do(step)
        assert [name for name in run.done if name.startswith("fit/")] == [
            "fit/dbb",
            "fit/dbb_unpruned",
            *(f"fit/control_{kind}" for kind in KINDS[:3]),
        ]
        found = [run.do(step).folder.name for step in recipes.controls(run)]
    names = [f"control_{kind}" for kind in KINDS[3:]] + [f"unpruned_control_{kind}" for kind in KINDS]
    assert found == [*names, "control_evaluation"]
    # As many rows as the fit beside which they stand.
    depends = {name: run.done[f"fit/{name}"].depends["extra"] for name in ("dbb", "dbb_unpruned", *names)}
    for name in names:
        beside = "dbb_unpruned" if name.startswith("unpruned") else "dbb"
        assert depends[name] == [name.rpartition("_")[2], *depends[beside][1:]]
    assert depends["dbb"] != depends["dbb_unpruned"]
    assert not any("left out" in line for line in said)


def test_what_the_dataset_does_not_allow_is_left_out_and_said(tmp_path: Path) -> None:
    """SCGS repaints no object, and the folder has neither masks nor places."""
    make_home(tmp_path)
    table = tmp_path / "birds" / "metadata.csv"
    rows = [line.rsplit(",", 1)[0] for line in table.read_text(encoding="utf-8").splitlines()]
    table.write_text("\n".join(rows), encoding="utf-8")
    said: list[str] = []
    with chdir(tmp_path):
        config = recipes.make_config({**PICTURES, "recipe": "scgs", "controls": KINDS[3:]}, [], where="test")
        run = Run(Opened(config), FakedFolder(tmp_path / "run", has_places=False), said.append)
        for step in recipes.steps(run):
            run.do(step)
        found = [step.name for step in recipes.controls(run) if run.do(step)]
    assert found == ["fit/control_shuffled", "control_evaluation"]
    lines = [line for line in said if "left out" in line]
    assert lines == [
        "control_paste: left out, no object of class 'landbird' is known: the dataset has no masks of it, the masker "
        "none",
        "control_reweight: left out, the groups of the training images are not known",
    ]


@pytest.mark.parametrize(
    ("keeps", "of_the_same", "of_another"),
    [("nothing", False, False), ("own", True, False), ("parts", True, True)],
)
def test_a_step_goes_on_from_the_unfinished_work_that_it_keeps(
    keeps: Literal["nothing", "own", "parts"], of_the_same: bool, of_another: bool, tmp_path: Path
) -> None:
    found: list[bool] = []

    def half(step: Step) -> Mapping[str, Any]:
        (step.folder / "half").touch()
        raise KeyboardInterrupt

    def whole(step: Step) -> Mapping[str, Any]:
        found.append((step.folder / "half").exists())
        return {}

    config = recipes.make_config({"recipe": "erm"}, [], where="test")
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        run = Run(Opened(config), RunFolder(folder), lambda line: None)
        with pytest.raises(KeyboardInterrupt):
            run.do(RunStep("work", {}, {"seed": 1}, "working", half, keeps=keeps))
        run.do(RunStep("work", {}, {"seed": seed}, "working", whole, keeps=keeps))
    assert found == [of_the_same, of_another]


def test_a_step_says_whether_it_was_done_before_or_is_made_again(tmp_path: Path) -> None:
    said: list[str] = []
    run = Run(Opened(recipes.make_config({"recipe": "erm"}, [], where="test")), RunFolder(tmp_path), said.append)
    for seed in (1, 1, 2):
        run.do(RunStep("erm", {}, {"seed": seed}, "fitting erm", lambda step: {}, label="fit erm"))
    assert said == [
        "fit erm: fitting erm",
        "fit erm: done before",
        "fit erm: made again, since what it depends on is not what it was",
        "fit erm: fitting erm",
    ]
    assert run.done["erm"].is_complete


def note_process(worker: Worker, payload: dict[str, Any]) -> None:
    (worker.folder / "process").write_text(str(os.getpid()))


@pytest.mark.usefixtures("ray_session")
def test_fits_share_workers_that_are_there_early_and_are_let_go_before_any_other_step(tmp_path: Path) -> None:
    """Workers that take the whole cluster: without room a pass would wait for ever."""
    counts = {f"{split}_counts": [1] * 4 for split in ("train", "val", "test")}
    data = {"recipe": "erm", "dataset": {"name": "scenes", **counts}, "fit": {"num_cpus": 4, "num_threads": 1}}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    config = recipes.make_config(data, [], where="test")

    def fit(step: Step) -> Mapping[str, Any]:
        running.run(note_process, {}, folder=step.folder, resources=config.fit, engine="ray", workers=run.workers)
        return {}

    def ask_for_all(step: Step) -> Mapping[str, Any]:
        capacity.require_free({"CPU": 4}, what="a pass needs")
        return {}

    def is_held() -> bool:
        try:
            capacity.require_free({"CPU": 4}, what="this needs", patience_s=0)
        except ResourceError:
            return True
        return False

    folders = [RunFolder(tmp_path / name) for name in ("first", "second")]
    with Run(Opened(config), folders[0], lambda line: None) as run:
        run.do(rows(run))
        assert is_held()
        one, two = (run.do(RunStep(name, {}, {}, "working", fit, is_fit=True)) for name in ("one", "two"))
        assert (one.folder / "process").read_text() == (two.folder / "process").read_text()
        run.do(rows(run))  # done before: nothing needs the room
        assert is_held()
        run.do(RunStep("pass", {}, {}, "working", ask_for_all))
    with contextlib.suppress(KeyboardInterrupt), Run(Opened(config), folders[1], lambda line: None) as run:
        run.do(rows(run))
        raise KeyboardInterrupt
    capacity.require_free({"CPU": 4}, what="the next run needs")
