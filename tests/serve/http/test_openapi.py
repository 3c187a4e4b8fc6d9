"""The OpenAPI document is the truth: schemathesis finds nothing, and every code and route is in it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
from edit_forms import EDITS, post
from paint_backend import Running

from serve.http.errors import ERRORS
from serve.http.fields import FIELDS

HERE = Path(__file__).parent


def run_schemathesis(
    url: str, headers: dict[str, str], folder: Path, *, seed: int, num_examples: int, phases: str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(HERE), str(HERE.parents[1]), str(HERE.parents[2])])
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json", "--checks", "all"]
    command += ["--phases", phases, "--max-examples", str(num_examples), "--seed", str(seed), "--warnings", "off"]
    command += [part for name, value in headers.items() for part in ("-H", f"{name.title()}: {value}")]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": path}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def expect_nothing_found(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout, done.stdout[-2000:]


def test_schemathesis_finds_nothing(keyed: Running, admin_key: dict[str, str], tmp_path: Path) -> None:
    done = run_schemathesis(keyed.url, admin_key, tmp_path, seed=1, num_examples=6, phases="examples,fuzzing")
    expect_nothing_found(done)
    assert keyed.backend.num_painted, "every case was refused: nothing was tested"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [11, 22, 33])
def test_schemathesis_finds_nothing_in_much_more(
    keyed: Running, admin_key: dict[str, str], tmp_path: Path, seed: int
) -> None:
    phases = "examples,coverage,fuzzing"  # some 2,000 cases
    done = run_schemathesis(keyed.url, admin_key, tmp_path, seed=seed, num_examples=100, phases=phases)
    expect_nothing_found(done)


def document_of(server: Running) -> Any:
    return httpx2.get(f"{server.url}/openapi.json").json()


def test_every_schema_is_one(endpoint: Running, keyed: Running) -> None:
    for server in (endpoint, keyed):
        for schema in document_of(server)["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)


def test_every_route_is_in_the_document_and_the_other_way_round(endpoint: Running) -> None:
    paths = document_of(endpoint)["paths"]
    for path, operations in paths.items():
        allowed = httpx2.request("PATCH", endpoint.url + path.replace("{", "").replace("}", "")).headers["allow"]
        assert {name.strip() for name in allowed.split(",")} - {"HEAD"} == {name.upper() for name in operations}


def test_every_route_asks_for_a_key_but_probes_and_the_document(keyed: Running) -> None:
    for path, operations in document_of(keyed)["paths"].items():
        is_open = path.startswith(("/health/", "/v2/")) or path == "/openapi.json"
        for method, operation in operations.items():
            status = httpx2.request(method, keyed.url + path.replace("{", "").replace("}", "")).status_code
            assert (status == 401, "security" in operation) == (not is_open, not is_open), (method, path)


def test_every_status_that_a_code_has_is_in_the_document(keyed: Running) -> None:
    """405 belongs to no operation, and 499 is never sent."""
    paths = document_of(keyed)["paths"]
    documented = {status for operations in paths.values() for one in operations.values() for status in one["responses"]}
    assert {str(kind.status) for kind in ERRORS.values()} - {"405", "499"} <= documented


def test_every_field_is_in_both_forms(endpoint: Running) -> None:
    schemas = document_of(endpoint)["components"]["schemas"]
    assert {*schemas["EditForm"]["properties"]} == {*FIELDS, "image", "mask"}
    assert {*schemas["EditJson"]["properties"]} == {*FIELDS, "images", "mask"}
    for form in ("EditForm", "EditJson"):
        assert [name for name in FIELDS if not schemas[form]["properties"][name].get("description")] == []


@pytest.mark.parametrize("size", ["64x64", "2048x8", "72x1992", "100x64", "auto", "2056x64", "128x1288", "0x64", "64"])
def test_the_pattern_of_sizes_says_what_the_server_does(endpoint: Running, size: str) -> None:
    schema = document_of(endpoint)["components"]["schemas"]["EditForm"]["properties"]["size"]
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(size)
    assert (post(endpoint.url, size=size).status_code == 200) == is_valid


def test_a_real_answer_fits_its_schema(endpoint: Running) -> None:
    whole = document_of(endpoint)
    schemas = {"components": whole["components"]}
    for response, name in [
        (post(endpoint.url, n=2), "EditResult"),
        (post(endpoint.url, prompt=None), "Error"),
        (post(endpoint.url, headers={"prefer": "respond-async"}), "Job"),
        (httpx2.get(f"{endpoint.url}/v1/models"), "ModelList"),
    ]:
        jsonschema.validate(response.json(), {**schemas, "$ref": f"#/components/schemas/{name}"})
    assert EDITS in whole["paths"]
