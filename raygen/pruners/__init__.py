"""Pruners: which generated pictures are kept. Scores are stored; verdicts are derived, never stored."""

# N candidates

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from raygen.config import Strict
from raygen.errors import DataError

# Reasons that a message lists.
COMMONEST = 5


class PruneThresholds(Strict):
    """Thresholds of one fit; an empty mapping switches its test off.

    Attributes:
        source_probability_below: Psi per source label: keep a picture only if psi is below it.
        attribution_above: P per target label: keep a picture only if rho is above it, in logits.
    """

    source_probability_below: dict[int, float] = Field(default_factory=dict)
    attribution_above: dict[int, float] = Field(default_factory=dict)


def verdicts(candidates: pa.Table, thresholds: PruneThresholds) -> tuple[np.ndarray, list[str | None]]:
    """Which candidates are kept, and why the others are not.

    DBB (arXiv 2503.17226), algorithm 2: keep if psi < Psi[source] and rho > P[target], both strictly.

    Args:
        candidates: Columns status, source_label, target_label, source_probability, attribution_inside.
        thresholds: Psi and P.

    Returns:
        kept, (N,) bool, and a reason per candidate: None where kept, else "failed", "source_probability",
        "attribution_inside" or "source_probability+attribution_inside".

    Raises:
        DataError: A test that is on has no threshold for a label that occurs, or an ok candidate has no
            score.
    """
    ok_N = pc.fill_null(pc.equal(candidates["status"], "ok"), False).to_numpy()
    psi, rho = thresholds.source_probability_below, thresholds.attribution_above
    like_source_N = ok_N & ~_passes(candidates, ok_N, "source_probability", psi, by="source_label", sign=-1)
    unattributed_N = ok_N & ~_passes(candidates, ok_N, "attribution_inside", rho, by="target_label", sign=1)
    names = (None, "source_probability", "attribution_inside", "source_probability+attribution_inside", "failed")
    reason_N = np.where(ok_N, like_source_N + 2 * unattributed_N, len(names) - 1)
    # Of Python's own strings, each of which is there once: reasons of a million candidates are in memory at a time.
    return reason_N == 0, [names[reason] for reason in reason_N.tolist()]


def nothing_kept(candidates: pa.Table, reasons: Sequence[str | None]) -> str:
    """What became of candidates of which none is kept, for messages.

    Args:
        candidates: Columns status and error.
        reasons: See `verdicts`.
    """
    num_failed, num = sum(reason == "failed" for reason in reasons), len(reasons)
    errors = Counter(candidates.filter(pc.equal(candidates["status"], "failed"))["error"].to_pylist())
    listed = "\n".join(f"  {n} x {error}" for error, n in errors.most_common(COMMONEST))
    if num_failed == num:
        return f"all {num} pictures to generate failed, so there are none to fit with. Commonest reasons:\n{listed}"
    pruned = Counter(reason for reason in reasons if reason not in (None, "failed"))
    tests = ", ".join(f"{n} by {test}" for test, n in pruned.most_common())
    text = (
        f"pruning left none of {num - num_failed} generated pictures ({tests}); loosen synthesis.attribution_threshold "
        "or synthesis.source_probability_test, or switch synthesis.prune off"
    )
    return text if not num_failed else f"{text}. {num_failed} more of {num} failed; commonest reasons:\n{listed}"


def _passes(
    candidates: pa.Table, ok_N: np.ndarray, column: str, limits: Mapping[int, float], *, by: str, sign: int
) -> np.ndarray:
    """Whether sign * score > sign * limit, (N,) bool; True where the test is off or the row is not ok."""
    passes_N = np.ones(len(ok_N), dtype=bool)
    if not limits:
        return passes_N
    if (missing_N := ok_N & candidates[column].is_null().to_numpy()).any():
        i = int(np.argmax(missing_N))
        raise DataError(f"candidate {i} is ok but has no {column}; score the candidates before pruning by it")
    # Compared as float64: numpy would round a limit to the float32 of the scores.
    label_N, score_N = candidates[by].to_numpy(), candidates[column].to_numpy().astype(np.float64)
    if (unknown_C := np.setdiff1d(label_N[ok_N], [*limits])).size:
        raise DataError(f"no {column} threshold for {by} {unknown_C[0]}; there are thresholds for {sorted(limits)}")
    for label, limit in limits.items():
        of_label_N = label_N == label
        passes_N[of_label_N] = sign * score_N[of_label_N] > sign * limit
    passes_N[~ok_N] = True
    return passes_N
