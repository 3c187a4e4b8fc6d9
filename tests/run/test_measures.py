"""The step that measures fits: from a run's folder to summary.json, and what it leaves alone."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raygen import recipes
from raygen.datasets.rows import RowIndex
from raygen.errors import ConfigError, RowError, RunFolderError
from raygen.images import decode_image
from raygen.report.collect import summarize
from raygen.report.html import write_report
from raygen.run import preflight
from raygen.run.measures import drawn
from raygen.run.opened import Opened
from raygen.run.results import measured
from raygen.schema import MEASURED

COUNTS = {"train_counts": [20, 4, 4, 20], "val_counts": [4] * 4, "test_counts": [8] * 4}
NAMES = {"saliency_aupr", "pointing_game", "auc", "flip_rate", "next_class_shift"}


def config_of(*overrides: str) -> recipes.RunConfig:
    data = {
        "recipe": "jtt",
        "engine": "local",
        "dataset": {"name": "scenes", **COUNTS},
        "classifier": {"width": 8},
        "erm": {"epochs": 1},
        "algorithm": {"epochs": 1},
        "measures": {"images": 12},
    }
    return recipes.make_config(data, list(overrides), where="test")


def run(out: Path, *overrides: str) -> list[str]:
    said: list[str] = []
    recipes.run(config_of(*overrides), out, fresh=False, command="test", say=said.append)
    return said


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "jtt"
    run(out)
    return out


def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run", copy_function=shutil.copy2)


def test_every_fit_is_measured_on_the_same_held_out_images(finished: Path) -> None:
    table = pq.read_table(finished / "measures" / "measures.parquet")
    assert table.schema.equals(MEASURED)
    by_result = {name: table.filter(pa.compute.equal(table["result"], name)) for name in ("erm", "jtt")}
    ids = by_result["erm"]["image_id"].to_pylist()
    assert len(set(ids)) == 12
    assert ids == by_result["jtt"]["image_id"].to_pylist() == sorted(ids)
    assert set(ids) <= set(RowIndex(finished / "data").split("test")["image_id"].to_pylist())
    assert sum(table.column("saliency_ap").null_count for table in by_result.values()) == 0
    assert list((finished / "measures").iterdir()) != []
    assert not (finished / "measures" / "parts").exists()


def test_the_images_and_their_pairs_are_drawn_from_the_runs_seed(finished: Path) -> None:
    index, seeds = RowIndex(finished / "data"), []

    def no_pairs(image_ids: list[str], groups: list[Any], *, run_seed: int) -> list[None]:
        seeds.append(run_seed)
        return [None] * len(image_ids)

    def ids(seed: int) -> list[str]:
        opened = SimpleNamespace(dataset=SimpleNamespace(pairs=no_pairs))
        run: Any = SimpleNamespace(config=config_of(f"seed={seed}"), index=index, opened=opened)
        return drawn(run)["image_id"].to_pylist()

    of_run = pq.read_table(finished / "measures" / "measures.parquet")
    assert ids(0) == of_run.filter(pa.compute.equal(of_run["result"], "erm"))["image_id"].to_pylist()
    assert ids(7) != ids(0) != ids(8) != ids(7)
    assert seeds == [0, 7, 0, 8, 7]


def test_the_summary_has_measures_per_result_with_what_a_constant_score_gives(finished: Path) -> None:
    results = summarize(finished)["results"]
    masks = pq.read_table(finished / "measures" / "measures.parquet", columns=["result", "foreground"]).to_pylist()
    for name in ("erm", "jtt"):
        found = results[name]["test"]["measures"]
        assert set(found) == NAMES
        assert all(set(entry) == {"value", "n", "interval", "constant", "reason"} for entry in found.values())
        share = np.mean([row["foreground"] for row in masks if row["result"] == name])
        assert found["saliency_aupr"]["constant"] == pytest.approx(share)
        assert found["pointing_game"]["constant"] == pytest.approx(share)
        assert (found["auc"]["n"], found["flip_rate"]["n"]) == (12, 12)
        assert 0 < found["next_class_shift"]["n"] < 12  # of the pictures before their own background
        assert results[name]["val"]["measures"] == {}


def test_measures_are_taken_anew_with_other_settings_and_nothing_else_is(finished: Path, tmp_path: Path) -> None:
    out = copied(finished, tmp_path)
    assert all(line.endswith("done before") for line in run(out))
    said = run(
        out, "measures.splits=[val, test]", "measures.deep_lift=true", "measures.images=3", "measures.baselines=3"
    )
    assert said[-2:] == [
        "measures: made again, since what it depends on is not what it was",
        "measures: measuring attention on 3 held-out images",
    ]
    assert all(line.endswith("done before") for line in said[:-2])
    for splits in summarize(out)["results"].values():
        for split in ("val", "test"):
            found = splits[split]["measures"]
            assert set(found) == NAMES | {"deep_lift_aupr", "deep_lift_gap"}
            assert found["auc"]["n"] == found["deep_lift_aupr"]["n"] == 3
            assert found["deep_lift_gap"]["value"] < 1e-6


def test_a_picture_that_cannot_be_read_is_counted_and_measured_of_no_fit(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read = copied(finished, tmp_path), []

    def broken_once(data: bytes) -> np.ndarray:
        read.append(data)
        if len(read) == 1:
            raise RowError("cut off")
        return decode_image(data)

    monkeypatch.setattr("raygen.stages.measure.decode_image", broken_once)
    run(out, "measures.images=5", "max_failed_fraction=0.5")
    table = pq.read_table(out / "measures" / "measures.parquet")
    assert table["result"].to_pylist() == ["erm"] * 4 + ["jtt"] * 4
    assert table["logits"].null_count == table["saliency_ap"].null_count == 0
    counts = json.loads((out / "measures" / "manifest.json").read_text())["counts"]
    assert counts == {"images": 5, "failed": {"image_png: cut off": 1}}
    assert summarize(out)["results"]["jtt"]["test"]["measures"]["auc"]["n"] == 4


def test_without_measures_every_report_is_there(finished: Path, tmp_path: Path) -> None:
    """As folders of before have none; and those of other fits are none of this run's."""
    out = copied(finished, tmp_path)
    manifest = json.loads((out / "measures" / "manifest.json").read_text())
    manifest["depends"]["fits"]["jtt"] = "another"
    (out / "measures" / "manifest.json").write_text(json.dumps(manifest))
    assert summarize(out)["results"]["jtt"]["test"]["measures"] == {}
    shutil.rmtree(out / "measures")
    assert summarize(out)["results"]["jtt"]["test"]["measures"] == {}
    assert write_report(out).is_file()
    assert not any(line.startswith("measures") for line in run(out, "measures.images=0"))
    assert not (out / "measures").exists()


def test_a_damaged_file_is_named(finished: Path, tmp_path: Path) -> None:
    out = copied(finished, tmp_path)
    (out / "measures" / "measures.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunFolderError, match=r"measures\.parquet is damaged .* Delete .*measures and run again"):
        summarize(out)


def test_deep_lift_of_a_network_that_it_has_no_rule_for_is_refused_before_any_work() -> None:
    settings = ["measures.deep_lift=true", "classifier.architecture=mobilenet_v3_small"]
    with pytest.raises(ConfigError, match=r"measures\.deep_lift: .* \(Hardsigmoid, Hardswish, mul\)"):
        preflight.check(Opened(config_of(*settings)))
    preflight.check(Opened(config_of(*settings, "measures.images=0")))


@pytest.mark.parametrize("override", ["measures.splits=[]", "measures.splits=[train]", "measures.baselines=1"])
def test_wrong_settings_are_named(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0].replace(".", r"\.")):
        config_of(override)


def rows(**columns: list[Any]) -> pa.Table:
    given = {
        "image_id": ["a", "b", "c"],
        "label": [0, 1, 1],
        "attribute": [None] * 3,
        "split": ["test"] * 3,
        "is_next_class": [None] * 3,
        "result": ["erm"] * 3,
        "logits": [[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]],
        "foreground": [0.25, 0.5, 0.25],
        "saliency_ap": [0.5, 0.75, 0.25],
        "pointing": [1.0, 0.0, 1.0],
        "deep_lift_ap": [None] * 3,
        "deep_lift_gap": [None] * 3,
        "pair_logits": [None] * 3,
        **columns,
    }
    return pa.table(given, schema=MEASURED)


def found(**columns: list[Any]) -> dict[str, Any]:
    return measured(rows(**columns))["erm"]["test"]


def test_measures_by_hand() -> None:
    pairs = [[0.0, 1.0], None, [0.0, 2.0]]
    entry = found(pair_logits=pairs, is_next_class=[True, None, False])
    assert (entry["saliency_aupr"]["value"], entry["saliency_aupr"]["n"]) == (pytest.approx(0.5), 3)
    assert entry["saliency_aupr"]["constant"] == pytest.approx(1 / 3)
    assert entry["pointing_game"]["value"] == pytest.approx(2 / 3)
    # Class 0: 1 against 0 and 2; class 1: 1 and 1 against 0.
    assert entry["auc"]["value"] == pytest.approx((1 / 2 + 1) / 2)
    assert (entry["flip_rate"]["value"], entry["flip_rate"]["n"]) == (1.0, 2)
    # One pair with the next class's background, of label 0: its probability of class 1, before and after.
    sigmoid = 1 / (1 + np.exp(-1.0))
    assert entry["next_class_shift"]["value"] == pytest.approx(sigmoid - (1 - sigmoid))
    assert entry["next_class_shift"]["n"] == 1


@pytest.mark.parametrize(
    ("columns", "name", "reason"),
    [
        ({"foreground": [None] * 3}, "saliency_aupr", "none of the measured pictures has an object mask"),
        ({"foreground": [None] * 3}, "pointing_game", "none of the measured pictures has an object mask"),
        ({"foreground": [1.0, 0.0, 1.0]}, "saliency_aupr", "every object mask covers all that the classifier sees"),
        ({"saliency_ap": [None] * 3}, "saliency_aupr", "the gradient is not finite"),
        ({"pointing": [None] * 3}, "pointing_game", "the network has no class activation map"),
        ({"label": [1, 1, 1]}, "auc", "images of class 1 only"),
        ({"logits": [None] * 3}, "auc", "there are no image"),
        ({}, "flip_rate", "no pictures with the background exchanged"),
        ({}, "next_class_shift", "no pairs with the next class"),
        ({"deep_lift_gap": [0.0, 0.5, 0.0]}, "deep_lift_aupr", "its attributions miss up to 0.5 of what they explain"),
        ({"deep_lift_gap": [0.0, float("nan"), None]}, "deep_lift_aupr", "the attribution is not finite"),
        ({"deep_lift_gap": [0.0, float("nan"), None]}, "deep_lift_gap", "the attribution is not finite"),
        ({"deep_lift_gap": [0.0] * 3}, "deep_lift_aupr", "the attribution is not finite"),
    ],
)
def test_what_cannot_be_measured_has_a_reason_and_no_number(
    columns: dict[str, list[Any]], name: str, reason: str
) -> None:
    entry = found(**columns)[name]
    assert (entry["value"], entry["interval"]) == (None, None)
    assert reason in entry["reason"]
