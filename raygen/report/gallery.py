"""What the page says of candidates and heat maps: the tiles of the gallery, and the section on pruning."""

# N candidates

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raygen.datasets.rows import RowIndex
from raygen.pruners import PruneThresholds, verdicts
from raygen.report import collect, figures, pictures
from raygen.report.figures import percent
from raygen.report.words import PSI, REASONS, RHO, painter_note
from raygen.schema import ROLE

# How many candidates of each verdict are shown; with 64 px pictures the page stays near 1 MB.
SHOWN = {"kept": 18, "pruned": 12, "failed": 6}
# Directions beyond this many (a dataset of many classes) get no panel of their own.
MAX_PANELS = 6
MAX_ERRORS = 5


def synthesis(run: Path, rows: RowIndex, *, seed: int) -> dict[str, Any]:
    """Gallery and pruning; empty for a run that generated nothing."""
    candidates = collect.load_candidates(run)
    if candidates is None or not candidates.num_rows:
        return {"tiles": [], "pruning": None, "num_candidates": 0, "shown_counts": {}, **_painters([])}
    return of_candidates(run, candidates, rows, thresholds=collect.load_thresholds(run), seed=seed)


def of_candidates(
    run: Path, candidates: pa.Table, rows: RowIndex, *, thresholds: PruneThresholds, seed: int
) -> dict[str, Any]:
    """Gallery and pruning of some of a run's candidates, judged by thresholds of their own.

    Args:
        run: Folder above `candidates/`.
        candidates: Rows as `collect.load_candidates` gives them.
        rows: The dataset.
        thresholds: What a candidate must reach.
        seed: Moves the evenly spaced places at which pictures are picked.
    """
    _, reasons = verdicts(candidates, thresholds)
    tiles = _tiles(run, candidates, rows, reasons=reasons, thresholds=thresholds, seed=seed)
    return {
        "tiles": tiles,
        "num_candidates": candidates.num_rows,
        "shown_counts": Counter(tile["verdict"] for tile in tiles),
        "pruning": _pruning(candidates, rows, reasons=reasons, thresholds=thresholds),
        **_painters(sorted(set(candidates["model_id"].to_pylist()))),
    }


def _painters(model_ids: list[str]) -> dict[str, Any]:
    return {"model_ids": model_ids, "painter_note": painter_note(model_ids)}


def _verdict(reason: str | None) -> str:
    return "kept" if reason is None else "failed" if reason == "failed" else "pruned"


def _tiles(
    run: Path,
    candidates: pa.Table,
    rows: RowIndex,
    *,
    reasons: Sequence[str | None],
    thresholds: PruneThresholds,
    seed: int,
) -> list[dict[str, Any]]:
    order = [candidates[name].to_pylist() for name in ("target_label", "source_label", "sample", "key")]
    chosen: list[int] = []
    for verdict, count in SHOWN.items():
        # By reason, direction and sample first: evenly spaced places then meet all of them.
        of_verdict = [i for i, reason in enumerate(reasons) if _verdict(reason) == verdict]
        of_verdict.sort(key=lambda i: (reasons[i] or "", *(column[i] for column in order)))
        chosen += [of_verdict[i] for i in pictures.choose(len(of_verdict), count, seed=seed)]
    table = candidates.take(chosen)
    shown = pictures.candidate_pictures(run, table, rows)
    return [
        _tile(row, reasons[i], picture, rows, thresholds)
        for i, row, picture in zip(chosen, table.to_pylist(), shown, strict=True)
    ]


def _tile(
    row: Mapping[str, Any],
    reason: str | None,
    shown: pictures.CandidatePictures,
    rows: RowIndex,
    thresholds: PruneThresholds,
) -> dict[str, Any]:
    names = rows.dataset.class_names
    text = ""
    if reason == "failed":
        text = row["error"] or "no reason given"
    elif reason is not None:
        text = f"Pruned: {REASONS.get(reason, reason)}"
    return {
        "key": row["key"],
        "verdict": _verdict(reason),
        "reason": text,
        "source_name": names[row["source_label"]],
        "alt": _described(row.get("role"), names[row["target_label"]]),
        "direction": _direction(row["source_label"], row["target_label"], row.get("role"), names),
        # What was asked for, or, where no model was asked, what made the picture.
        "prompt": row["prompt"] or row["model_id"],
        "repaint": "" if row["repaint_fraction"] is None else percent(row["repaint_fraction"], 0),
        "scores": _scores(row, thresholds),
        "pictures": shown,
    }


def _direction(source: int, target: int, role: str | None, names: Sequence[str]) -> str:
    """What became of a source: another class, or what a picture that keeps its class is fitted as."""
    if role == "counterfactual":
        return f"without the object: not {names[target]}"
    if role == "factual":
        return f"{names[target]} before another background"
    return f"{names[source]}, label kept" if source == target else f"{names[source]} → {names[target]}"


def _described(role: str | None, name: str) -> str:
    """A generated picture for those who do not see it."""
    return f"picture whose {name} is replaced" if role == "counterfactual" else f"generated picture of a {name}"


def _scores(row: Mapping[str, Any], thresholds: PruneThresholds) -> str:
    """Both scores beside their thresholds, such as "ψ 0.120 < 0.871 ✓ · ρ 0.31 > 1.00 ✗"."""
    parts = []
    for sign, score, limit in (
        ("<", row["source_probability"], thresholds.source_probability_below.get(row["source_label"])),
        (">", row["attribution_inside"], thresholds.attribution_above.get(row["target_label"])),
    ):
        if score is None:
            continue
        symbol, digits = (PSI, 3) if sign == "<" else (RHO, 2)
        text = f"{symbol} {score:.{digits}f}"
        if limit is not None:
            passed = score < limit if sign == "<" else score > limit
            text += f" {sign} {limit:.{digits}f} {'✓' if passed else '✗'}"
        parts.append(text)
    return " · ".join(parts).replace(" -", " \N{MINUS SIGN}")


def _pruning(
    candidates: pa.Table, rows: RowIndex, *, reasons: Sequence[str | None], thresholds: PruneThresholds
) -> dict[str, Any]:
    names = rows.dataset.class_names
    has_roles = ROLE.name in candidates.column_names
    roles = candidates[ROLE.name].to_pylist() if has_roles else [None] * candidates.num_rows
    labels = (candidates[name].to_pylist() for name in ("source_label", "target_label"))
    pairs = list(zip(*labels, roles, strict=True))
    present = [reason for reason in REASONS if reason in reasons]
    kinds: list[tuple[str, str, str | None]] = [("kept", "kept", None)]
    kinds += [(f"pruned pruned-{i}", REASONS[reason], reason) for i, reason in enumerate(present)]
    kinds += [("failed", "failed", "failed")] if "failed" in reasons else []
    bars, panels = [], []
    for pair in sorted(set(pairs), key=lambda pair: (pair[0], pair[1], pair[2] or "")):
        inside_N = np.array([p == pair for p in pairs])
        tally = Counter(reason for reason, inside in zip(reasons, inside_N, strict=True) if inside)
        counts = [tally[reason] for _, _, reason in kinds]
        svg = figures.stacked_bar([(role, name, tally[reason]) for role, name, reason in kinds])
        direction = _direction(pair[0], pair[1], pair[2], names)
        bars.append({"name": direction, "num": int(inside_N.sum()), "counts": counts, "svg": svg})
        panel = _panel(candidates.filter(pa.array(inside_N)), direction, pair[:2], thresholds)
        if panel is not None:
            panels.append({"name": direction, "svg": figures.score_panel(panel)})
    errors = Counter(
        e for e, reason in zip(candidates["error"].to_pylist(), reasons, strict=True) if reason == "failed"
    )
    num_kept, num_ok = list(reasons).count(None), len(reasons) - list(reasons).count("failed")
    is_off = not thresholds.source_probability_below and not thresholds.attribution_above
    share = (
        f"{num_kept:,} of {num_ok:,} generated pictures ({percent(num_kept / num_ok, 0)}) are kept" if num_ok else ""
    )
    return {
        "lead": f"{share or 'No picture was generated'}. " + ("This run does not prune." if is_off else ""),
        "key": [{"role": role, "name": name} for role, name, _ in kinds],
        "bars": bars,
        "panels": panels[:MAX_PANELS],
        "masks": _masks(candidates),
        "errors": [(error or "no reason given", count) for error, count in errors.most_common(MAX_ERRORS)],
    }


def _masks(candidates: pa.Table) -> str:
    """A line on how well the masker found the objects; empty where the dataset has no masks to compare with."""
    mean = collect.mask_iou(candidates)
    if mean is None:
        return ""
    num = candidates.num_rows - candidates["object_iou"].null_count
    return f"Object masks: mean IoU {mean:.2f} with the dataset's own, before they are grown ({num:,} candidates)."


def _panel(part: pa.Table, title: str, pair: tuple[int, int], thresholds: PruneThresholds) -> figures.ScorePanel | None:
    """Points of one direction; None where no candidate has both scores."""
    part = part.filter(pc.and_(part["source_probability"].is_valid(), part["attribution_inside"].is_valid()))
    if not part.num_rows:
        return None
    kept_N, _ = verdicts(part, thresholds)
    return figures.ScorePanel(
        title=title,
        source_probability_N=part["source_probability"].to_numpy(),
        attribution_inside_N=part["attribution_inside"].to_numpy(),
        kept_N=kept_N,
        source_probability_below=thresholds.source_probability_below.get(pair[0]),
        attribution_above=thresholds.attribution_above.get(pair[1]),
    )
