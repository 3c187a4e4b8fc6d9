"""Trials in order: what is printed, what `sweep.parquet` holds, and which one is chosen."""

# N validation images

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq

from raygen.errors import StageError
from raygen.storage.writing import atomic
from tune.domains import Domain
from tune.records import Record
from tune.scoring import SMALL_GROUP, Score, score, standard_error
from tune.spaces import loop_of
from tune.trial import SharedRows, Task, groups
from tune.trials import distribution

# Only a fit that had all its epochs is what `raygen run` would give, so the others are ranked below.
_ORDER = ("complete", "stopped", "nothing kept", "failed", "unfinished")


def rank(task: Task, records: Sequence[Record], rows: SharedRows) -> list[dict[str, Any]]:
    """One plain row a trial, the best first: complete ones by the metric, then those that were stopped, then others."""
    ranked = []
    for number, record in enumerate(records, start=1):
        found = score_of(task, record, rows)
        key = (0.0, 0.0) if found is None else found.key(task.sweep.search.metric)
        row = _row(number, record, found)
        ranked.append(((_ORDER.index(record.status), -key[0], -key[1], number), row))
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


def score_of(task: Task, record: Record, rows: SharedRows) -> Score | None:
    """A trial's score after the epochs that it had; None without any."""
    if not record.progress.epochs:
        return None
    return score(
        record.progress.correct_EN(len(rows.val)),
        groups(rows.val),
        select=loop_of(task.config_of(record.progress.params)).select,
        halves_RN=rows.halves_RN,
    )


def chosen(ranked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The best trial that is complete.

    Raises:
        StageError: None is.
    """
    if not ranked or ranked[0]["status"] != "complete":
        reasons = sorted({str(row["error"] or row["status"]) for row in ranked})
        raise StageError(f"none of {len(ranked)} trials was completed: " + "; ".join(reasons[:5]))
    return dict(ranked[0])


def num_alike(ranked: Sequence[Mapping[str, Any]]) -> int:
    """Complete trials whose worst group is within one standard error of the best trial's, itself included."""
    complete = [row for row in ranked if row["status"] == "complete"]
    best = complete[0]
    return sum(row["worst_group"] >= best["worst_group"] - best["standard_error"] for row in complete)


def write_ranking(ranked: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes the rows as Parquet, one column a parameter."""
    names = list(dict.fromkeys(name for row in ranked for name in row if name != "params"))
    params = list(dict.fromkeys(name for row in ranked for name in row["params"]))
    columns = {name: [row.get(name) for row in ranked] for name in names}
    columns |= {name: _one_type([row["params"].get(name) for row in ranked]) for name in params}
    with atomic(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def importances(
    ranked: Sequence[Mapping[str, Any]], domains: Mapping[str, Domain], *, metric: str, seed: int
) -> dict[str, float]:
    """Share of each parameter in the variance of the metric, by functional ANOVA (Hutter et al. 2014), summing to 1.

    A trial that was stopped counts with what it had reached. Empty where fewer than two trials differ.
    """
    study = optuna.create_study(direction="maximize")
    distributions = {name: distribution(domain) for name, domain in domains.items()}
    for row in ranked:
        if row[metric] is not None and set(row["params"]) == set(domains):
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(row["params"]), distributions=distributions, value=float(row[metric])
                )
            )
    values = [trial.value for trial in study.trials]
    if len(set(values)) < 2 or len({str(trial.params) for trial in study.trials}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed % 2**32)
    return {
        name: float(share)
        for name, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def warning_of_small_validation(group_N: np.ndarray, *, noun: str = "group") -> str | None:
    """What to say of a validation split whose smallest group decides by a few images; None where it does not.

    Args:
        group_N: Group of each image, (N,) int; of the class where there are no attributes.
        noun: Which of the two: "group" or "class".
    """
    num = int(np.unique(group_N, return_counts=True)[1].min())
    if num >= SMALL_GROUP:
        return None
    error = 100 * standard_error(num // 2, num)
    return (
        f"validation has {len(group_N)} images, {num} in its smallest {noun}: a worst-{noun} accuracy near one half "
        f"has a standard error of {error:.0f} points, and trials that are closer cannot be told apart. "
        "--set tune.validation_splits=20 chooses epochs on one random half and measures on the other"
    )


def _row(number: int, record: Record, found: Score | None) -> dict[str, Any]:
    progress, outcome = record.progress, record.outcome
    row: dict[str, Any] = {"trial": number, "name": record.name, "status": record.status}
    for name in ("worst_group", "standard_error", "average", "split_worst_group", "split_average", "split_deviation"):
        row[name] = None if found is None else getattr(found, name)
    return row | {
        "epoch": None if found is None else found.epoch + 1,
        "epochs": len(progress.epochs),
        "planned": progress.planned,
        "kept": progress.kept,
        "pool": progress.pool,
        "crashes": 0 if outcome is None else outcome.crashes,
        "error": None if outcome is None else outcome.error,
        "seconds": round(progress.seconds, 3),
        "params": dict(progress.params),
    }


def _one_type(values: list[Any]) -> list[Any]:
    """Values of one column: numbers of two types as floats, anything else that is mixed as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) < 2:
        return values
    kind: Any = float if kinds == {int, float} else str
    return [None if value is None else kind(value) for value in values]
