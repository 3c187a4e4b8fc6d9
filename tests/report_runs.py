"""A finished run on disk, made without fitting anything: real columns, real classifiers, invented predictions."""

# N rows of the dataset

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.classifier import ClassifierConfig, build_classifier, save_classifier
from raygen.datasets.scene_drawing import SIZE_PX
from raygen.datasets.scene_rendering import ATTRIBUTE_NAMES, CLASS_NAMES, render_scene
from raygen.datasets.table import DatasetInfo, write_source
from raygen.images import encode_image, encode_mask
from raygen.schema import CANDIDATE, MEASURED, PLAN, cast, plan_key
from raygen.storage.run_folder import RunFolder, Step
from raygen.storage.writing import write_json

# By result and split, how many of each group are right.
Correct = dict[str, dict[str, tuple[int, ...]]]

PROMPTS = tuple(f"a photo of a {name}" for name in CLASS_NAMES)
# Rows per (label, attribute) and how many of them each result gets right, in the order of the group index.
EVALUATION = {"val": (8, 6, 5, 4), "test": (10, 8, 6, 4)}
CORRECT = {
    "erm": {"val": (8, 3, 2, 4), "test": (10, 5, 1, 4)},
    "dbb": {"val": (7, 5, 4, 4), "test": (9, 6, 5, 4)},
    "control_flat": {"val": (7, 4, 3, 4), "test": (9, 6, 3, 4)},
}
TRAIN = (12, 2, 1, 5)
THRESHOLDS = {"source_probability_below": {"0": 0.8, "1": 0.7}, "attribution_above": {"0": 0.5, "1": 1.0}}
# (psi, rho, verdict) of the candidates; psi None is a failed row. Source 0 first: Psi 0.8, P of target 1 = 1.0.
SCORES_OF_LANDBIRDS = (
    (0.10, 3.0, "kept"),
    (0.50, 1.5, "kept"),
    (0.90, 2.0, "source_probability"),
    (0.20, 0.4, "attribution_inside"),
    (0.85, -1.0, "source_probability+attribution_inside"),
    (0.80, 2.0, "source_probability"),  # the threshold itself is not below
    (None, None, "failed"),
)


def write_run(
    run: Path,
    *,
    recipe: str = "dbb",
    seed: int = 0,
    has_attributes: bool = True,
    correct: Correct | None = None,
    error: str = "the repaint mask is empty",
    has_measures: bool = False,
    model_id: str = "tiny",
) -> Path:
    """Writes a finished run; `recipe` "erm" has no synthesis; without measures, as by versions before them."""
    folder = RunFolder(run)
    config = {"recipe": recipe, "seed": seed, "dataset": {"name": "scenes"}}
    with folder.claimed(config, identity=config, fresh=False):
        pass
    folder.log("command", argv=["raygen", "run", recipe, "--set", f"seed={seed}"])
    folder.log("step", step="erm", seconds=12.5)
    rows = _write_data(run / "data", has_attributes=has_attributes)
    names: Correct = correct or {name: {**CORRECT[name]} for name in (CORRECT if recipe == "dbb" else ("erm",))}
    _write_predictions(run, rows, names)
    if has_measures:
        write_measures(run, rows, list(names))
    config_small = ClassifierConfig()
    save_classifier(build_classifier(config_small, 2, seed=0), run / "erm")
    if recipe == "dbb":
        folder.log("step", step="synthesis", seconds=125.0)
        save_classifier(build_classifier(config_small, 2, seed=1), run / "fit" / "dbb")
        write_json(run / "fit" / "thresholds.json", THRESHOLDS)
        _write_candidates(run, rows, error=error, model_id=model_id)
    return run


def _write_data(folder: Path, *, has_attributes: bool) -> list[dict[str, Any]]:
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    for split, counts in {"train": TRAIN, **EVALUATION}.items():
        for group, count in enumerate(counts):
            label, attribute = divmod(group, 2)
            for i in range(count):
                seed = len(rows)
                scene = render_scene(seed, label=label, attribute=attribute)
                row: dict[str, Any] = {
                    "image_id": f"{split}/{group}/{i:03d}",
                    "label": label,
                    "split": split,
                    "role": "source",
                }
                row["attribute"] = attribute if has_attributes else None
                row["image_png"] = encode_image(scene.image_HWC)
                row["object_png"] = encode_mask(scene.object_HW)
                rows.append(row)
    rows.sort(key=lambda row: row["image_id"])
    info = DatasetInfo("scenes", CLASS_NAMES, ATTRIBUTE_NAMES if has_attributes else (), PROMPTS)
    write_source(rows, info, folder)
    return rows


def _write_predictions(run: Path, rows: list[dict[str, Any]], correct: Correct) -> None:
    evaluated = [row for row in rows if row["split"] != "train"]
    columns = {
        "image_id": pa.array([row["image_id"] for row in evaluated]),
        "label": pa.array([row["label"] for row in evaluated], pa.int32()),
        "attribute": pa.array([row["attribute"] for row in evaluated], pa.int32()),
        "split": pa.array([row["split"] for row in evaluated]),
    }
    for name, by_split in correct.items():
        predicted = []
        for row in evaluated:
            _, group, number = row["image_id"].split("/")
            is_right = int(number) < by_split[row["split"]][int(group)]
            predicted.append(row["label"] if is_right else 1 - row["label"])
        columns[name] = pa.array(predicted, pa.int32())
    (run / "evaluation").mkdir()
    pq.write_table(pa.table(columns), run / "evaluation" / "predictions.parquet")


def write_measures(run: Path, rows: list[dict[str, Any]], names: list[str]) -> None:
    """Measures of the first two test images of each group: saliency 0.5 and 0.75, hits 1 and 0, and no pairs.

    The classifiers' number counts: each one's saliency is 0.1 below the one's before.
    """
    step = Step(run / "measures", {"fits": {name: name for name in names}})
    step.begin()
    measured = [row for row in rows if row["split"] == "test" and row["image_id"].endswith(("000", "001"))]
    found = [
        {
            **{name: row[name] for name in ("image_id", "label", "attribute", "split")},
            "result": name,
            "logits": [1.0, 0.0] if is_second else [0.0, 1.0],
            "foreground": 0.25,
            "saliency_ap": (0.75 if is_second else 0.5) - 0.1 * number,
            "pointing": 0.0 if is_second else 1.0,
        }
        for number, name in enumerate(names)
        for row in measured
        for is_second in [row["image_id"].endswith("001")]
    ]
    pq.write_table(pa.Table.from_pylist(found, schema=MEASURED), run / "measures" / "measures.parquet")
    step.finish({})


def _write_candidates(run: Path, rows: list[dict[str, Any]], *, error: str, model_id: str) -> None:
    landbirds = [row for row in rows if row["split"] == "train" and row["label"] == 0]
    candidates = []
    for i, (psi, rho, _) in enumerate(SCORES_OF_LANDBIRDS):
        source = landbirds[i]["image_id"]
        is_ok = psi is not None
        repaint_HW = np.zeros((SIZE_PX, SIZE_PX), dtype=bool)
        repaint_HW[16:48, 8:56] = True
        candidates.append(
            {
                "key": plan_key(source, target_label=1, sample=0),
                "image_id": source,
                "sample": 0,
                "source_label": 0,
                "target_label": 1,
                "prompt": PROMPTS[1],
                "seed": i,
                "loss_rank": i,
                "predicted_label": 0,
                "repaint_png": encode_mask(repaint_HW) if is_ok else None,
                "generated_png": encode_image(render_scene(i, label=1, attribute=0).image_HWC) if is_ok else None,
                "repaint_fraction": float(repaint_HW.mean()) if is_ok else None,
                "object_iou": 0.5 + 0.1 * (i % 2) if is_ok else None,
                "source_probability": psi,
                "attribution_inside": rho,
                "status": "ok" if is_ok else "failed",
                "error": None if is_ok else error,
                "model_id": model_id,
                "model_revision": "1",
            }
        )
    candidates.sort(key=lambda row: row["key"])
    (run / "plan").mkdir()
    (run / "candidates").mkdir()
    table = cast(pa.Table.from_pylist(candidates, schema=CANDIDATE), CANDIDATE, what="candidates")
    pq.write_table(cast(table.select(PLAN.names), PLAN, what="plan"), run / "plan" / "plan.parquet")
    pq.write_table(table.slice(0, 4), run / "candidates" / "part-00000.parquet")
    pq.write_table(table.slice(4), run / "candidates" / "part-00001.parquet")
