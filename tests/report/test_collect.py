import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from report_runs import CORRECT, EVALUATION, SCORES_OF_LANDBIRDS, TRAIN, write_run

from raygen.errors import RunFolderError
from raygen.intervals import mean_interval, worst_interval
from raygen.report import collect
from raygen.report.collect import order_results, summarize, write_summary
from raygen.report.html import write_report


@pytest.mark.parametrize("name", ["erm", "dbb", "control_flat"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_accuracies_are_those_of_the_invented_predictions(finished_run: Path, name: str, split: str) -> None:
    correct, num = CORRECT[name][split], EVALUATION[split]
    accuracy = [c / n for c, n in zip(correct, num, strict=True)]
    found = summarize(finished_run)["results"][name][split]
    assert found["groups"] == [
        {"group": g, "label": g // 2, "attribute": g % 2, "n": num[g], "accuracy": accuracy[g]} for g in range(4)
    ]
    assert found["average"] == pytest.approx(sum(correct) / sum(num))
    assert found["adjusted_average"] == pytest.approx(
        sum(a * n for a, n in zip(accuracy, TRAIN, strict=True)) / sum(TRAIN)
    )
    assert found["worst_group"] == min(accuracy)
    assert found["worst_group_ci"] == list(worst_interval(np.array(correct), np.array(num)))
    assert found["group_mean"] == pytest.approx(sum(accuracy) / 4)
    assert found["group_mean_ci"] == list(mean_interval(np.array(correct), np.array(num)))


def test_summary_has_the_agreed_names(finished_run: Path) -> None:
    summary = summarize(finished_run)
    assert list(summary) == [
        "recipe",
        "dataset",
        "seed",
        "versions",
        "seconds",
        "synthesis",
        "failures",
        "selected_by",
        "generated_share",
        "results",
    ]
    assert (summary["recipe"], summary["dataset"], summary["seed"]) == ("dbb", "scenes", 0)
    assert summary["seconds"] == {"erm": 12.5, "synthesis": 125.0}
    assert {"python", "raygen", "ray", "torch", "diffusers"} <= set(summary["versions"])
    assert list(summary["results"]) == ["erm", "dbb", "control_flat"]


def test_synthesis_counts_follow_the_thresholds(finished_run: Path) -> None:
    verdicts = [verdict for _, _, verdict in SCORES_OF_LANDBIRDS]
    counts = summarize(finished_run)["synthesis"]
    assert counts == {
        "planned": len(verdicts),
        "generated": len(verdicts) - verdicts.count("failed"),
        "kept": verdicts.count("kept"),
        "pruned": {
            reason: verdicts.count(reason) for reason in sorted(set(verdicts)) if reason not in ("kept", "failed")
        },
        "failed": verdicts.count("failed"),
        "mask_iou": pytest.approx(0.55),  # of 0.5 and 0.6 in turn
    }
    assert counts["kept"] + sum(counts["pruned"].values()) == counts["generated"]


@pytest.mark.parametrize("text", [None, "null"])
def test_without_thresholds_nothing_is_pruned(finished_run: Path, tmp_path: Path, text: str) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "fit" / "thresholds.json").unlink()
    if text is not None:
        (run / "fit" / "thresholds.json").write_text(text)
    counts = summarize(run)["synthesis"]
    assert (counts["kept"], counts["pruned"], counts["failed"]) == (6, {}, 1)


def test_without_object_masks_there_is_no_iou(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    for part in (run / "candidates").glob("part-*.parquet"):
        table = pq.read_table(part)
        place = table.column_names.index("object_iou")
        pq.write_table(table.set_column(place, "object_iou", pa.nulls(table.num_rows, pa.float32())), part)
    assert summarize(run)["synthesis"]["mask_iou"] is None
    assert "mean IoU" not in write_report(run).read_text(encoding="utf-8")


def test_pictures_are_not_read(finished_run: Path) -> None:
    candidates = collect.load_candidates(finished_run)
    assert candidates is not None
    assert not [name for name in candidates.column_names if name.endswith("_png")]


def test_without_attributes_the_groups_are_the_classes(erm_run: Path) -> None:
    summary = summarize(erm_run)
    assert summary["synthesis"] is None
    found = summary["results"]["erm"]["test"]
    num, correct = EVALUATION["test"], CORRECT["erm"]["test"]
    assert [(g["group"], g["label"], g["attribute"], g["n"]) for g in found["groups"]] == [
        (0, 0, None, num[0] + num[1]),
        (1, 1, None, num[2] + num[3]),
    ]
    assert found["worst_group"] == pytest.approx((correct[2] + correct[3]) / (num[2] + num[3]))
    assert found["adjusted_average"] is None


def test_row_without_attribute_counts_in_the_average_only(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    path = run / "evaluation" / "predictions.parquet"
    table = pq.read_table(path)
    is_group_0 = pc.and_(pc.equal(table["label"], 0), pc.equal(table["attribute"], 0))
    hidden = pc.if_else(is_group_0, pa.scalar(None, pa.int32()), table["attribute"])
    pq.write_table(table.set_column(table.column_names.index("attribute"), "attribute", hidden), path)
    found, before = summarize(run)["results"]["erm"]["test"], summarize(finished_run)["results"]["erm"]["test"]
    assert found["average"] == before["average"]
    assert found["groups"] == before["groups"][1:]
    assert found["adjusted_average"] is None  # a training group is not evaluated


def test_image_without_a_prediction_is_left_out(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    path = run / "evaluation" / "predictions.parquet"
    table = pq.read_table(path)
    place = table["image_id"].to_pylist().index("test/0/000")
    erm = table["erm"].to_pylist()
    erm[place] = None
    index = table.column_names.index("erm")
    pq.write_table(table.set_column(index, "erm", pa.array(erm, pa.int32())), path)
    groups = summarize(run)["results"]["erm"]["test"]["groups"]
    assert groups[0]["n"] == EVALUATION["test"][0] - 1
    assert summarize(run)["results"]["dbb"]["test"]["groups"][0]["n"] == EVALUATION["test"][0]


def test_split_without_images_is_absent(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    path = run / "evaluation" / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.equal(table["split"], "val")), path)
    assert all(list(by_split) == ["val"] for by_split in summarize(run)["results"].values())


def test_results_are_ordered_for_comparison() -> None:
    names = ["zeta", "control_hole", "erm_reweighted", "control_flat", "scgs", "erm", "alpha", "scgs_unpruned"]
    assert order_results(names, "scgs") == [
        "erm",
        "scgs",
        "scgs_unpruned",
        "erm_reweighted",
        "control_hole",
        "control_flat",
        "alpha",
        "zeta",
    ]
    assert order_results(["erm"], "erm") == ["erm"]


def test_summary_is_written_as_it_is_returned(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert write_summary(run) == json.loads((run / "summary.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", None, "not a run's folder"),
        ("evaluation/predictions.parquet", None, "not finished"),
        ("evaluation/predictions.parquet", b"PAR1", "damaged"),
        ("candidates/part-00001.parquet", b"PAR1", "damaged"),
        ("fit/thresholds.json", b"{", "damaged"),
        ("fit/thresholds.json", b'{"attribution_above": {"x": 1}}', "damaged"),
    ],
)
def test_absent_or_damaged_file_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    run = write_run(tmp_path / "run")
    path = run / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(RunFolderError, match=message):
        summarize(run)
