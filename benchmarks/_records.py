"""What studies keep of a run: a small file, which tables are made of and which outlives the run's folder.

Run folders are large and stay on the machine; records are small, are kept in `benchmarks/measured/`, and so let a study
go on elsewhere. A record is of one run with the settings that it names: with others it is refused, not taken.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _costs import costs
from pydantic import BaseModel, ConfigDict

from raygen.storage.parts import read_parts
from raygen.storage.writing import write_text

# Steps that are the same for all recipes, or only look.
SHARED = {"data", "erm", "evaluation", "measures"}


class Plain(BaseModel):
    """Fields that must be known."""

    model_config = ConfigDict(extra="forbid")


class Group(Plain):
    """Test images of one label and attribute: how many, and the share that is right."""

    label: int
    attribute: int | None
    n: int
    accuracy: float


class Result(Plain):
    """A classifier on test; shares, not percent.

    Attributes:
        worst_group: The worst accuracy of a group.
        group_mean: The unweighted mean over groups.
        average: Accuracy over all images.
        groups: Each group's.
        saliency_aupr: Of the input gradient against the object's mask, where there are masks.
        usual: Accuracy before the backgrounds that are the commonest of each class in training.
        flipped: The same before all others; None as `usual` is, where attributes are not known.
        cpu_s: CPU seconds of the recipe's own steps beyond ERM.
        gpu_s: GPU seconds of them.
    """

    worst_group: float
    group_mean: float
    average: float
    groups: list[Group]
    saliency_aupr: float | None = None
    usual: float | None = None
    flipped: float | None = None
    cpu_s: float = 0.0
    gpu_s: float = 0.0


class Record(Plain):
    """One run.

    Attributes:
        dataset: Its name.
        results: By name: "erm", the recipe, its controls.
        generated: Pictures made; None where none are to be.
        kept: Of these.
        painted_by: Models or fills that made them.
    """

    dataset: str
    results: dict[str, Result]
    generated: int | None = None
    kept: int | None = None
    painted_by: list[str] = []


def add_arguments(parser: argparse.ArgumentParser, *, out: str, first: int, seeds: int) -> None:
    """What studies have in common: seeds, folders, overrides, and whether anything may be run."""
    parser.add_argument("--out", type=Path, default=Path("runs", out), help=f"run folders; default: runs/{out}")
    parser.add_argument("--first", type=int, default=first, help=f"the first seed; default: {first}")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"how many; default: {seeds}")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="override a field of every run")
    parser.add_argument("--records", type=Path, help="where each run's numbers are kept; default: OUT/records")
    parser.add_argument("--recorded", action="store_true", help="run nothing: the table of what is recorded")


def seeds_of(arguments: argparse.Namespace) -> range:
    """The seeds that are asked for."""
    return range(arguments.first, arguments.first + arguments.seeds)


def records_of(arguments: argparse.Namespace) -> Path:
    """The folder of records."""
    return Path(arguments.records or arguments.out / "records")


def kept(
    path: Path, settings: Sequence[str], make: Callable[[], dict[str, Any] | None], *, recorded: bool = False
) -> dict[str, Any] | None:
    """The values that a file holds beside the settings that they were made with; made and written if there is no file.

    Args:
        path: The file.
        settings: That it must have been made with.
        make: Gives the values, or None where there cannot be any, of which no file is written.
        recorded: Make nothing; None where there is no file.

    Raises:
        SystemExit: The file's settings are others.
    """
    if not path.is_file():
        values = None if recorded else make()
        if values is None:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"settings": list(settings), **values}, indent=1) + "\n")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if (made_with := found.pop("settings")) != list(settings):
        raise SystemExit(f"{path} was made with {made_with}, not {list(settings)}: give other --records")
    return found


def recorded_run(
    path: Path, settings: Sequence[str], make: Callable[[], Record | None], *, recorded: bool = False
) -> Record | None:
    """As `kept`, of a run."""

    def values() -> dict[str, Any] | None:
        made = make()
        return None if made is None else made.model_dump(exclude_defaults=True)

    found = kept(path, settings, values, recorded=recorded)
    return None if found is None else Record.model_validate(found)


def record(folder: Path, summary: Mapping[str, Any]) -> Record:
    """What is kept of a finished run."""
    synthesis = summary["synthesis"] or {}
    return Record(
        dataset=summary["dataset"],
        results={name: _result(folder, name, entry["test"]) for name, entry in summary["results"].items()},
        generated=synthesis.get("generated"),
        kept=synthesis.get("kept"),
        painted_by=_painters(folder),
    )


def _result(folder: Path, name: str, test: Mapping[str, Any]) -> Result:
    groups = [Group.model_validate({field: group[field] for field in Group.model_fields}) for group in test["groups"]]
    usual, flipped = _sides(folder, groups) or (None, None)
    measure = test.get("measures", {}).get("saliency_aupr")
    cpu_s, gpu_s = _cost(folder, name)
    return Result(
        worst_group=test["worst_group"],
        group_mean=test["group_mean"],
        average=test["average"],
        groups=groups,
        saliency_aupr=None if measure is None else measure["value"],
        usual=usual,
        flipped=flipped,
        cpu_s=cpu_s,
        gpu_s=gpu_s,
    )


def _sides(folder: Path, groups: Sequence[Group]) -> tuple[float, float] | None:
    """Accuracy before the backgrounds that are the commonest of each class in training, and before others."""
    rows = read_parts(folder / "data", columns=["label", "attribute", "split"]).to_pylist()
    counts = Counter((row["label"], row["attribute"]) for row in rows if row["split"] == "train")
    if any(attribute is None for _, attribute in counts) or any(group.attribute is None for group in groups):
        return None
    usual = {place for place in counts if counts[place] == max(counts[p] for p in counts if p[0] == place[0])}
    sides = []
    for is_usual in (True, False):
        own = [group for group in groups if ((group.label, group.attribute) in usual) == is_usual]
        if not own:
            return None
        sides.append(float(np.average([g.accuracy for g in own], weights=[g.n for g in own])))
    return sides[0], sides[1]


def _cost(folder: Path, name: str) -> tuple[float, float]:
    """CPU and GPU seconds of the steps that a result has beyond ERM: its own, not those of controls."""
    if name == "erm":
        return 0.0, 0.0
    found = costs(folder)
    others = {f"fit/{path.parent.name}" for path in folder.glob("fit/*/manifest.json")} - {f"fit/{name}"}
    own = [step for step in found if step not in SHARED | others]
    cpu_s, gpu_s = (sum(found[step][unit] for step in own) for unit in ("cpu_s", "gpu_s"))
    return round(cpu_s, 1), round(gpu_s, 1)


def _painters(folder: Path) -> list[str]:
    """What painted the candidates of a run."""
    if not (folder / "candidates" / "manifest.json").is_file():
        return []
    return sorted(set(read_parts(folder / "candidates", columns=["model_id"])["model_id"].to_pylist()))
