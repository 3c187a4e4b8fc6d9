"""Heads on a file of features, from the file to the numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from feature_toys import biased
from typer.testing import CliRunner

from raygen.algorithms import head_algorithms
from raygen.cli import app
from raygen.errors import ConfigError, DataError, RunFolderError
from raygen.run.heads import fit_heads, make_heads_config

SETTINGS = {
    "nsf": ["algorithm.scale_free=true"],
    "evals": ["algorithm.num_extremes=[20]", "algorithm.l1=[0.0]", "algorithm.learning_rate=0.005"],
    "self": ["algorithm.score=misclassification", "algorithm.num_rows=[100]"],
    "afr": ["algorithm.learning_rate=0.05", "algorithm.gamma=4"],
    "hsfm": ["algorithm.learning_rate=0.02", "algorithm.epochs=10", "algorithm.support_learning_rate=0.3"],
    "dfr": ["algorithm.num_retrains=3"],
}


def write(path: Path, *, has_attributes: bool = True, **changes: Any) -> Path:
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "features", "label", "attribute", "split")}
    for seed, (split, num, agree) in enumerate((("train", 2000, 0.97), ("val", 800, 0.8), ("test", 800, 0.5))):
        part = biased(num, cue=3, agree=agree, size=6, noise=0.9, seed=seed)
        assert part.group_N is not None
        columns["id"] += [f"{split}{i}" for i in range(num)]
        columns["features"] += part.features_ND.tolist()
        columns["label"] += part.label_N.tolist()
        columns["attribute"] += (part.group_N % 2).tolist()
        columns["split"] += [split] * num
    if not has_attributes:
        del columns["attribute"]
    pq.write_table(pa.table({**columns, **changes}), path)
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("features") / "known.parquet")


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("features") / "unknown.parquet", has_attributes=False)


@pytest.mark.parametrize("name", sorted(head_algorithms()))
def test_each_head_does_better_for_the_worst_group(known: Path, tmp_path: Path, name: str) -> None:
    config = make_heads_config(name, SETTINGS[name])
    summary = fit_heads(known, config, tmp_path / "out", say=lambda line: None)
    assert summary == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["results"][name]["test"]["worst_group"] > summary["results"]["erm"]["test"]["worst_group"] + 0.05
    # By hand: the head on the features as they are in the file gives these accuracies.
    head = safetensors.numpy.load_file(tmp_path / "out" / "head.safetensors")
    table = pq.read_table(known)
    predicted_N = (np.array(table["features"].to_pylist()) @ head["weight"].T + head["bias"]).argmax(axis=1)
    accuracies = {}
    for label in (0, 1):
        for attribute in (0, 1):
            own_N = (table["label"].to_numpy() == label) & (table["attribute"].to_numpy() == attribute)
            own_N &= np.array(table["split"].to_pylist()) == "test"
            accuracies[2 * label + attribute] = float(np.mean(predicted_N[own_N] == label))
    found = summary["results"][name]["test"]
    assert {group["group"]: group["accuracy"] for group in found["groups"]} == pytest.approx(accuracies, abs=0.005)
    assert found["worst_group"] == pytest.approx(min(accuracies.values()), abs=0.005)
    expected = {"afr": "worst group", "nsf": None, "evals": "worst environment: what the first fit gets right"}
    said = summary["selected_by"][name]
    assert said is None if expected.get(name, "") is None else said.startswith(expected.get(name, "worst group"))
    assert (tmp_path / "out" / "roles.parquet").exists() == (name not in ("nsf", "dfr"))


@pytest.mark.parametrize("name", ["nsf", "evals", "afr"])
def test_without_attributes_the_worst_class_stands_for_the_worst_group(
    unknown: Path, known: Path, tmp_path: Path, name: str
) -> None:
    config = make_heads_config(name, SETTINGS[name])
    summary = fit_heads(unknown, config, tmp_path / "out", say=lambda line: None)
    assert [group["attribute"] for group in summary["results"][name]["test"]["groups"]] == [None, None]
    if name == "afr":
        assert summary["selected_by"][name] == "worst class"
        return
    # What reads no attribute ends at the very same head where there are some.
    fit_heads(known, config, tmp_path / "known", say=lambda line: None)
    heads = [(tmp_path / folder / "head.safetensors").read_bytes() for folder in ("out", "known")]
    assert heads[0] == heads[1]


def test_validation_alone_is_enough_for_nsf(known: Path, tmp_path: Path) -> None:
    table = pq.read_table(known)
    pq.write_table(table.filter(pa.compute.equal(table["split"], "val")), tmp_path / "val.parquet")
    result = CliRunner().invoke(
        app, ["heads", str(tmp_path / "val.parquet"), "--algorithm", "nsf", "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "no row in split train, so there is no first fit to compare with" in result.output
    assert "val accuracy" in result.output
    assert set(json.loads((tmp_path / "out" / "summary.json").read_text())["results"]) == {"nsf"}
    with pytest.raises(DataError, match="no row in split train, and evals starts from a head"):
        fit_heads(tmp_path / "val.parquet", make_heads_config("evals", []), tmp_path / "evals", say=lambda line: None)


def test_what_cannot_be_fitted_is_named(known: Path, unknown: Path, tmp_path: Path) -> None:
    def fit(path: Path, name: str, out: Path = tmp_path / "out") -> None:
        fit_heads(path, make_heads_config(name, []), out, say=lambda line: None)

    with pytest.raises(ConfigError, match=r"--algorithm is 'jtt'; on features alone .* by afr, dfr, evals"):
        make_heads_config("jtt", [])
    with pytest.raises(ConfigError, match=r"algorithm\.gama: unknown field; did you mean 'gamma'"):
        make_heads_config("afr", ["algorithm.gama=1"])
    with pytest.raises(ConfigError, match="needs logits of an earlier state of the classifier"):
        fit(known, "self")
    with pytest.raises(DataError, match="dfr needs the attribute of every row of split val"):
        fit(unknown, "dfr")
    table = pq.read_table(known)
    pq.write_table(table.filter(pa.compute.not_equal(table["split"], "val")), tmp_path / "no_val.parquet")
    with pytest.raises(DataError, match="has no row in split val"):
        fit(tmp_path / "no_val.parquet", "nsf")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match="not empty and not written by raygen heads"):
        fit(known, "nsf", tmp_path / "other")
    assert not (tmp_path / "out").exists()
