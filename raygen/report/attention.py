"""What the page says of the classifiers' attention: heat maps before and after, on images that ERM got wrong."""

# N images of a split

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.datasets.rows import RowIndex
from raygen.groups import group_name
from raygen.report import collect, pictures
from raygen.report.accuracies import main_split
from raygen.report.figures import percent

SHOWN_CAMS = 12


def attention(run: Path, summary: Mapping[str, Any], rows: RowIndex, *, seed: int) -> dict[str, Any]:
    """Heat maps of ERM and of the recipe on images that ERM got wrong; empty without a second classifier."""
    recipe, split = summary["recipe"], main_split(summary)
    predictions = collect.load_predictions(run)
    names = collect.result_names(predictions)
    nothing: dict[str, Any] = {"cams": [], "cam_lead": "", "before_name": "erm", "after_name": recipe}
    if recipe == "erm" or not {"erm", recipe} <= set(names):
        return nothing
    if not all((pictures.classifier_folder(run, name) / "classifier.json").is_file() for name in ("erm", recipe)):
        return nothing
    part = predictions.filter(pc.equal(predictions["split"], split))
    part = part.filter(pc.and_(part["erm"].is_valid(), part[recipe].is_valid())).sort_by("image_id")
    label_N, erm_N, recipe_N = (part[name].to_numpy() for name in ("label", "erm", recipe))
    wrong_N = np.flatnonzero(erm_N != label_N)
    shown_rows = [int(wrong_N[i]) for i in pictures.choose(len(wrong_N), SHOWN_CAMS, seed=seed)]
    chosen = part.take(pa.array(shown_rows, pa.int64()))  # with its type: there may be none
    cam_rows = pictures.cam_rows(run, chosen, rows, before="erm", after=recipe)
    shown = [
        _cam_entry(entry, row, rows, recipe=recipe)
        for entry, row in zip(chosen.to_pylist(), cam_rows, strict=True)
        if row is not None
    ]
    mended = int((recipe_N[wrong_N] == label_N[wrong_N]).sum())
    spoiled = int(((erm_N == label_N) & (recipe_N != label_N)).sum())
    lead = (
        f"erm gets {len(wrong_N):,} of {part.num_rows:,} {split} images wrong. "
        f"{recipe} gets {mended:,} of these right, "
        f"and {spoiled:,} wrong that erm had right. "
        f"{len(shown)} of the errors of erm are shown, at evenly spaced places."
    )
    inside = [
        (row.inside_before, row.inside_after)
        for row in cam_rows
        if row is not None and row.inside_before is not None and row.inside_after is not None
    ]
    if inside:
        before, after = np.mean(inside, axis=0)
        lead += (
            f" The white line is the outline of the object; on average {percent(before, 0)} of the heat lies on it "
            f"for erm and {percent(after, 0)} for {recipe}."
        )
    return {**nothing, "cams": shown, "cam_lead": lead}


def _cam_entry(row: Mapping[str, Any], maps: pictures.CamRow, rows: RowIndex, *, recipe: str) -> dict[str, Any]:
    classes, attributes = rows.dataset.class_names, rows.dataset.attribute_names
    attribute = row["attribute"] if attributes else None
    return {
        "name": group_name(row["label"], attribute, class_names=classes, attribute_names=attributes),
        "row": maps,
        "truth": classes[row["label"]],
        "said_before": classes[row["erm"]],
        "said_after": classes[row[recipe]],
        "is_right_after": row[recipe] == row["label"],
        "inside_before": "" if maps.inside_before is None else percent(maps.inside_before, 0),
        "inside_after": "" if maps.inside_after is None else percent(maps.inside_after, 0),
    }
