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
from typing import Any

import pytest
from faked_runs import FakedFolder, make_home

from raygen import recipes
from raygen.config import fingerprint
from raygen.run.config import RunConfig, identity
from raygen.run.steps import Steps
from tune.pools import pool_configs, pool_name
from tune.sweep_config import make_sweep
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
    job = Steps(config, folder, lambda line: None)
    data = job.load_rows()
    erm = job.fit_erm(data)
    fitted = {"erm": erm}
    if config.synthesis is not None:
        job.find_errors(data)
        identifier = job.fit_identifier(data, erm)
        scores = job.score(data, identifier)
        tokens = job.learn_tokens(data, scores, identifier)
        candidates = job.synthesize(job.plan(data, scores, tokens), data, identifier, tokens)
        fitted |= job.fit_all(data, scores, candidates, erm)
    elif config.recipe != "erm":
        fitted[config.recipe] = job.fit(config.recipe, data, erm, extra=None)
    job.evaluate(data, fitted)
    return {"identity": fingerprint(identity(config)), **folder.fingerprints}


def all_runs(home: Path) -> dict[str, dict[str, Any]]:
    with endpoint() as url, chdir(home):
        make_home(home)
        found = {}
        for name, run in BEGUN["runs"].items():
            config = config_of(run["config"], url)
            found[name] = {**run, "fingerprints": fingerprints(config, FakedFolder(home / "runs" / name))}
            if config.synthesis is not None:
                found[name]["pool"] = pool_name(config)
        return found


def all_sweeps() -> dict[str, dict[str, Any]]:
    found = {}
    for name, begun in BEGUN["sweeps"].items():
        sweep = make_sweep(begun["config"], [], where="test")
        pools = sorted(pool_configs(sweep.run, sweep.space, num_classes=2, max_pools=4))
        digests = {name: f"of {name}" for name in ("data", "erm", *pools)}
        task = Task(sweep=sweep, trials=Path(), erm=Path(), digests=digests, rows=None, pools={})
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
