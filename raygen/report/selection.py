"""What each result was selected by on validation, as its fit noted it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raygen.storage.run_folder import read_manifest


def selected_by(run: Path, names: Iterable[str]) -> dict[str, str | None]:
    """What epochs and settings were selected by, by result; None: nothing was. Fits of before said nothing.

    Raises:
        RunFolderError: A manifest is damaged.
    """
    found = {}
    for name in names:
        manifest = read_manifest(run / "erm") if name == "erm" else read_manifest(run / "fit" / name)
        counts = {} if manifest is None else manifest.get("counts", {})
        if "selected_by" in counts:
            found[name] = counts["selected_by"]
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
