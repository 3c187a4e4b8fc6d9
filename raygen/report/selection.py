"""What each fit noted: what it was selected by on validation, and how much of its loss the added pictures held."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raygen.storage.run_folder import read_manifest


def selected_by(run: Path, names: Iterable[str]) -> dict[str, str | None]:
    """What epochs and settings were selected by, by result; None: nothing was. Fits of before said nothing.

    Raises:
        RunFolderError: A manifest is damaged.
    """
    return _noted(run, names, "selected_by")


def generated_share(run: Path, names: Iterable[str]) -> dict[str, float]:
    """The share of the loss that each result's added pictures held, in [0, 1]; fits of before, and heads, said nothing.

    Raises:
        RunFolderError: A manifest is damaged.
    """
    return _noted(run, names, "generated_share")


def _noted(run: Path, names: Iterable[str], what: str) -> dict[str, Any]:
    """What fits noted beside their counts, by result."""
    found = {}
    for name in names:
        manifest = read_manifest(run / "erm") if name == "erm" else read_manifest(run / "fit" / name)
        counts = {} if manifest is None else manifest.get("counts", {})
        if what in counts:
            found[name] = counts[what]
    return found


def selection_line(summary: Mapping[str, Any]) -> str:
    """Such as "Selected on validation: jtt by worst group. As fitted: erm."; empty where nothing is known."""
    by_words: dict[str | None, list[str]] = {}
    for name, words in (summary.get("selected_by") or {}).items():
        by_words.setdefault(words, []).append(name)
    as_fitted = by_words.pop(None, [])
    selected = "; ".join(f"{', '.join(names)} by {words}" for words, names in by_words.items())
    sentences = [f"Selected on validation: {selected}."] if selected else []
    return " ".join([*sentences, *([f"As fitted: {', '.join(as_fitted)}."] if as_fitted else [])])
