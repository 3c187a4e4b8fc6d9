"""Which pictures each fit adds: the kept candidates, all of them, or what a control has in their place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from raygen import synthesis
from raygen.errors import DataError
from raygen.fits.candidate_rows import CandidateRows, candidate_rows, counterfactual
from raygen.fits.extra_pictures import ExtraKind, ExtraRows
from raygen.fits.training_objects import classes_with_objects
from raygen.pruners import PruneThresholds, nothing_kept, verdicts
from raygen.run.steps import Run
from raygen.storage.parts import CANDIDATE_SCORES, read_parts
from raygen.storage.writing import write_json
from raygen.synthesis.controls import FIRST_KINDS, LATER_KINDS, ControlKind


def added_pictures(run: Run) -> Mapping[str, ExtraRows | None]:
    """The fits after the first by name, each with the pictures that it adds: the recipe's own, and those beside it.

    Controls that came later than others are not among them: see `later_controls`.

    Raises:
        DataError: No picture is kept.
    """
    config, paper = run.config, run.config.synthesis
    if paper is None or not paper.plans():
        return {} if config.recipe == "erm" else {config.recipe: None}
    table, limits = _judged(run)
    (run.folder.path / "fit").mkdir(exist_ok=True)
    write_json(run.folder.path / "fit" / "thresholds.json", limits.model_dump(mode="json"))
    kept = _keys(table, limits)
    if not kept:
        raise DataError(nothing_kept(table, verdicts(table, limits)[1]))
    added: dict[str, ExtraRows | None] = {config.recipe: _rows(run, "generated", kept)}
    if config.unpruned:
        added[f"{config.recipe}_unpruned"] = _rows(run, "generated", _keys(table, PruneThresholds()))
    return added | {f"control_{kind}": _rows(run, kind, kept) for kind in config.controls if kind in FIRST_KINDS}


def later_controls(run: Run) -> Mapping[str, ExtraRows]:
    """Fits of the controls that came later than others, by name, each with its pictures.

    "paste", "shuffled" and "reweight" beside the recipe, and, where all generated pictures are fitted on too and some
    were pruned, every control again with as many rows as those, as "unpruned_control_<kind>". What the dataset does not
    allow is left out, and a line says so.
    """
    config, paper = run.config, run.config.synthesis
    if paper is None or not paper.plans():
        return {}
    table, limits = _judged(run)
    kept, every = _keys(table, limits), _keys(table, PruneThresholds())
    sets: list[tuple[str, Sequence[ControlKind], tuple[str, ...]]] = [("", LATER_KINDS, kept)]
    if config.unpruned and every != kept:
        sets.append(("unpruned_", (*FIRST_KINDS, *LATER_KINDS), every))
    found = {}
    for prefix, kinds, keys in sets:
        wanted = [kind for kind in config.controls if kind in kinds]
        rows = _candidates(run, keys) if wanted else None
        for kind in wanted:
            assert rows is not None
            if reason := _cannot(run, kind, rows):
                run.say(f"{prefix}control_{kind}: left out, {reason}")
            else:
                found[f"{prefix}control_{kind}"] = _rows(run, kind, keys)
    return found


@dataclass(frozen=True)
class _Rows:
    """All candidates, and those of a fit."""

    every: CandidateRows
    own: CandidateRows


def _candidates(run: Run, keys: Sequence[str]) -> _Rows:
    made, wanted = run.done["candidates"], {*keys}
    every = candidate_rows(Path(made.folder), made.digest)
    return _Rows(every, every.take(np.flatnonzero([key in wanted for key in every.keys])))


def _cannot(run: Run, kind: ControlKind, rows: _Rows) -> str | None:
    """Why a control cannot be made; None where it can."""
    targets_M, paper = rows.own.table["target_label"].to_numpy(), run.config.synthesis
    assert paper is not None
    names = run.index.dataset.class_names
    if kind == "shuffled" and len(np.unique(targets_M)) == 1:
        return f"the pictures are all of class '{names[targets_M[0]]}': there are no labels to exchange"
    if kind == "reweight":
        train = run.index.split("train")
        if not run.index.dataset.attribute_names or train["attribute"].null_count:
            return "the groups of the training images are not known"
    if kind == "paste":
        growth_px = paper.object_growth_px()
        has = classes_with_objects(run.index, rows.every, grown_px=growth_px, seed=run.config.seed_of_fits)
        needed = {int(label) for label in targets_M[~counterfactual(rows.own.table)]}
        if missing := sorted(needed - has):
            return f"no object of class '{names[missing[0]]}' is known: the dataset has no masks of it, the masker none"
        if len(has) < 2 and counterfactual(rows.own.table).any():
            return "objects of one class only are known"
    return None


def _rows(run: Run, kind: ExtraKind, keys: tuple[str, ...]) -> ExtraRows:
    made, paper = run.done["candidates"], run.config.synthesis
    assert paper is not None
    grown_px = paper.object_growth_px() if kind == "paste" else None
    return ExtraRows(kind, keys, str(made.folder.resolve()), made.digest, grown_px)


def _judged(run: Run) -> tuple[pa.Table, PruneThresholds]:
    """Scores of all candidates, and what they must reach."""
    paper = run.config.synthesis
    assert paper is not None
    table = read_parts(run.done["candidates"].folder, columns=CANDIDATE_SCORES)
    scores = read_parts(run.done["scores"].folder, columns=paper.score_columns())
    return table, synthesis.of(paper).thresholds(paper, scores, table)


def _keys(table: pa.Table, limits: PruneThresholds) -> tuple[str, ...]:
    kept_N, _ = verdicts(table, limits)
    return tuple(key for key, kept in zip(table["key"].to_pylist(), kept_N, strict=True) if kept)
