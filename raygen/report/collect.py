"""A run folder on disk -> `summary.json`: accuracies per split and group, counts, times, versions.

Everything is computed again from the Parquet files, so the summary cannot disagree with them. Picture columns are
never read here.
"""

# N images of a split, G groups

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.config import load_yaml
from raygen.datasets.rows import RowIndex
from raygen.errors import RunFolderError, unreadable
from raygen.pruners import PruneThresholds, verdicts
from raygen.report.selection import generated_share, selected_by
from raygen.run.results import LATER_FOLDER, MEASURES_FILE, measured, results
from raygen.schema import ROLE
from raygen.storage.parts import CANDIDATE_SCORES, failure_reasons
from raygen.storage.run_folder import RunFolder, output_digest, read_manifest
from raygen.storage.versions import versions
from raygen.storage.writing import write_json
from raygen.synthesis.controls import CONTROL_KINDS

CONTROLS = tuple(f"control_{kind}" for kind in CONTROL_KINDS)
_NO_THRESHOLDS = PruneThresholds.model_validate({"source_probability_below": {}, "attribution_above": {}})
PREDICTIONS_FILE = "predictions.parquet"
PREDICTION_KEYS = ("image_id", "label", "attribute", "split")


def summarize(run: Path) -> dict[str, Any]:
    """Summary of a finished run, in the format of `summary.json`.

    `label` and `attribute` of a group are the numbers of the SOURCE columns. Where no row of a split has an
    attribute, the groups are the classes and `attribute` is null. `synthesis` is null for a recipe that generates
    nothing. `measures` of a result on a split are empty where they were not taken, as by versions before them;
    `generated_share` holds, by result, the share of the loss that added pictures had, where the fit noted it.

    Args:
        run: The run's folder.

    Raises:
        RunFolderError: Not a run's folder, or the run has not been evaluated yet.
        DataError: Damaged data.
    """
    config = load_config(run)
    rows = RowIndex(run / "data")
    recipe = config["recipe"]
    predictions = load_predictions(run)
    names = order_results(result_names(predictions), recipe)
    found, measures = results(predictions, rows, names=names), {}
    if (table := load_measures(run)) is not None:
        measures = measured(table)
    for name, by_split in found.items():
        for split, entry in by_split.items():
            entry["measures"] = measures.get(name, {}).get(split, {})
    return {
        "recipe": recipe,
        "dataset": rows.dataset.name,
        "seed": config.get("seed"),
        "versions": versions(),
        "seconds": RunFolder(run).seconds(),
        "synthesis": _synthesis_counts(run),
        "failures": failures(run),
        "selected_by": selected_by(run, names),
        "generated_share": generated_share(run, names),
        "results": found,
    }


def write_summary(run: Path) -> dict[str, Any]:
    """Writes `<run>/summary.json`; gives back what it holds, and raises as `summarize` does."""
    summary = summarize(run)
    write_json(run / "summary.json", summary)
    return summary


def load_config(run: Path) -> dict[str, Any]:
    """The run's resolved config.

    Raises:
        RunFolderError: There is none.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise RunFolderError(f"{run} is not a run's folder: it has no config.yaml")
    return load_yaml(path)


def load_predictions(run: Path) -> pa.Table:
    """Labels and predictions of the val and test rows.

    Raises:
        RunFolderError: The run has not been evaluated, or the file is damaged.
    """
    table = _predictions(run / "evaluation")
    if table is None:
        raise RunFolderError(
            f"{run / 'evaluation' / PREDICTIONS_FILE} is not there: the run is not finished. Run it again; it goes on "
            "where it stopped."
        )
    if later_fits(run) and (later := _predictions(run / LATER_FOLDER)) is not None:
        for name in result_names(later):  # of the same images, in the same order
            table = table.append_column(later.schema.field(name), later[name])
    return table


def later_fits(run: Path) -> dict[str, Any]:
    """Digests of the controls that were evaluated after these very predictions, by name; empty where none were."""
    manifest, first = read_manifest(run / LATER_FOLDER), read_manifest(run / "evaluation")
    if manifest is None or first is None or manifest["depends"]["evaluation"] != output_digest(first):
        return {}
    return dict(manifest["depends"]["fits"])


def _predictions(folder: Path) -> pa.Table | None:
    path = folder / PREDICTIONS_FILE
    try:
        return pq.read_table(path) if path.is_file() else None
    except (pa.ArrowInvalid, OSError) as error:
        raise RunFolderError(unreadable(path, error, f"Delete {folder} and run again.")) from error


def load_measures(run: Path) -> pa.Table | None:
    """MEASURED rows of the very fits that were evaluated; None where they were not measured, or not to the end.

    Raises:
        RunFolderError: The file is damaged.
    """
    folder = run / "measures"
    manifest, evaluation = read_manifest(folder), read_manifest(run / "evaluation")
    if manifest is None:
        return None
    evaluated = {} if evaluation is None else {**evaluation["depends"]["fits"], **later_fits(run)}
    measured_fits = manifest["depends"]["fits"]
    if any(measured_fits.get(name, digest) != digest for name, digest in evaluated.items()):
        return None
    path = folder / MEASURES_FILE
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RunFolderError(unreadable(path, error, f"Delete {folder} and run again.")) from error


def result_names(predictions: pa.Table) -> list[str]:
    """Names of the results that the predictions hold, one per fitted classifier."""
    return [name for name in predictions.column_names if name not in PREDICTION_KEYS]


def order_results(names: Iterable[str], recipe: str) -> list[str]:
    """Names of results as a reader compares them: ERM, the recipe, without pruning, upper bound, controls, others."""
    of_unpruned = [f"unpruned_{control}" for control in CONTROLS]
    first = ["erm", recipe, f"{recipe}_unpruned", "erm_reweighted", *CONTROLS, *of_unpruned]
    present = set(names)
    return [name for name in dict.fromkeys(first) if name in present] + sorted(present - set(first))


def load_candidates(run: Path) -> pa.Table | None:
    """Candidates without their pictures, with the file (`part`) and the row in it (`row`); None if there are none.

    Raises:
        RunFolderError: A part is damaged.
    """
    tables = []
    for path in sorted((run / "candidates").glob("part-*.parquet")):
        try:
            roles = [ROLE.name] if ROLE.name in pq.read_schema(path).names else []
            table = pq.read_table(path, columns=[*CANDIDATE_SCORES, *roles])
        except (pa.ArrowInvalid, OSError) as error:
            raise RunFolderError(unreadable(path, error, "Delete it and run again.")) from error
        names = pa.array([path.name] * table.num_rows, pa.string())
        numbers = pa.array(np.arange(table.num_rows), pa.int64())
        tables.append(table.append_column("part", names).append_column("row", numbers))
    return pa.concat_tables(tables) if tables else None


def load_thresholds(run: Path) -> PruneThresholds:
    """Thresholds of the run; without any, nothing is pruned.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = run / "fit" / "thresholds.json"
    if not path.is_file():
        return _NO_THRESHOLDS
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return _NO_THRESHOLDS if data is None else PruneThresholds.model_validate(data)
    except (ValueError, PermissionError) as error:
        raise RunFolderError(unreadable(path, error, "Delete it and run again.")) from error


def failures(run: Path) -> list[dict[str, Any]]:
    """Rows that failed, by step and reason, the commonest first: [{"step", "reason", "rows"}]."""
    counts = {
        name: failure_reasons(run / name)
        for name in ("scores", "candidates")
        if any((run / name).glob("part-*.parquet"))
    }
    manifest = read_manifest(run / "evaluation")
    counts["evaluation"] = Counter({} if manifest is None else manifest["counts"].get("failed", {}))
    return [
        {"step": step, "reason": reason, "rows": rows}
        for step, reasons in counts.items()
        for reason, rows in reasons.most_common()
    ]


def mask_iou(candidates: pa.Table) -> float | None:
    """Mean IoU of what the masker took for the object with the dataset's object masks; None where none was compared."""
    mean = pc.mean(candidates["object_iou"]).as_py()
    return None if mean is None else float(mean)


def _synthesis_counts(run: Path) -> dict[str, Any] | None:
    plan = run / "plan" / "plan.parquet"
    if not plan.is_file():
        return None
    counts: dict[str, Any] = {"planned": pq.read_metadata(plan).num_rows}
    counts |= {"generated": 0, "kept": 0, "pruned": {}, "failed": 0, "mask_iou": None}
    candidates = load_candidates(run)
    if candidates is not None:
        kept_N, reasons = verdicts(candidates, load_thresholds(run))
        pruned = Counter(reason for reason in reasons if reason is not None and reason != "failed")
        counts["failed"] = int(pc.sum(pc.not_equal(candidates["status"], "ok")).as_py() or 0)
        counts["generated"] = candidates.num_rows - counts["failed"]
        counts["kept"], counts["pruned"] = int(kept_N.sum()), dict(sorted(pruned.items()))
        counts["mask_iou"] = mask_iou(candidates)
    return counts
