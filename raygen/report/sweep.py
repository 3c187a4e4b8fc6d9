"""A finished sweep -> `sweep.html`: ranking, parallel coordinates, importances, the best trial's pictures, the cost."""

import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raygen.config import load_yaml
from raygen.datasets.rows import RowIndex
from raygen.errors import RunFolderError
from raygen.pruners import PruneThresholds
from raygen.report import collect, figures
from raygen.report.figures import percent
from raygen.report.gallery import of_candidates
from raygen.report.html import duration, last_command, render, times
from raygen.report.sweep_figures import Axis, TrialLine, against, parallel_coordinates
from raygen.report.words import noun_of
from raygen.storage.writing import write_text

# Rows of the ranking on the page; sweep.parquet has them all.
SHOWN_TRIALS = 40


def write_sweep_page(sweep: Path, *, seed_for_choice: int = 0) -> Path:
    """Writes `<sweep>/sweep.html`; gives back its path. The same sweep gives the same bytes.

    Args:
        sweep: Folder of a finished sweep.
        seed_for_choice: Moves the evenly spaced places at which pictures are picked.

    Raises:
        RunFolderError: Not the folder of a finished sweep.
    """
    summary = _read_summary(sweep)
    rows = RowIndex(sweep / "base" / "data")
    trials = pq.read_table(sweep / "sweep.parquet").to_pylist()
    path = sweep / "sweep.html"
    context = {
        "title": f"Sweep of {summary['recipe']} on {summary['dataset']}",
        "facts": _facts(summary),
        "cards": _cards(summary),
        "metric": _metric_name(summary),
        "noun": sweep_noun(summary),
        "warning": _warning(summary),
        **_ranking(summary, trials, rows),
        **_figures(summary, trials, rows, load_yaml(sweep / "config.yaml")["tune"]["space"]),
        **_pictures(sweep, summary, rows, seed=seed_for_choice),
        "times": times(summary["seconds"]),
        "command": last_command(sweep),
        "best_command": shlex.join(["raygen", "run", "--config", f"{sweep}/best.yaml", "--out", f"{sweep}-best"]),
        "best_config": (sweep / "best.yaml").read_text(encoding="utf-8"),
        "versions": summary["versions"],
    }
    write_text(path, render("sweep.html.j2", context))
    return path


def sweep_noun(summary: Mapping[str, Any]) -> str:
    """What the worst accuracy of a sweep is of: "group", or "class" where no attribute is known."""
    return noun_of([group for splits in summary["test"].values() for group in splits["test"]["groups"]])


def _metric_name(summary: Mapping[str, Any]) -> str:
    worst = f"worst-{sweep_noun(summary)} accuracy"
    return {"worst_group": worst, "average": "average accuracy"}[summary["metric"]]


def parameter_name(name: str, class_names: Sequence[str]) -> tuple[str, str]:
    """A parameter's field and, where there is one for each class, the class: ("gamma", "landbird")."""
    parent, _, last = name.rpartition(".")
    if last.isdigit():
        return parent.rpartition(".")[2], class_names[int(last)]
    return last, ""


def _read_summary(sweep: Path) -> dict[str, Any]:
    path = sweep / "summary.json"
    if not path.is_file() or not (sweep / "sweep.parquet").is_file():
        raise RunFolderError(
            f"{sweep} is not the folder of a finished sweep: run it again; it goes on where it stopped"
        )
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _facts(summary: Mapping[str, Any]) -> str:
    seconds = sum(summary["seconds"].values())
    pictures = sum(pool["generated"] for pool in summary["pools"].values())
    pools = f"{len(summary['pools'])} pools of " if len(summary["pools"]) > 1 else ""
    return (
        f"{summary['num_trials']} trials · {pools}{pictures:,} pictures, generated once · {duration(seconds)} · "
        f"seed {summary['seed']}"
    )


def _cards(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    best, default, metric = summary["best"], summary["default"], summary["metric"]
    lines = [f"± {_points(best['standard_error'])} (one standard error), average {percent(best['average'])}"]
    if default is None:
        lines.append("The run's own config lies outside the space.")
    elif default["name"] == best["name"]:
        lines.append("It is the run's own config: nothing better was found.")
    if best["split_worst_group"] is not None:
        spread = f"± {_points(best['split_deviation'])} over halvings"
        lines.append(f"On the half that did not choose the epoch: {percent(best['split_worst_group'])} {spread}.")
    is_gain = default is not None and default["name"] != best["name"] and default[metric] is not None
    cards = [
        {
            "name": f"Best trial, {_metric_name(summary)} on validation",
            "was": percent(default[metric]) if is_gain else None,
            "value": percent(best[metric]),
            "lines": lines,
        }
    ]
    worst = [splits["test"]["worst_group"] for splits in summary["test"].values()]
    average = [splits["test"]["average"] for splits in summary["test"].values()]
    lines = [
        f"Mean of {len(worst)} seeds: {', '.join(percent(value) for value in worst)}.",
        f"Average accuracy {_spread(average)}.",
    ]
    if summary["num_test_readings"] > 1:
        lines.append(f"Test was read for {summary['num_test_readings']} chosen trials of this folder in all.")
    name = f"Worst-{sweep_noun(summary)} accuracy on test"
    cards.append({"name": name, "was": None, "value": _spread(worst), "lines": lines})
    seconds = summary["seconds"]
    making = sum(seconds.get(name, 0.0) for name in ("preparation", "generation"))
    lines = [
        f"{duration(making)} for the first fit and the pictures, once.",
        f"{duration(seconds.get('refit', 0.0))} for the refit.",
    ]
    cards.append({"name": "Trials", "was": None, "value": duration(seconds.get("trials", 0.0)), "lines": lines})
    return cards


def _warning(summary: Mapping[str, Any]) -> str:
    validation, noun = summary["validation"], sweep_noun(summary)
    error = _points(summary["best"]["standard_error"])
    text = (
        f"Validation has {validation['images']:,} images, {validation['smallest_group']:,} in its smallest {noun}: the "
        f"best trial's worst-{noun} accuracy has a standard error of {error}. "
    )
    others = summary["num_alike"] - 1
    if others:
        text += f"{others} other complete trial{'s lie' if others > 1 else ' lies'} within one standard error of it. "
    return text + "Being the best of many on the same images, it is also an optimist's number; test is not."


def _ranking(summary: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], rows: RowIndex) -> dict[str, Any]:
    params = list(summary["best"]["params"])
    # A zero-width space after an underscore, where a long name may be broken.
    names = [
        (field.replace("_", "_\u200b"), note)
        for field, note in (parameter_name(name, rows.dataset.class_names) for name in params)
    ]
    shown = []
    for trial in trials[:SHOWN_TRIALS]:
        has_score = trial["worst_group"] is not None
        shown.append(
            {
                "number": trial["trial"],
                "is_best": trial["name"] == summary["best"]["name"],
                "is_default": summary["default"] is not None and trial["name"] == summary["default"]["name"],
                "worst": f"{100 * trial['worst_group']:.1f} ± {100 * trial['standard_error']:.1f}" if has_score else "",
                "average": f"{100 * trial['average']:.1f}" if has_score else "",
                "split": "" if trial["split_worst_group"] is None else f"{100 * trial['split_worst_group']:.1f}",
                "values": [_text(trial[name]) for name in params],
                "kept": "" if trial["kept"] is None else f"{trial['kept']:,}",
                "status": _status(trial),
            }
        )
    has_splits = any(trial["split_worst_group"] is not None for trial in trials)
    return {"columns": names, "trials": shown, "num_left_out": len(trials) - len(shown), "has_splits": has_splits}


def _status(trial: Mapping[str, Any]) -> str:
    texts = {
        "stopped": f"stopped after epoch {trial['epochs']}",
        "nothing kept": "no picture kept: pruned, or failed",
    }
    text = texts.get(trial["status"], trial["status"])
    crashed = f"; crashed {trial['crashes']} time{'s' if trial['crashes'] > 1 else ''}" if trial["crashes"] else ""
    return text + crashed + (f": {trial['error']}" if trial["error"] else "")


def _figures(
    summary: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], rows: RowIndex, space: Mapping[str, Any]
) -> dict[str, Any]:
    params, metric = list(summary["best"]["params"]), summary["metric"]
    scored = [trial for trial in trials if trial[metric] is not None]
    axes = [_axis(name, space, rows) for name in params]
    # In steps of five points, with room for the best trial's standard error.
    error = summary["best"]["standard_error"]
    low = math.floor(20 * (min(trial[metric] for trial in scored) - error)) / 20
    high = math.ceil(20 * (max(trial[metric] for trial in scored) + error)) / 20
    metric_axis = Axis(_metric_name(summary), "validation", low=max(0.0, low), high=min(1.0, high), is_share=True)
    lines = [_line(trial, params, summary) for trial in scored]
    importance = summary["importance"]
    bars = [
        {"name": name, "note": note, "svg": figures.bar(share, percent(share, 0))}
        for key, share in sorted(importance.items(), key=lambda item: -item[1])
        for name, note in [parameter_name(key, rows.dataset.class_names)]
    ]
    panels = [against(axis, metric_axis, lines, column=column) for column, axis in enumerate(axes)]
    return {"parallel": parallel_coordinates([*axes, metric_axis], lines), "importance": bars, "panels": panels}


def _axis(name: str, space: Mapping[str, Any], rows: RowIndex) -> Axis:
    field, class_name = parameter_name(name, rows.dataset.class_names)
    domain = space.get(name) or space[name.rpartition(".")[0]]
    if domain["values"] is not None:
        return Axis(field, class_name, points=tuple(str(value) for value in domain["values"]))
    return Axis(field, class_name, low=float(domain["low"]), high=float(domain["high"]))


def _line(trial: Mapping[str, Any], params: Sequence[str], summary: Mapping[str, Any]) -> TrialLine:
    role = "best" if trial["name"] == summary["best"]["name"] else "complete"
    role = role if trial["status"] == "complete" else "stopped"
    point = ", ".join(f"{name.partition('.')[2]} {_text(trial[name])}" for name in params)
    return TrialLine(
        values=(*(trial[name] for name in params), trial[summary["metric"]]),
        role=role,
        text=f"trial {trial['trial']}: {percent(trial[summary['metric']])}; {point}",
        standard_error=trial["standard_error"],
    )


def _pictures(sweep: Path, summary: Mapping[str, Any], rows: RowIndex, *, seed: int) -> dict[str, Any]:
    """Kept and pruned pictures of the best trial."""
    chosen = json.loads((sweep / "refit" / summary["best"]["name"] / "selection.json").read_text(encoding="utf-8"))
    run = sweep / "pools" / chosen["pool"]
    candidates = collect.load_candidates(run)
    assert candidates is not None
    candidates = candidates.filter(pc.is_in(candidates["key"], pa.array(chosen["keys"])))
    thresholds = PruneThresholds.model_validate(chosen["thresholds"])
    return of_candidates(run, candidates, rows, thresholds=thresholds, seed=seed)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _spread(shares: Sequence[float]) -> str:
    if len(shares) < 2:
        return percent(shares[0])
    return f"{percent(statistics.fmean(shares))} ± {100 * statistics.stdev(shares):.1f}"
