"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def print_results(summary: Mapping[str, Any]) -> None:
    """Test accuracies of every result (validation where there is no test), and what became of the pictures.

    Args:
        summary: The content of `summary.json`, or a part of it with `results`.
    """
    console = Console()
    table = Table(title="accuracy, %")
    for name in ("result", "split", "average", "worst group", "95% interval", "groups"):
        table.add_column(name, justify="left" if name in {"result", "split"} else "right", no_wrap=name != "groups")
    for name, splits in summary["results"].items():
        split = "test" if "test" in splits else next(iter(splits))
        found = splits[split]
        low, high = found["worst_group_ci"]
        groups = " / ".join(_percent(group["accuracy"]) for group in found["groups"])
        interval = f"{_percent(low)} to {_percent(high)}"
        table.add_row(name, split, _percent(found["average"]), _percent(found["worst_group"]), interval, groups)
    console.print(table)
    counts = summary.get("synthesis")
    if counts:
        pruned = ", ".join(f"{n} by {reason}" for reason, n in counts["pruned"].items()) or "none"
        console.print(
            f"pictures: {counts['planned']} planned, {counts['generated']} generated, {counts['kept']} kept, "
            f"pruned {pruned}, {counts['failed']} failed"
        )
    if summary.get("seconds"):
        total = sum(summary["seconds"].values())
        console.print(f"time: {total:.0f} s (" + ", ".join(f"{k} {v:.0f}" for k, v in summary["seconds"].items()) + ")")


def print_comparison(rows: Sequence[Mapping[str, Any]]) -> None:
    """Mean and spread of test accuracies over runs, as `raygen.report.compare` gives them."""
    table = Table(title="test accuracy over runs, %: mean ± standard deviation")
    for name in ("recipe", "result", "runs", "worst group", "average"):
        table.add_column(name, justify="left" if name in {"recipe", "result"} else "right", no_wrap=True)
    for row in rows:
        if row["split"] == "test":
            cells = [_spread(row[measure]) for measure in ("worst_group", "average")]
            table.add_row(row["recipe"], row["result"], str(row["num_runs"]), *cells)
    Console().print(table)


def _spread(measure: Mapping[str, float | None]) -> str:
    mean, std = measure["mean"], measure["std"]
    assert mean is not None
    return _percent(mean) if std is None else f"{_percent(mean)} ± {_percent(std)}"


def print_checks(checks: Sequence[tuple[str, str, bool | None, str]]) -> None:
    """What `raygen doctor` found: name, value, whether it is well (None: with limits), advice."""
    table = Table(show_header=False)
    for name, value, ok, advice in checks:
        table.add_row({True: "[green]ok[/]", False: "[red]no[/]", None: "[yellow]--[/]"}[ok], name, value, advice)
    Console().print(table)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
