"""What may import what: the contracts of pyproject.toml hold, can fail, and hold at run time too."""

import ast
import json
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "ray", "diffusers", "transformers", "captum", "pytorch_grad_cam"}
OWN = ("raygen", "serve", "tune")
# Loaded by others when it is there, never imported by our code: pyproject.toml says why.
NOT_IMPORTED = {"accelerate"}
# The process ends at once; whether PyTorch still holds a hook.
PRIVATE_OF_LIBRARIES = {"_exit", "_forward_hooks"}
LOWEST = ["storage.run_folder", "metrics", "images", "config", "schema", "groups", "seeding", "errors", "datasets"]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports_command as m; m()"
    command = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def loaded_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def imported_packages() -> Iterator[tuple[str, Path]]:
    """Top-level third-party packages that our code imports, wherever in a file."""
    for path in [path for package in OWN for path in sorted((ROOT / package).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - {*OWN, *sys.stdlib_module_names}:
                yield name, path


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the code to break."""
    for package in OWN:
        ignore = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_are_kept() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("raygen/metrics.py", "import raygen.datasets", "Layers"),
        ("raygen/recipes.py", "import ray", "Ray is imported only in"),
        ("raygen/endpoint/http.py", "import ray", "Ray is imported only in"),
        ("raygen/stages/spec.py", "import raygen.pools.pipeline", "Science never reaches Ray"),
        ("raygen/inpainters/served.py", "import raygen.endpoint.handle", "Science never reaches Ray"),
        ("raygen/cluster/__init__.py", "import raygen.endpoint.http", "Layers"),
        ("raygen/algorithms/erm.py", "import raygen.algorithms.balanced", "One paper's code"),
        ("raygen/synthesis/dbb.py", "import raygen.synthesis.scgs", "One paper's code"),
        ("raygen/images/__init__.py", "import torch", "load without torch"),
        ("raygen/stages/spec.py", "import diffusers", "diffusers only in"),
        ("raygen/maskers/cam.py", "import captum", "captum only in"),
        ("raygen/pruners/attribution.py", "import pytorch_grad_cam", "pytorch_grad_cam only in"),
    ],
)
def test_contract_catches(copied: Path, file: str, line: str, contract: str) -> None:
    with (copied / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    done = lint_imports(copied)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = [text for text in done.stdout.splitlines() if " BROKEN" in text]
    assert any(contract in text for text in broken), done.stdout


def test_every_module_has_a_layer() -> None:
    """A module that no layer names could import anything."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = [contract["layers"] for contract in settings["contracts"] if contract["type"] == "layers"]
    named = {name for layer in layers for name in re.split(r"\s*[|:]\s*", layer)}
    children = [
        path for path in (ROOT / "raygen").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    ]
    present = {f"raygen.{path.stem}" for path in children if path.stem != "__init__"}
    assert named == {*present, "serve", "tune"}


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    # What an extra brings is imported where it is asked for, and said to be missing where it is.
    extras = [texts for extra, texts in project["optional-dependencies"].items() if extra != "dev"]
    optional = {canonicalize_name(Requirement(text).name) for texts in extras for text in texts}
    distributions = packages_distributions()
    imported: dict[str, Any] = {}
    for name, path in imported_packages():
        imported |= {canonicalize_name(distribution): path for distribution in distributions.get(name, [name])}
    undeclared = {name: path for name, path in imported.items() if name not in declared | optional}
    assert not undeclared
    assert declared - imported.keys() == NOT_IMPORTED


def private_names(path: Path) -> set[str]:
    """What a test's file takes of others that begins with an underscore."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OWN:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            names.add(node.attr)
    return {name for name in names if name.startswith("_") and not name.endswith("__")} - PRIVATE_OF_LIBRARIES


def test_tests_stand_in_the_room_that_they_test_and_reach_into_nothing_private() -> None:
    tests = ROOT / "tests"
    files = sorted(tests.rglob("*.py"))
    rooms = {path.parent.relative_to(tests) for path in files} - {Path("chaos")}
    assert not [room for room in rooms if not ((ROOT / "raygen" / room).is_dir() or (ROOT / room).is_dir())]
    assert not {path.name: names for path in files if (names := private_names(path))}


def test_importing_raygen_loads_nothing_else() -> None:
    assert loaded_after("import raygen") - loaded_after("pass") == {"raygen"}


def test_the_two_lowest_layers_load_without_torch_and_ray() -> None:
    statement = "; ".join(f"import raygen.{name}" for name in LOWEST)
    walk = "import pkgutil, importlib, raygen.datasets as d; "
    walk += "[importlib.import_module('raygen.datasets.' + m.name) for m in pkgutil.iter_modules(d.__path__)]"
    assert not loaded_after(f"{statement}\n{walk}") & HEAVY


def test_asking_an_endpoint_over_http_takes_no_ray() -> None:
    assert "ray" not in loaded_after("import raygen.endpoint.connect, raygen.stages.inpaint")


def test_help_is_quick() -> None:
    """Under half a second of work: CPU time, the best of three, so that a busy machine does not fail it."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-c", "from raygen.cli import main; main()", "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "demo" in done.stdout
    assert min(seconds) < 0.5, seconds


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not loaded_after("import raygen.cli") & {
        *HEAVY,
        "sklearn",
        "scipy",
        "pyarrow",
        "pandas",
        "matplotlib",
    }
