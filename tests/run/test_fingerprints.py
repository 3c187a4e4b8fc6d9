"""What each step of a run depends on is what it was: run folders and sweeps that were begun before go on.

`begun_before.json` was written by the code of before steps were a list. With another content, every such folder is
refused or made again: say so in the changelog, and write the file anew:

    PYTHONPATH=.:tests python tests/run/test_fingerprints.py
"""

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from faked_runs import FakedFolder, make_home

from raygen import recipes
from raygen.algorithms import ALGORITHMS
from raygen.algorithms.jtt import JttConfig
from raygen.config import Decides, Identity, Strict, fingerprint
from raygen.datasets import DATASETS
from raygen.datasets.folder import FolderConfig
from raygen.maskers.grounded_sam import GroundedSamConfig
from raygen.pools.config import PoolConfig
from raygen.run.config import RunConfig
from raygen.run.opened import Opened
from raygen.run.steps import Run
from raygen.synthesis import SYNTHESES
from raygen.synthesis.dbb import DbbConfig
from tune.candidate_sets import candidate_set_configs, candidate_set_name
from tune.sweep_config import SearchConfig, make_sweep
from tune.trial import Task

FILE = Path(__file__).with_name("begun_before.json")
BEGUN: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))


class Facts(BaseHTTPRequestHandler):
    """The answer of an endpoint that is asked for a model's facts."""

    def do_GET(self) -> None:
        body = json.dumps({"id": "served", "digest": "sha256:0123456789abcdef"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Facts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def config_of(data: dict[str, Any], url: str) -> RunConfig:
    return recipes.make_config(json.loads(json.dumps(data).replace("{url}", url)), [], where="test")


def fingerprints(config: RunConfig, folder: FakedFolder) -> dict[str, str]:
    """Of the config and of each step of its run."""
    run = Run(Opened(config), folder, lambda line: None)
    for step in recipes.steps(run):
        run.do(step)
    return {"identity": fingerprint(config.deciding()), **folder.fingerprints}


def all_runs(home: Path) -> dict[str, dict[str, Any]]:
    with endpoint() as url, chdir(home):
        make_home(home)
        found = {}
        for name, run in BEGUN["runs"].items():
            config = config_of(run["config"], url)
            found[name] = {**run, "fingerprints": fingerprints(config, FakedFolder(home / "runs" / name))}
            if config.synthesis is not None:
                found[name]["pool"] = candidate_set_name(config)
        return found


def all_sweeps() -> dict[str, dict[str, Any]]:
    found = {}
    for name, begun in BEGUN["sweeps"].items():
        sweep = make_sweep(begun["config"], [], where="test")
        pools = sorted(candidate_set_configs(sweep.run, sweep.space, num_classes=2, max_pools=4))
        digests = {name: f"of {name}" for name in ("data", "erm", *pools)}
        task = Task(sweep=sweep, trials=Path(), erm=Path(), digests=digests, rows=None, candidate_sets={})
        identified = fingerprint(sweep.identity())
        found[name] = {**begun, "identity": identified, "pools": pools, "trial": task.name_of(begun["point"])}
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return all_runs(tmp_path_factory.mktemp("home"))


@pytest.mark.parametrize("name", BEGUN["runs"])
def test_a_run_that_was_begun_before_goes_on(name: str, runs: dict[str, dict[str, Any]]) -> None:
    assert runs[name] == BEGUN["runs"][name]


def test_a_sweep_that_was_begun_before_goes_on() -> None:
    assert all_sweeps() == BEGUN["sweeps"]


def models_in(annotation: Any) -> Iterator[type[Strict]]:
    """Config models that a field may hold, and those inside them."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
        for field in annotation.model_fields.values():
            yield from models_in(field.annotation)
    for inner in get_args(annotation):
        yield from models_in(inner)


def test_every_field_of_a_run_says_whether_it_decides_results() -> None:
    modules: list[Any] = [*ALGORITHMS.values(), *SYNTHESES.values(), *DATASETS.values()]
    kinds = (RunConfig, SearchConfig, *(module.Config for module in modules))
    models = {found for kind in kinds for found in models_in(kind)}
    assert {RunConfig, PoolConfig, DbbConfig, GroundedSamConfig, JttConfig, FolderConfig} <= models
    assert [
        f"{model.__name__}.{name}" for model in models for name in model.model_fields if not model.mark_of(name)
    ] == []


def test_what_a_class_leaves_open_is_found_and_decides_results_until_it_is_said() -> None:
    class Inner(Strict, decides=Decides.NOTHING):
        speed: int = 1
        size: Annotated[int, Decides.RESULTS] = 2

    class Outer(Strict):
        inner: Inner = Inner()
        amount: Annotated[int, Decides.AMOUNT] = 3
        open: int = 4

    assert [name for name in Outer.model_fields if not Outer.mark_of(name)] == ["inner", "open"]
    assert Outer().deciding() == {"inner": {"size": 2}, "amount": 3, "open": 4}
    assert Outer().deciding(Decides.AMOUNT) == {"inner": {"size": 2}, "open": 4}
    assert (Outer().decides("inner.speed"), Outer().decides("inner.size")) == (Decides.NOTHING, Decides.RESULTS)
    assert (Outer().decides("amount"), Outer().decides("inner.none")) == (Decides.AMOUNT, Decides.NOTHING)


def test_a_field_that_came_later_is_left_out_of_what_decides_while_it_has_its_default() -> None:
    class Later(Strict, decides=Decides.RESULTS):
        size: int = 1
        guided: Annotated[float, Identity.ABSENT_BY_DEFAULT] = 1.0

    assert Later().deciding() == Later(guided=1.0).deciding() == {"size": 1}
    assert Later(guided=0.5).deciding() == {"size": 1, "guided": 0.5}


FITS = {"fit/dbb", "fit/control_hole"}
FIELDS = {**BEGUN["runs"]["dbb_with_tokens"]["config"], "controls": ["hole"]}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    make_home(folder)
    return folder


@pytest.fixture(scope="module")
def unchanged(home: Path) -> dict[str, str]:
    with chdir(home):
        return fingerprints(recipes.make_config(FIELDS, [], where="test"), FakedFolder(home / "unchanged"))


@pytest.mark.parametrize(
    ("override", "steps"),
    [
        ("seed=1", {"erm", "tokens", "plan", *FITS}),
        ("picture_seed=1", {"tokens", "plan"}),
        ("fit_seed=1", FITS),
        ("engine=local", set()),
        ("max_failed_fraction=0.5", set()),
        ("unit_rows=128", {"scores", "candidates"}),
        ("pools.inpainter.actors=3", set()),
        ("pools.inpainter.batch_size=8", {"candidates"}),
        ("pools.scorer.num_threads=2", {"scores", "evaluation"}),
        ("pools.masker.num_gpus=1", {"candidates"}),  # the device that follows from it
        ("fit.max_failures=0", set()),
        ("fit.num_threads=3", {"erm", "tokens", *FITS}),
        ("fit.precision=bfloat16", {"erm", *FITS}),
        ("classifier.framing=resize_crop", {"erm", *FITS}),
        ("dataset.prompts=[a, b]", {"data"}),
        ("classifier.width=8", {"erm", *FITS}),
        ("erm.epochs=2", {"erm"}),
        ("algorithm.gamma=3", FITS),
        ("synthesis.k=1", {"plan"}),
        ("synthesis.prune=false", {"plan", *FITS}),
        ("inpainter.strength=0.5", {"candidates"}),
        ("inpainter.on_out_of_memory=reduce", set()),
        ("inpainter.guidance_stop=0.5", {"candidates"}),
        ("inpainter.scheduler=DDIMScheduler", {"candidates"}),
        ("inpainter.compile=true", {"candidates"}),
        ("textual_inversion.num_steps=9", {"tokens"}),
    ],
)
def test_a_field_changes_the_fingerprints_of_the_steps_that_read_it(
    override: str, steps: set[str], home: Path, unchanged: dict[str, str], tmp_path: Path
) -> None:
    with chdir(home):
        found = fingerprints(recipes.make_config(FIELDS, [override], where="test"), FakedFolder(tmp_path))
    assert found.keys() == unchanged.keys()
    changed = {name for name in found if found[name] != unchanged[name]}
    assert changed == ({"identity", *steps} if steps else set())


@pytest.mark.parametrize("field", ["picture_seed", "fit_seed"])
def test_the_runs_own_seed_in_another_field_changes_no_step(
    field: str, home: Path, unchanged: dict[str, str], tmp_path: Path
) -> None:
    with chdir(home):
        found = fingerprints(recipes.make_config(FIELDS, [f"{field}=0"], where="test"), FakedFolder(tmp_path))
    assert {name for name in found if found[name] != unchanged[name]} == {"identity"}


def test_a_tolerance_of_integrated_gradients_changes_what_is_made_with_it(home: Path, tmp_path: Path) -> None:
    begun = BEGUN["runs"]["dbb_by_cam_with_ig"]
    with chdir(home):
        config = recipes.make_config(begun["config"], ["synthesis.completeness_tolerance=0.01"], where="test")
        found = fingerprints(config, FakedFolder(tmp_path))
    changed = {name for name in found if found[name] != begun["fingerprints"][name]}
    assert changed == {"identity", "plan", "candidates"}


def _write() -> None:
    with tempfile.TemporaryDirectory() as home:
        found = {"runs": all_runs(Path(home)), "sweeps": all_sweeps()}
    parts = [
        f'"{kind}": {{\n' + ",\n".join(f'"{name}": {json.dumps(entry)}' for name, entry in entries.items()) + "\n}"
        for kind, entries in found.items()
    ]
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _write()
